"""The last error of a run, as one sentence in its directory.

`last_error.json` says what ended the run before its end, when and at which step. A run that goes
on to its end removes it. A process that is killed leaves none.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import jax

from bytelm.core.errors import StoppedError, UserError
from bytelm.core.files import write_whole
from bytelm.training.distributed import lost_process
from bytelm.training.run_directory import CONFIG

FILE = "last_error.json"
LONGEST = 1000
"""Characters of a sentence that are kept."""


class LastError(NamedTuple):
    """What ended a run before its end.

    Attributes:
        sentence: what was wrong.
        time: in seconds since 1970.
        step: steps done by then; None if the run had not started or resumed yet.
        during: "training" or "test".
        stopped: whether a signal had asked the run to stop before.
        job: of SLURM, that of all tasks for an array; None outside one.
    """

    sentence: str
    time: float
    step: int | None
    during: Literal["training", "test"] = "training"
    stopped: bool = False
    job: str | None = None


class NotingErrors:
    """A context that writes an error inside it into a run directory, and passes it on.

    It writes nothing into a directory without a config, which holds no run yet, and never fails
    itself. In a run of several processes, process 0 writes.

    Args:
        during: what goes on in the context.
        owns: whether the run is this process's to write about.
    """

    def __init__(
        self, run: Path, during: Literal["training", "test"] = "training", *, owns: bool = True
    ):
        self._run, self._during, self._owns = run, during, owns
        self.step: Callable[[], int | None] = lambda: None
        """Set it as soon as the step is known."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or not self._owns:
            return
        with contextlib.suppress(Exception):
            if jax.process_index() == 0 and (self._run / CONFIG).exists():
                self._write(error)

    def forget(self) -> None:
        """Removes an earlier error: the run has come to its end."""
        with contextlib.suppress(Exception):
            if jax.process_index() == 0:
                (self._run / FILE).unlink()

    def _write(self, error: Exception) -> None:
        stopped = isinstance(error, StoppedError)
        job = array_of_process() or os.environ.get("SLURM_JOB_ID")
        found = LastError(sentence_of(error), time.time(), self.step(), self._during, stopped, job)
        write_whole(self._run / FILE, json.dumps(found._asdict(), indent=2) + "\n")


def sentence_of(error: Exception) -> str:
    """An error as one line."""
    if lost := lost_process(error):
        return lost
    lines = str(error).strip().splitlines()
    words = " ".join(lines) if isinstance(error, UserError) else "".join(lines[:1])
    ours = isinstance(error, UserError | OSError | jax.errors.JaxRuntimeError)
    return (words if ours and words else f"{type(error).__name__}: {words}")[:LONGEST]


def read_last_error(run: Path) -> LastError | None:
    """The last error of a run; None if there is none, or it cannot be read."""
    try:
        saved: dict[str, Any] = json.loads((run / FILE).read_bytes())
        return LastError(**saved)
    except (OSError, ValueError, TypeError):
        return None


def array_of_process() -> str | None:
    """The number of the SLURM array that this process is a task of; None outside one."""
    return os.environ.get("SLURM_ARRAY_JOB_ID") or None
