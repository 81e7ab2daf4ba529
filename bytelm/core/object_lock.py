"""Locks at addresses, where no operating system releases them when their process ends.

A lock is an object that its holder creates, writes again every `BEAT_SECONDS` and removes. A
holder that was killed no longer writes: after `STALE_SECONDS` without a change, by the clock of the
one who waits, the lock is taken from it; at once if it was a process of this machine. S3, Google's
and Azure's stores let one of two processes create an object. Replacing that of a dead holder takes
two steps, so the process that does it looks again a little later. A holder that lost its lock, such
as on a machine that was suspended, ends at once: another process writes in its place.
"""

import contextlib
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from bytelm.core.files import create, write_whole

BEAT_SECONDS = 15.0
STALE_SECONDS = 90.0
SETTLE_SECONDS = 2.0
"""How long after it replaced a dead holder's lock a process looks whether the lock is its own."""

logger = logging.getLogger(__name__)


class ObjectLock:
    """A lock at an address that is not held yet; `take` it and `release` it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._id = uuid.uuid4().hex
        self._beats = 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: dict[str, Any] | None = None
        self._since = 0.0
        self.holder_lives = False
        """Whether another process was seen to write the lock."""

    @property
    def holder(self) -> str:
        """The process that holds it."""
        return str((self._seen or {}).get("holder", "another process"))

    def take(self) -> bool:
        """Whether it is held now; who waits calls this again and again."""
        try:
            create(self._path, self._content())
        except FileExistsError:
            return self._replace()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(self._end,), daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Removes it, if it is held."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            with contextlib.suppress(FileNotFoundError):
                if self._is_own():
                    self._path.unlink()

    def _replace(self) -> bool:
        """Takes it from a holder that is gone."""
        found = _read(self._path)
        if found is None:
            return False
        if found != self._seen:
            self.holder_lives = self._seen is not None
            self._seen, self._since = found, time.monotonic()
        waited = time.monotonic() - self._since
        if (waited < STALE_SECONDS and not _is_gone(found)) or _read(self._path) != found:
            return False
        self._path.unlink(missing_ok=True)
        if not self.take():
            return False
        time.sleep(SETTLE_SECONDS)
        if self._is_own():
            return True
        self._end.set()
        return False

    def _content(self) -> bytes:
        self._beats += 1
        about = {
            "holder": f"process {os.getpid()} on {socket.gethostname()}",
            "id": self._id,
            "beats": self._beats,
            "time": time.time(),
            "machine": _machine(),
            "process": os.getpid(),
        }
        return json.dumps(about).encode()

    def _is_own(self) -> bool:
        return (_read(self._path) or {}).get("id") == self._id

    def _beat(self, end: threading.Event) -> None:
        while not end.wait(BEAT_SECONDS):
            try:
                found = _read(self._path)
                if found is not None and found.get("id") != self._id and not end.is_set():
                    _end_process(self._path, found)
                write_whole(self._path, self._content())
            except Exception as error:  # of the store: it may answer the next time
                logger.warning("the lock %s could not be renewed: %s", self._path, error)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a lock; None if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def was_renewed(path: Path) -> bool:
    """Whether a lock's holder has renewed it lately, as far as clocks of machines agree.

    To take a lock, no clock of another machine is asked.
    """
    found = _read(path)
    if found is None or _is_gone(found):
        return False
    return time.time() - float(found.get("time", 0.0)) < STALE_SECONDS


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine and no longer runs."""
    process = holder.get("process")
    if holder.get("machine") != _machine() or not _machine() or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


@functools.cache
def _machine() -> str:
    """What tells the processes of this machine, or container, from others; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _end_process(path: Path, found: dict[str, Any]) -> None:
    logger.critical(
        "%s took the lock %s from this process, which had not renewed it for long; this process "
        "ends, so that two do not write the same files",
        found.get("holder", "another process"),
        path,
    )
    logging.shutdown()
    os._exit(1)
