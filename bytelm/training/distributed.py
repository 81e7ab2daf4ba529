"""Several processes as one: joining them, and stopping them at the same step."""

import json
import os
import signal
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.errors import UserError


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins this process to the others of a run; before anything touches a device.

    Args:
        coordinator: host:port of process 0; None to find all three from the cluster
            (SLURM, GKE, Cloud TPU, Open MPI).
        processes: how many processes there are.
        process: which of them this one is, from 0.
    """
    if coordinator is not None and (processes is None or process is None):
        raise UserError("--coordinator needs --num-processes and --process-id beside it.")
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run could not join: {str(error).splitlines()[0]} Check "
            "--coordinator, --num-processes and --process-id (docs/clusters.md)."
        ) from None


class StopRequest:
    """Catches SIGTERM and SIGINT, so that every process stops after the same step.

    The first signal asks for a clean stop; a second SIGINT interrupts at once.
    """

    def __init__(self, mesh: Mesh):
        self.requested = False
        self._mesh = mesh
        self._previous: dict[int, Any] = {}
        self._agreed: jax.Array | None = None
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def agreed(self) -> bool:
        """Whether to stop before the next step; the same answer in every process.

        With several processes the answer is that of one step ago, so that asking does not wait.
        """
        if jax.process_count() == 1:
            return self.requested
        last, self._agreed = self._agreed, self._ask()
        return last is not None and bool(last)

    def _ask(self) -> jax.Array:
        sharding = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        mine = np.full((jax.local_device_count(),), self.requested, np.int32)
        return self._any(jax.make_array_from_process_local_data(sharding, mine))


def gather_json(value: Any) -> list[Any]:
    """The JSON-able values of all processes, in the order of the processes, in every process."""
    if jax.process_count() == 1:
        return [value]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(mine)]))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded)
    return [
        json.loads(bytes(row[:size])) for row, size in zip(rows, sizes.reshape(-1), strict=True)
    ]
