"""Text for a terminal: nothing that could drive it, and nothing that its encoding cannot hold."""

import io
import logging
import os
import sys
from typing import TextIO

_CONTROL_CHARACTERS = {code: 0x2400 + code for code in range(0x20)}
_CONTROL_CHARACTERS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
# Bytes of a name that are no UTF-8 are held as these characters, which no encoding can write.
_RAW_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
_ON_ONE_LINE = _CONTROL_CHARACTERS | _RAW_BYTES
_ON_LINES = {code: shown for code, shown in _ON_ONE_LINE.items() if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    r"""The text with control characters made visible, and raw bytes of names as `\xNN`.

    Line ends and tabs stay.
    """
    return text.translate(_ON_LINES)


def printable_name(name: str | os.PathLike[str]) -> str:
    """A file's name or another single word for a message: as `printable`, on one line."""
    return os.fspath(name).translate(_ON_ONE_LINE)


def say(message: str, file: TextIO | None = None) -> None:
    """Prints a message, which may hold names of files, made visible.

    Args:
        message: one line or more.
        file: where to; none = standard output.
    """
    print(printable(message), file=file, flush=True)


def escape_unwritable(*streams: TextIO) -> None:
    r"""Makes streams write a character that their encoding lacks as `\uNNNN`, and never raise.

    Streams that do not encode, and those whose user chose what happens (such as
    `PYTHONIOENCODING=ascii:replace`), are left as they are.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


class _PrintableRecords(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(f"{record.levelname.lower()}: {super().format(record)}")


class _StandardError(logging.StreamHandler):
    """Writes to what is standard error when a record comes: others may replace it meanwhile."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_PrintableRecords())

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def log_to_terminal() -> None:
    """Writes log records to standard error, made visible; handlers that do more stay as they are.

    A library may have added a plain handler already: absl does, as soon as it has something to log.
    """
    plain = [handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler]
    if plain or not logging.root.handlers:
        for handler in plain:
            logging.root.removeHandler(handler)
        logging.root.addHandler(_StandardError())
