"""Makes text safe to print: no control characters, nothing that the encoding lacks."""

import io
import logging
import os
import shlex
import sys
from typing import TextIO

_CONTROL_CHARACTERS = {code: 0x2400 + code for code in range(0x20)}
_CONTROL_CHARACTERS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
# Python holds a byte of a name that is not UTF-8 as one of these; no encoding can write them.
_RAW_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
_ON_ONE_LINE = _CONTROL_CHARACTERS | _RAW_BYTES
_ON_LINES = {code: shown for code, shown in _ON_ONE_LINE.items() if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    r"""Replaces control characters by visible ones, and raw bytes of file names by `\xNN`.

    Line ends and tabs stay.
    """
    return text.translate(_ON_LINES)


def printable_name(name: str | os.PathLike[str]) -> str:
    """As `printable`, for a file name or a word in a message: line ends are replaced too."""
    return str(name).translate(_ON_ONE_LINE)


def number_of(count: int, one: str, several: str | None = None) -> str:
    """A count with its noun, such as "1 document" or "2,000 documents"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def say(message: str, file: TextIO | None = None) -> None:
    """Prints a message, made `printable`, to a file or to standard output."""
    print(printable(message), file=file, flush=True)


def escape_unwritable(*streams: TextIO) -> None:
    r"""Makes streams write `\uNNNN` for a character that their encoding lacks, instead of raising.

    A stream for which the user has chosen an error handler (`PYTHONIOENCODING=ascii:replace`) is
    left as it is.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


class _PrintableRecords(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(f"{record.levelname.lower()}: {super().format(record)}")


class _StandardError(logging.StreamHandler):
    """Writes to the current standard error, which may be replaced at any time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_PrintableRecords())

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def log_to_terminal() -> None:
    """Logs to standard error, made `printable`; replaces plain handlers, keeps all others.

    Libraries add plain handlers, as absl does when it first logs.
    """
    plain = [handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler]
    if plain or not logging.root.handlers:
        for handler in plain:
            logging.root.removeHandler(handler)
        logging.root.addHandler(_StandardError())


def command_line() -> str:
    """The command that runs, for its report."""
    return shlex.join(["bytelm", *sys.argv[1:]])
