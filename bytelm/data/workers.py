"""Processes that prepare batches; they ignore signals, and end with the trainer."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next element.

        Raises:
            UserError: a worker process was killed.
        """
        try:
            if self._started:
                return next(self._iterator)
            # Grain starts its threads and processes at the first element; they inherit the mask.
            with _signals_blocked():
                self._started = True
                return next(self._iterator)
        except RuntimeError as error:
            if (died := _died(error)) is None:
                raise
            raise died from None

    def get_state(self) -> Any:
        return self._iterator.get_state()

    def set_state(self, state: Any) -> None:
        self._iterator.set_state(state)

    def close(self) -> None:
        self._iterator.close()


@contextmanager
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


def _died(error: RuntimeError) -> UserError | None:
    """The error of a worker that ended by itself; None for other errors."""
    if not str(error).startswith(_DIED):
        return None
    code = int(str(error).removeprefix(_DIED).split(".")[0])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
    return UserError(
        f"a process of data.workers {how}{hint}; fewer --data.workers take less memory."
    )
