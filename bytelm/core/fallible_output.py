"""Output that may fail: a long run goes on when it can no longer print."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def may_fail() -> Iterator[None]:
    """Turns a failure of standard output or error (closed pipe, full disk) into one warning.

    Everything that is written after the first failure is dropped.
    """
    original = sys.stdout, sys.stderr
    if isinstance(sys.stdout, _MayFail):
        yield
        return
    tolerant = _MayFail(sys.stdout), _MayFail(sys.stderr)
    sys.stdout, sys.stderr = tolerant
    try:
        yield
    finally:
        for stream in tolerant:
            stream.flush()
        sys.stdout, sys.stderr = original


def open_standard_streams() -> None:
    """Opens /dev/null for each standard stream that the parent process has closed.

    Otherwise the next file to be opened would get its number, and with it what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


class _MayFail:
    """A text stream that forwards to another one until that fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._has_failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Returns the number of characters, as a text stream does."""
        with self._failing():
            if not self._has_failed:
                self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes the other stream."""
        with self._failing():
            if not self._has_failed:
                self._stream.flush()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._has_failed = True
            # The stream's buffer is flushed when Python ends, so its file must accept that.
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # fails if the stream is no file
            warnings.warn(
                f"output cannot be written ({error.strerror}); the run goes on, and what it would "
                "print is lost",
                stacklevel=4,
            )
