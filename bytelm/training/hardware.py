"""The figures of known devices, the peak FLOP/s of this one, and a description of the machine."""

import functools
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class Chip(NamedTuple):
    """Vendor's figures of one device: dense peaks without sparsity, and sizes in powers of ten.

    `float32` is for JAX's default matmul precision: a bfloat16 pass on TPU, TF32 on GPU. What is 0
    is not known.
    """

    bfloat16: float  # TFLOP/s
    float32: float  # TFLOP/s
    memory: float = 0.0  # GB
    bandwidth: float = 0.0  # GB/s, of the memory
    links: float = 0.0  # GB/s that the device sends to its neighbours, all links together
    node: int = 0  # devices that these links join; 0 for all
    network: float = 0.0  # GB/s that it sends to other nodes


_KNOWN = {
    "TPU v3": Chip(61.5, 61.5, 17.2, 450),  # a device is one of the chip's two cores
    "TPU v4": Chip(275, 275, 34.4, 1200, 300),
    "TPU v5 lite": Chip(197, 197, 17.2, 819, 200),
    "TPU v5e": Chip(197, 197, 17.2, 819, 200),
    "TPU v5": Chip(459, 459, 102, 2765, 600),
    "TPU v5p": Chip(459, 459, 102, 2765, 600),
    "TPU v6 lite": Chip(918, 918, 34.4, 1600, 400),
    "TPU v6e": Chip(918, 918, 34.4, 1600, 400),
    "TPU7x": Chip(1153.5, 1153.5, 103, 3690, 300),  # a device is one of the chip's two cores
    "NVIDIA A100": Chip(312, 156, 80, 2039, 300, 8, 25),
    "NVIDIA L4": Chip(121, 60, 24, 300, 32, 8, 12.5),
    "NVIDIA L40S": Chip(362, 183, 48, 864, 32, 8, 25),
    "NVIDIA H100": Chip(989, 494, 80, 3350, 450, 8, 50),
    "NVIDIA H100 PCIe": Chip(756, 378, 80, 2000, 64, 8, 50),
    "NVIDIA H100 NVL": Chip(835, 417, 94, 3900, 300, 2, 50),
    "NVIDIA GH200": Chip(989, 494, 96, 4000, 450, 1, 50),
    "NVIDIA H200": Chip(989, 494, 141, 4800, 450, 8, 50),
    "NVIDIA H200 NVL": Chip(835, 417, 141, 4800, 450, 4, 50),
    "NVIDIA B200": Chip(2250, 1125, 180, 8000, 900, 8, 50),
    "NVIDIA GB200": Chip(2500, 1250, 186, 8000, 900, 72, 50),
}
"""By the first words of JAX's `device_kind`; the longest match holds. TPU figures are from Google
Cloud's pages of each version (links: half of the bidirectional bandwidth per chip), GPU figures
from NVIDIA's data sheets (links: half of NVLink's total, or PCIe; network: the adapters per GPU of
DGX or common servers)."""

_LESSER = {"lite", "MIG"}
"""Words in the name of a smaller chip, or of a slice of a GPU, with a lower peak."""

_SIZE = re.compile(r"\b(\d+)GB\b")
"""The memory in the name of a GPU that is sold with several sizes."""

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
    rate = getattr(known_chip(device.device_kind), dtype, None)
    if rate is not None:
        return 1e12 * float(rate)
    if device.platform == "cpu":
        return _measure(dtype, size=1024) / jax.local_device_count()
    return _measure(dtype, size=8192)


def known_chip(device_kind: str) -> Chip | None:
    """The vendor's figures of a device by JAX's `device_kind`; None if it is not in the table."""
    # "NVIDIA A100-SXM4-80GB" has hyphens where other names have spaces.
    words = device_kind.replace("-", " ").split()
    for count in range(len(words), 0, -1):
        chip = _KNOWN.get(" ".join(words[:count]))
        if chip is not None:
            size = _SIZE.search(device_kind)  # that of a GH200 counts its CPU's memory too
            least = chip.memory if size is None else min(chip.memory, float(size[1]))
            return None if _LESSER.intersection(words[count:]) else chip._replace(memory=least)
    return None


def gpu_kinds() -> dict[str, str]:
    """The `device_kind` of each known GPU by a short name, such as "h200" or "h100-nvl"."""
    kinds = (kind for kind in _KNOWN if kind.startswith("NVIDIA "))
    return {kind.removeprefix("NVIDIA ").lower().replace(" ", "-"): kind for kind in kinds}


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
