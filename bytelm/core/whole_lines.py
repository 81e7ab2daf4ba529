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

    Args:
        name: of the file, for errors; by default its path.

    Raises:
        UserError: if another process is writing it.
    """

    def __init__(self, path: Path, name: str | None = None):
        self.path = path
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"{name or path} is being written by another command.") from None
        self._synced = time.monotonic()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    def read(self) -> Iterator[bytes]:
        """The whole lines that are there, with their ends; then removes one that is torn."""
        size = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    size += len(line)
                    yield line
        self.cut(size)

    def append(self, line: bytes) -> None:
        """Writes a line, which has no end of its own."""
        left = memoryview(line + b"\n")
        while left:
            left = left[self._file.write(left) or 0 :]
        if time.monotonic() - self._synced > SECONDS:
            self.sync()

    def sync(self) -> None:
        """Forces what was written to the disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def cut(self, size: int) -> None:
        """Removes all but the first `size` bytes."""
        self._file.truncate(size)

    def __enter__(self) -> "WholeLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
