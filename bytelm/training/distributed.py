"""Runs of several processes: how they join, and how they stop after the same step."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.core.errors import UserError
from bytelm.core.stopping import Stopped, StopSignals
from bytelm.core.terminal_text import say

JOIN_LIMIT = 300
"""Seconds that a process waits for the others to join."""
SILENCE_LIMIT = 60
"""Seconds of silence after which JAX considers another process dead."""
_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service")
"""Parts of errors when another process does not answer."""


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins this process to the others of a run; call it before anything uses a device.

    The process ends with an error message if the others have not joined within `JOIN_LIMIT`.

    Args:
        coordinator: host:port of process 0; None to find all three from the cluster
            (SLURM, GKE, Cloud TPU, Open MPI).
        processes: how many processes there are.
        process: the number of this one, from 0.

    Raises:
        UserError: if there are no other processes, or they cannot be joined.
    """
    if coordinator is not None and (processes is None or process is None):
        raise UserError("--coordinator needs --num-processes and --process-id.")
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Otherwise JAX replaces the handler of SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    say("waiting for the other processes of this run to join", sys.stderr)
    # JAX itself would abort with a C++ stack trace.
    limit = threading.Timer(JOIN_LIMIT, _nobody_joined, args=(process, processes))
    limit.daemon = True
    limit.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=JOIN_LIMIT + 60,
            heartbeat_timeout_seconds=SILENCE_LIMIT,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run could not join: {str(error).splitlines()[0]} Check "
            "--coordinator, --num-processes and --process-id (docs/clusters.md)."
        ) from None
    finally:
        limit.cancel()


def _nobody_joined(process: int | None, processes: int | None) -> None:
    me = "this process" if process is None else f"process {process} of {processes}"
    _leave(
        f"{me} has waited {JOIN_LIMIT} seconds for the others to join; see whether they have "
        "started, and check --coordinator, --num-processes and --process-id (docs/clusters.md).",
        2,
    )


@contextlib.contextmanager
def ending_alone() -> Iterator[None]:
    """With several processes, an error inside ends this process at once, with a message.

    A clean exit needs the other processes, which may wait for this one or be gone.
    """
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
    except UserError as error:
        _leave(str(error), 2)
    except Stopped as stopped:
        _leave("", stopped.status)
    except (RuntimeError, ValueError) as error:
        if not (lost := lost_process(error)):
            raise
        _leave(lost, 1)


def lost_process(error: Exception) -> str | None:
    """A sentence for an error because another process does not answer; None for other errors."""
    is_lost = any(word in str(error) for word in _LOST)
    # Gloo's come as ValueError.
    if not is_lost or not isinstance(error, RuntimeError | ValueError) or jax.process_count() == 1:
        return None
    return (
        "another process of this run ended, or does not answer "
        f"({str(error).splitlines()[0][:200]}); this was process {jax.process_index()} of "
        f"{jax.process_count()}. Start all of them again with --resume, to continue from "
        "the last checkpoint."
    )


def _leave(error: str, status: int) -> NoReturn:
    """Ends the process without JAX's own shutdown, which waits for the others."""
    if error:
        say(f"error: {error}", sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class StopRequest(StopSignals):
    """Receives signals to stop a run, so that every process stops after the same step.

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
        """Whether to stop now; all processes call it, and get the same answer.

        With several processes this is the answer to the previous call, so that no process waits.
        Once it is True it stays True.
        """
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
    """The JSON values of all processes, in order, in every process."""
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
