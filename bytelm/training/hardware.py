"""The peak FLOP/s of the hardware, and a description of the machine."""

import functools
import os
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class _Rates(NamedTuple):
    """Vendor's dense peaks of one device in TFLOP/s, without sparsity.

    `float32` is for JAX's default matmul precision: a bfloat16 pass on TPU, TF32 on GPU.
    """

    bfloat16: float
    float32: float


_KNOWN = {
    "TPU v3": _Rates(61.5, 61.5),  # a device is one of the chip's two cores
    "TPU v4": _Rates(275, 275),
    "TPU v5 lite": _Rates(197, 197),
    "TPU v5e": _Rates(197, 197),
    "TPU v5": _Rates(459, 459),
    "TPU v5p": _Rates(459, 459),
    "TPU v6 lite": _Rates(918, 918),
    "TPU v6e": _Rates(918, 918),
    "TPU7x": _Rates(1153.5, 1153.5),  # a device is one of the chip's two cores
    "NVIDIA A100": _Rates(312, 156),
    "NVIDIA L4": _Rates(121, 60),
    "NVIDIA L40S": _Rates(362, 183),
    "NVIDIA H100": _Rates(989, 494),
    "NVIDIA H100 PCIe": _Rates(756, 378),
    "NVIDIA H100 NVL": _Rates(835, 417),
    "NVIDIA GH200": _Rates(989, 494),
    "NVIDIA H200": _Rates(989, 494),
    "NVIDIA H200 NVL": _Rates(835, 417),
    "NVIDIA B200": _Rates(2250, 1125),
    "NVIDIA GB200": _Rates(2500, 1250),
}
"""By the first words of JAX's `device_kind`; the longest match holds. TPU figures from Google
Cloud's system architecture pages, GPU figures from NVIDIA's data sheets."""

_LESSER = {"lite", "MIG"}
"""Words in the name of a smaller chip, or of a slice of a GPU, with a lower peak."""

_MEASURING_SECONDS = 0.3


def peak_flops(dtype: DTypeLike) -> float:
    """The peak FLOP/s of one local device for matrix multiplications on inputs of `dtype`.

    It is the vendor's if the table has it, and otherwise measured once per process in about half a
    second. A CPU's is that of all cores of this process, divided by the number of its devices.
    """
    return _peak_flops(jnp.dtype(dtype).name)


@functools.cache
def _peak_flops(dtype: str) -> float:
    device = jax.local_devices()[0]
    rate = getattr(_known_rates(device.device_kind), dtype, None)
    if rate is not None:
        return 1e12 * float(rate)
    if device.platform == "cpu":
        return _measure(dtype, size=1024) / jax.local_device_count()
    return _measure(dtype, size=8192)


def _known_rates(device_kind: str) -> _Rates | None:
    # "NVIDIA A100-SXM4-80GB" has hyphens where other names have spaces.
    words = device_kind.replace("-", " ").split()
    for count in range(len(words), 0, -1):
        rates = _KNOWN.get(" ".join(words[:count]))
        if rates is not None:
            return None if _LESSER.intersection(words[count:]) else rates
    return None


def _measure(dtype: str, size: int) -> float:
    """FLOP/s of the fastest of several products of two matrices `[size, size]`.

    A multiplication and an addition count as two.
    """
    matrix = jnp.ones((size, size), dtype)
    # Models sum in float32 too, and only then a CPU uses its bfloat16 units.
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    multiply = jax.jit(product).lower(matrix, matrix).compile()
    seconds: list[float] = []
    end = time.perf_counter() + _MEASURING_SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def describe_machine() -> str:
    """Devices and versions, such as `2 cores of Intel(R) Xeon(R), JAX 0.10.2, Python 3.11.4`."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        # Only Linux has the cores that this process may use.
        linux = sys.platform == "linux"
        cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count()
        hardware = f"{cores} cores of {_cpu_model()}"
    else:
        hardware = f"{jax.device_count()} x {device.device_kind}"
    return f"{hardware}, JAX {jax.__version__}, Python {platform.python_version()}"


def _cpu_model() -> str:
    """The processor's name on Linux if known, and otherwise its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
