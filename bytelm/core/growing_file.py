"""Files that grow while a run goes on: appended to, or, at an address, written again as a whole."""

import contextlib
import errno
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bytelm.core.files import write_whole
from bytelm.core.places import is_address

SECONDS = 15.0
"""How often an object is written again, at most."""
BYTES_PER_SECOND = 1_000_000
"""How fast writing it again and again sends bytes, on average: a large object is written rarely."""


class GrowingFile:
    """Appends records to a file: each is written whole or not at all.

    A record that cannot be written is kept in memory and retried with the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._left = b""

    def append(self, record: bytes) -> None:
        """Writes the records that are left, then this one; raises OSError if it cannot now."""
        self._left += record
        self.flush()

    def flush(self) -> None:
        """Writes the records that are left; raises OSError if it cannot now."""
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

    def close(self) -> None:
        """Tries once more to write the records that are left; raises OSError if they are lost."""
        try:
            self.flush()
        finally:
            self._file.close()


class GrowingObject:
    """A `GrowingFile` at an address: an object, which a thread writes again as a whole.

    That happens every `SECONDS` or, when it is large, so often that `BYTES_PER_SECOND` are sent;
    `flush` does not wait for the time. A kill loses the records since then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = bytearray(path.read_bytes() if path.exists() else b"")
        self._sent = len(self._content)
        self._thread = ThreadPoolExecutor(1, "growing-object")
        self._sending: Future[int] | None = None
        self._next = 0.0

    def append(self, record: bytes) -> None:
        """Adds a record; raises OSError if those before it could not be written."""
        self._content += record
        if self._sending is not None and self._sending.done():
            self._wait()
        if self._sending is None and time.monotonic() >= self._next:
            self._send()

    def flush(self) -> None:
        """Writes all records; raises OSError if it cannot now."""
        self._wait()
        if self._sent != len(self._content):
            self._send()
            self._wait()

    def close(self) -> None:
        """Writes all records; raises OSError if they are lost."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()

    def _send(self) -> None:
        content = bytes(self._content)
        self._next = time.monotonic() + max(SECONDS, len(content) / BYTES_PER_SECOND)
        self._sending = self._thread.submit(self._write, content)

    def _write(self, content: bytes) -> int:
        write_whole(self._path, content)
        return len(content)

    def _wait(self) -> None:
        sending, self._sending = self._sending, None
        if sending is None:
            return
        try:
            self._sent = sending.result()
        except Exception as error:  # of the store
            raise OSError(f"{self._path}: {error}") from error


def growing_file(path: Path) -> GrowingFile | GrowingObject:
    """A file to append records to, at either kind of place."""
    return GrowingObject(path) if is_address(path) else GrowingFile(path)
