"""Several processes as one: joining them, and stopping them at the same step."""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.errors import UserError
from bytelm.stopping import StopSignals


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


class StopRequest(StopSignals):
    """Hears requests to stop a run, so that every process stops after the same step.

    Before `defer` is called there is nothing to save, and a signal ends the run at once.
    """

    ended = "stopped on request ({}) before the first step; no checkpoint was written"
    deferred = (
        "stop requested ({}): a checkpoint is saved, then the run ends; another Ctrl-C ends it "
        "without waiting for that"
    )
    abandoned = "stopped without waiting for a checkpoint; those completed before are intact"

    def __init__(self, mesh: Mesh):
        super().__init__()
        self._mesh = mesh
        self._stopping = False
        self._asked: jax.Array | None = None
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def agreed(self) -> bool:
        """Whether to stop before the next step; the same answer in every process.

        With several processes the answer is that of one question ago, so that asking does not
        wait. Once it is True it stays so.
        """
        return self._agree()

    def agreed_midway(self) -> bool:
        """Whether to leave what is done between two steps; asked in every process, as `agreed`."""
        return self._agree()

    def _agree(self) -> bool:
        if jax.process_count() == 1:
            return self.requested
        if not self._stopping:
            last, self._asked = self._asked, self._ask()
            self._stopping = last is not None and bool(last)
        return self._stopping

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
