"""Devices that a program is compiled for, whether or not this machine has them."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.memory import free_memory
from bytelm.training.hardware import Chip, gpu_kinds, known_chip, peak_flops

FORMS = "a TPU slice such as v5p:2x2x4, v5e:4x4 or v6e:16x16, GPUs such as gpu:8xh200, or cpu:8"
_GPUS = re.compile(r"gpu:(\d+)x([\w-]+)")
_CPUS = re.compile(r"cpu:(\d+)")
_SLICE = re.compile(r"(v\d\w*|tpu7x):\d+(?:x\d+){1,2}")
_NO_METADATA = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
"""For libtpu: this is no TPU machine, and others may compile at the same time."""


@dataclass(frozen=True)
class Topology:
    """Devices that a program is compiled for.

    Attributes:
        name: as the user named them.
        kind: as JAX's `device_kind`.
        backend: that the program is traced for: "cpu", "gpu" or "tpu".
        devices: that it is compiled for. In place of GPUs these are devices of this CPU.
        chip: the vendor's figures; None for a device that is not in the table.
    """

    name: str
    kind: str
    backend: str
    devices: Sequence[Any]
    chip: Chip | None

    @property
    def is_itself(self) -> bool:
        """Whether programs are compiled for the devices, not for others in their place."""
        return self.devices[0].platform == self.backend

    @property
    def memory(self) -> float | None:
        """Bytes of each device; None if that is not known."""
        if self.backend == "cpu":
            free = free_memory()
            return None if free is None else free / len(self.devices)
        return 1e9 * self.chip.memory if self.chip is not None and self.chip.memory else None

    def peak_flops(self, dtype: Any) -> float:
        """FLOP/s of each device for products of matrices of `dtype`: the vendor's, or measured."""
        rate = getattr(self.chip, jax.numpy.dtype(dtype).name, None)
        return peak_flops(dtype) if rate is None else 1e12 * rate


def find_topology(name: str | None) -> Topology:
    """The devices of a name (`FORMS`); None for those of this machine.

    Named ones need no device: TPUs are known to libtpu, and for GPUs the program is compiled for
    as many devices of this CPU. JAX's backends must not have started, unless the CPU has enough.

    Raises:
        UserError: if there are no such devices, or libtpu is missing.
    """
    if name is None:
        devices: Sequence[Any] = jax.devices()
        kind = devices[0].device_kind
        name = f"{len(devices)} x {kind}"
        return Topology(name, kind, jax.default_backend(), devices, known_chip(kind))
    if gpus := _GPUS.fullmatch(name):
        kinds = gpu_kinds()
        if gpus[2] not in kinds:
            raise UserError(
                f"--topology {name}: there is no GPU {gpus[2]!r}{did_you_mean(gpus[2], kinds)}; "
                f"known ones are {', '.join(kinds)}."
            )
        kind = kinds[gpus[2]]
        return Topology(name, kind, "gpu", _cpus(int(gpus[1]), name), known_chip(kind))
    if cpus := _CPUS.fullmatch(name):
        devices = _cpus(int(cpus[1]), name)
        return Topology(name, devices[0].device_kind, "cpu", devices, None)
    if _SLICE.fullmatch(name):
        devices = _tpus(name)
        kind = devices[0].device_kind
        return Topology(name, kind, "tpu", devices, known_chip(kind))
    raise UserError(f"--topology {name}: there is no such topology; give {FORMS}.")


def _cpus(count: int, name: str) -> Sequence[Any]:
    """So many devices of this CPU."""
    if not count:
        raise UserError(f"--topology {name} has no devices; give at least one.")
    _without_accelerators()
    with contextlib.suppress(RuntimeError):  # JAX's backends have started: those it has must do
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(
            f"--topology {name} needs {count} devices of this CPU, and this process has started "
            f"with {len(devices)}; start it with jax_num_cpu_devices {count}."
        )
    return devices[:count]


def _tpus(name: str) -> Sequence[Any]:
    """The chips of a slice, as libtpu knows them."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {name} needs libtpu, which compiles for TPUs on any machine: "
            "pip install 'bytelm[tpu]'."
        )
    for variable, value in _NO_METADATA.items():
        os.environ.setdefault(variable, value)
    _without_accelerators()
    try:
        devices: Sequence[Any] = topologies.get_topology_desc(name, "tpu").devices
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"--topology {name}: libtpu knows no such slice ({reason}); give {FORMS}."
        ) from None
    return devices


def _without_accelerators() -> None:
    """Keeps JAX from starting the accelerators of this machine, which are not asked for."""
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
