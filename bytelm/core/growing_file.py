"""A file that grows by whole records, also on a disk that is full for a while."""

import contextlib
import errno
import os
from pathlib import Path


class GrowingFile:
    """Appends records to a file, each at once and whole.

    What cannot be written is kept in memory, and tried again with the next record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._left = b""

    def append(self, record: bytes) -> None:
        """Writes a record, after those that are left.

        Raises:
            OSError: if it cannot be written now.
        """
        self._left += record
        self._write()

    def close(self) -> None:
        """Tries once more to write what is left.

        Raises:
            OSError: if it is lost.
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
            raise OSError(errno.ENOENT, "it was removed while the run writes it", str(self._path))
        written = 0
        try:
            while written < len(self._left):
                written += self._file.write(self._left[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), status.st_size)
            raise
        self._left = b""
