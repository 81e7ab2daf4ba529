"""A file of lines that grows while long work goes on, and of which only whole lines count."""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bytelm.core.errors import UserError

SECONDS = 1.0
"""How often finished lines are forced to the disk."""


class WholeLines:
    """A file to which lines are appended, by one process at a time. A context that closes it.

    Raises:
        UserError: if another process is writing it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"{path} is being written by another command.") from None
        self._synced = time.monotonic()

    def read(self) -> Iterator[bytes]:
        """The whole lines that are there, with their ends; then removes one that is torn."""
        self._file.seek(0)
        size = 0
        for line in self._file:
            if line.endswith(b"\n"):
                size += len(line)
                yield line
        self._file.truncate(size)

    def append(self, line: bytes) -> None:
        """Writes a line, which has no end of its own."""
        left = memoryview(line + b"\n")
        while left:
            left = left[self._file.write(left) or 0 :]
        if time.monotonic() - self._synced > SECONDS:
            self.sync()
            self._synced = time.monotonic()

    def sync(self) -> None:
        """Forces what was written to the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "WholeLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
