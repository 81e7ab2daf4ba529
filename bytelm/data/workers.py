"""Processes that prepare batches; they ignore signals, and end with the trainer."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import grain
from absl import flags

from bytelm.core.errors import UserError
from bytelm.core.stopping import SIGNALS

_DIED = "Worker process was terminated unexpectedly with exit code "
"""Beginning of Grain's message; the exit code follows."""


class WorkerIterator:
    """The elements of a dataset, prepared by `workers` processes or, with 0, by this one.

    Signals to stop often go to all processes of a job, and the trainer needs more batches to end
    cleanly. So the workers start with signals blocked.
    """

    def __init__(self, dataset: grain.IterDataset, workers: int) -> None:
        if workers and not flags.FLAGS.is_parsed():
            # Grain's workers read absl flags, which this program's command line does not use.
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers)
        with _signals_blocked():
            self._iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_end_with_parent))
        self._started = False

    def __next__(self) -> Any:
        """The next element; UserError if a worker process was killed."""
        # Grain starts its threads and processes at the first element; they inherit the mask.
        starting, self._started = not self._started, True
        try:
            with _signals_blocked() if starting else contextlib.nullcontext():
                return next(self._iterator)
        except RuntimeError as error:
            if not str(error).startswith(_DIED):
                raise
            code = int(str(error).removeprefix(_DIED).split(".")[0])
            raise UserError(
                f"a process of data.workers {_how_it_ended(code)}; fewer --data.workers take less "
                "memory."
            ) from None

    def get_state(self) -> Any:
        return self._iterator.get_state()

    def set_state(self, state: Any) -> None:
        self._iterator.set_state(state)

    def close(self) -> None:
        self._iterator.close()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks signals in this thread, and permanently in threads and processes started here."""
    # Python unblocks some signals when it starts its resource tracker, so start that first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int, workers: int) -> None:
    """Called in a new worker process, which would otherwise outlive a killed trainer."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"
