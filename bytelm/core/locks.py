"""Locks of the cache, which the operating system drops with the process that holds them."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

POLL_SECONDS = 0.1
REMIND_SECONDS = 60.0
"""How often a process that waits says for whom."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(path: Path, purpose: str) -> Iterator[bool]:
    """Holds a lock file, and waits for another process that holds it.

    The wait is made of short naps, so that Ctrl-C ends it. Removing the file ends it too: that is
    the way out when a file server keeps the lock of a machine that is gone.

    Args:
        path: the lock file, which stays.
        purpose: what the lock is for, such as `write the packed text of x.txt`.

    Yields:
        whether the lock is held; False, after a warning, where the file system has no locks.
    """
    asked = time.monotonic()
    reminded = -REMIND_SECONDS
    while True:
        with path.open("a+") as file:
            held = _try(file, path)
            if held is not None:
                if held and not _is_still(file.fileno(), path):
                    continue  # it was removed meanwhile: another process may lock a new one
                _sign(file)
                yield held
                return
        waited = time.monotonic() - asked
        if waited - reminded >= REMIND_SECONDS:
            logger.warning(
                "waiting for %s to %s; if that process no longer runs, remove %s",
                holder(path),
                purpose,
                path,
            )
            reminded = waited
        time.sleep(POLL_SECONDS)


def _try(file: IO[str], path: Path) -> bool | None:
    """True for a lock that is held now, None for one that another has, False without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        logger.warning(
            "%s is on a file system without locks (%s): two processes may do the same work twice",
            path.parent,
            error.strerror,
        )
        return False
    return True


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def holder(path: Path) -> str:
    """The process that holds a lock file, as it signed."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace") or "another process"
    return "another process"


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of that name; a removed one is nobody's lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


class Share:
    """A mark that a file is in use, as long as the object lives; several may share a file."""

    def __init__(self, path: Path) -> None:
        """Waits for a moment if another process is about to remove the file.

        Raises:
            FileNotFoundError: if the file is gone.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, descriptor)
        with contextlib.suppress(OSError):  # no locks: nothing keeps others from removing it
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_still(descriptor, path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Keeps new users away from a file, if there is no `Share` of it; yields whether that is so."""
    try:
        file = path.open("r+")
    except (FileNotFoundError, NotADirectoryError):
        yield True
        return
    except OSError:  # it is another user's
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # no locks: it cannot be told
            yield False
            return
        yield True


def is_locked(path: Path) -> bool:
    """Whether anyone holds or shares a lock of a file, or that cannot be told."""
    with unused(path) as free:
        return not free
