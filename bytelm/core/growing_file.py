"""A file that grows by whole records, even if the disk is full for a while."""

import contextlib
import errno
import os
from pathlib import Path


class GrowingFile:
    """Appends records to a file: each is written whole or not at all.

    A record that cannot be written is kept in memory and retried with the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._left = b""

    def append(self, record: bytes) -> None:
        """Writes the records that are left, then this one.

        Raises:
            OSError: if it cannot be written now.
        """
        self._left += record
        self._write()

    def close(self) -> None:
        """Tries once more to write the records that are left.

        Raises:
            OSError: if they are lost.
        """
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        if not self._left:
            return
        status = os.fstat(self._file.fileno())
        if status.st_nlink == 0:
            raise OSError(errno.ENOENT, "it was removed during the run", str(self._path))
        written = 0
        try:
            while written < len(self._left):
                written += self._file.write(self._left[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), status.st_size)
            raise
        self._left = b""
