"""The directory that a training run writes: how it is named, and kept to one process at a time."""

import contextlib
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from bytelm.core.errors import UserError

LOCK = ".lock"
"""File that the process which writes a run directory holds locked."""


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of an existing run directory while the context is entered.

    The operating system drops the lock with the process that holds it, however that ends, so
    none is ever stale. In a run of several processes, process 0 alone takes it. Where the file
    system has no locks (some cluster mounts) a warning says so and nothing is kept out.

    Raises:
      UserError: another process has the run directory, or it cannot be written.
    """
    path = run_dir / LOCK
    try:
        path.touch()
    except OSError as error:
        raise UserError(
            f"run directory {run_dir} cannot be written ({error.strerror}); "
            "choose another with --run-dir"
        ) from error
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read() or "another process"
            raise UserError(
                f"run directory {run_dir} is in use by {holder}; "
                "wait until that ends, or choose another with --run-dir"
            ) from None
        except OSError as error:
            warnings.warn(
                f"run directory {run_dir} is on a file system without locks ({error.strerror}): "
                "take care that no second process writes it",
                stacklevel=3,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def unused_directory(base: Path) -> Path:
    """The first of `base`, `base-2`, `base-3`, ... that does not exist."""
    candidate, number = base, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


def new_run_directory(base: Path) -> Path:
    """Creates and returns the first of `base`, `base-2`, `base-3`, ... that does not exist.

    Two processes that ask at once get different directories.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    while True:
        candidate = unused_directory(base)
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            pass  # another process was faster


def remove_if_unused(run_dir: Path) -> None:
    """Removes a run directory in which nothing has been written but the lock."""
    if [path.name for path in run_dir.iterdir()] in ([], [LOCK]):
        (run_dir / LOCK).unlink(missing_ok=True)
        run_dir.rmdir()
