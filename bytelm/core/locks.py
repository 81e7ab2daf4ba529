"""File locks, which the operating system releases when their process ends.

At an address a lock is an object (`core/object_lock.py`).
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import struct
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bytelm.core.object_lock import ObjectLock, was_renewed
from bytelm.core.places import is_address

POLL_SECONDS = 0.1
OBJECT_POLL_SECONDS = 1.0
REMIND_SECONDS = 60.0
"""How often a waiting process says what it waits for."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(path: Path, purpose: str, *, remind_after: float = 0.0) -> Iterator[bool]:
    """Holds a lock file; waits while another process holds it.

    Ctrl-C ends the wait. So does removing the file, which helps when a file server keeps the lock
    of a machine that is gone.

    Args:
        path: the lock file; it is not removed afterwards, except for an object.
        purpose: what the lock is for, such as `write the packed text of x.txt`.
        remind_after: seconds of waiting after which it first says what it waits for.

    Yields:
        whether the lock is held; False, after a warning, where the file system has no locks.
    """
    remind = _Reminder(path, purpose, remind_after)
    if is_address(path):
        lock = ObjectLock(path)
        while not lock.take():
            remind(lock.holder)
            time.sleep(OBJECT_POLL_SECONDS)
        try:
            yield True
        finally:
            lock.release()
        return
    while True:
        with path.open("a+") as file:
            held = _try(file, path)
            if held is not None:
                if held and not is_still(file.fileno(), path):
                    continue  # removed meanwhile: another process may lock a new file
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                yield held
                return
        remind(holder(path))
        time.sleep(POLL_SECONDS)


class _Reminder:
    """Says from time to time what a process waits for."""

    def __init__(self, path: Path, purpose: str, after: float) -> None:
        self._path, self._purpose = path, purpose
        self._last = time.monotonic() - REMIND_SECONDS + after

    def __call__(self, holder: str) -> None:
        if time.monotonic() - self._last >= REMIND_SECONDS:
            logger.warning(
                "waiting for %s to %s; if that process no longer runs, remove %s",
                holder,
                self._purpose,
                self._path,
            )
            self._last = time.monotonic()


def _try(file: IO[str], path: Path) -> bool | None:
    """True if it is held now, None if another process holds it, False without locks."""
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


def holder(path: Path) -> str:
    """The process that holds a lock file, as written in it."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace") or "another process"
    return "another process"


def is_still(descriptor: int, path: Path) -> bool:
    """Whether an open file still has that name; a removed file locks nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


class Share:
    """Marks a file as in use for as long as the object lives; several may share a file."""

    def __init__(self, path: Path) -> None:
        """Waits briefly if another process is about to remove the file.

        Raises:
            FileNotFoundError: if the file is gone.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, descriptor)
        with contextlib.suppress(OSError):  # without locks, others may remove it
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not is_still(descriptor, path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Keeps new users from a file that has no `Share`; yields whether it has none."""
    try:
        file = path.open("r+")
    except (FileNotFoundError, NotADirectoryError):
        yield True
        return
    except OSError:  # it belongs to another user
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:  # it is locked; or there are no locks, and nobody knows
            free = False
        yield free


def is_locked(path: Path) -> bool:
    """Whether anyone holds or shares a lock on a file, as far as can be known."""
    with unused(path) as free:
        return not free


_HOLDER = re.compile(r"process (\d+) on (.+)")


def is_held(path: Path) -> bool | None:
    """Whether a process holds a lock file, without locking it; None if that cannot be known.

    Only for a file that is empty when its lock is free, such as that of a run directory. The locks
    of other machines are seen if the file system shows them (NFS). Where it has no locks, a living
    process may hold the file. At an address it is held if it was renewed lately.
    """
    if is_address(path):
        return was_renewed(path)
    try:
        form = _HOLDER.fullmatch(path.read_text(errors="replace"))
        if form is None:
            return False
        with path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if _shown_as_locked(file):
                return True
    except OSError:
        return False
    process, machine = int(form[1]), form[2]
    if machine == socket.gethostname():
        if not _is_alive(process):
            return False
        with contextlib.suppress(OSError):
            # Linux. Such as `1: FLOCK ADVISORY WRITE 4013 fe:00:4244085 0 EOF`.
            held = re.compile(rf"\S+ +\S+ +ADVISORY +WRITE +{process} +\S+:{inode} .*")
            if any(map(held.fullmatch, Path("/proc/locks").read_text().splitlines())):
                return True
    return None


def _shown_as_locked(file: IO[bytes]) -> bool:
    """Whether a lock on a range of the file would have to wait: on NFS all locks are such."""
    if not hasattr(fcntl, "F_OFD_GETLK"):
        return False
    form = "hhqqi"  # struct flock: type, from where, first byte, length (0 = all), process
    asked = struct.pack(form, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with contextlib.suppress(OSError):
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
        return bool(struct.unpack(form, answer)[0] != fcntl.F_UNLCK)
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
