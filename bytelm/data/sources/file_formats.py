"""Formats of files, found by name and first bytes, and decompression."""

import bz2
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from bytelm.core.errors import UserError
from bytelm.core.places import is_address

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Format = Literal["text", "lines", "table"]
FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "lines",
    ".csv": "table",
    ".tsv": "table",
    ".parquet": "table",
    ".arrow": "table",
    ".feather": "table",
}
CHUNK = 2**16
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""Little-endian UTF-32 begins with the first mark too."""
JSON_OBJECT = re.compile(rb'\s*\{\s*"[^"\n]*"\s*:')
ENDING = re.compile(r"\.[a-z][a-z0-9]*")
"""File endings; the `.5` of `part-0.5` is none."""
OWN_COMPRESSION = (".parquet", ".arrow", ".feather")
"""Formats that compress their own blocks."""
ADVICE = dict.fromkeys((".zip", ".tar", ".tgz", ".7z"), "unpack it first") | dict.fromkeys(
    (".warc", ".wet"), "extract its text into JSON lines first"
)


class DamagedError(Exception):
    """Compressed data that ends early, is corrupt, or is followed by other bytes."""


class _Members(io.RawIOBase):
    """The concatenated text of all compressed members of a file.

    Unlike the standard library's readers, it does not take garbage after a member for the end.
    """

    def __init__(
        self, file: BinaryIO, decompressor: Callable[[], Any], padding: bytes = b""
    ) -> None:
        self._file = file
        self._decompressor = decompressor
        self._padding = padding
        self._member = decompressor()
        self._ahead = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._member.eof or self._next_member():
            if self._member.needs_input and not self._ahead:
                self._ahead = self._file.read(CHUNK)
                if not self._ahead:
                    raise DamagedError("the compressed data ends early")
            try:
                text = self._member.decompress(self._ahead, len(buffer))
            except (OSError, EOFError, lzma.LZMAError, zstd.ZstdError) as error:
                raise DamagedError(str(error) or "bad compressed data") from error
            self._ahead = b""
            if text:
                buffer[: len(text)] = text
                return len(text)
        return 0

    def _next_member(self) -> bool:
        """Starts the next member; False at the end of the file."""
        rest = self._member.unused_data.lstrip(self._padding)
        while not rest:
            rest = self._file.read(CHUNK)
            if not rest:
                return False
            rest = rest.lstrip(self._padding)
        self._member, self._ahead = self._decompressor(), rest
        return True


def _zstd_decompressor() -> Any:
    # `zstd --long` uses windows of up to 2**31 bytes.
    window = zstd.DecompressionParameter.window_log_max
    return zstd.ZstdDecompressor(options={window: window.bounds()[1]})


class Compression(NamedTuple):
    """A way to compress files."""

    name: str
    """Of the program."""
    magic: bytes
    """Pattern of the first bytes of such files."""
    text: Callable[[BinaryIO], Any]
    """The text of an open file, as a raw stream; reading it raises `DAMAGE`."""


COMPRESSIONS: dict[str, Compression] = {
    ".gz": Compression("gzip", rb"\x1f\x8b\x08", lambda file: gzip.GzipFile(fileobj=file)),
    ".bz2": Compression(
        "bzip2",
        rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",
        lambda file: _Members(file, bz2.BZ2Decompressor),
    ),
    ".xz": Compression(
        "xz",
        rb"\xfd7zXZ\0",
        lambda file: _Members(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), padding=b"\0"),
    ),
    ".zst": Compression(
        "zstd",
        rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
        lambda file: _Members(file, _zstd_decompressor),
    ),
}
"""By file ending."""
DAMAGE = (DamagedError, gzip.BadGzipFile, EOFError, zlib.error)
"""Errors of reading damaged data."""


def endings(path: Path) -> tuple[str, str]:
    """The endings of format and compression, in lower case; "" if there is none."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = path.with_suffix("") if compression else path
    found = inner.suffix.lower()
    return found if ENDING.fullmatch(found) else "", compression


def is_table(path: Path) -> bool:
    """Whether the file's name says that it holds rows of a table."""
    return FORMATS.get(endings(path)[0]) == "table"


def is_compressed(path: Path) -> bool:
    """Whether the file's name says that its text is longer than the file."""
    ending, compression = endings(path)
    return bool(compression) or ending in OWN_COMPRESSION


def check_ending(path: Path, option: str) -> None:
    """UserError for a file with the ending of an unknown format."""
    ending, compression = endings(path)
    if ending and ending not in FORMATS:
        advice = ADVICE.get(ending, "rename it, link to it by such a name, or narrow the pattern")
        raise UserError(
            f"{option}: {path} ends in none of .txt (one document), .jsonl (one a line), .csv and "
            f".tsv, with or without {', '.join(COMPRESSIONS)} after it, nor in "
            f"{', '.join(OWN_COMPRESSION)}; {advice}."
        )
    if compression and ending in OWN_COMPRESSION:
        raise UserError(
            f"{option}: {path} is compressed twice, as {ending[1:]} files compress their own "
            f"blocks; take the {compression} off by unpacking it."
        )


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, Compression | None]]:
    """The decompressed bytes of a file, as a stream with `peek`, and its compression.

    Reading raises OSError, and `DAMAGE` for damaged compressed data.
    """
    with binary(path) as file:
        compression = _compression(path, file.peek(16))
        if compression is None:
            yield file, None
        else:
            with io.BufferedReader(compression.text(file), CHUNK) as stream:
                yield stream, compression


def binary(path: Path) -> io.BufferedReader:
    """The bytes of a file, also of one at an address, whose parts are fetched as they are read."""
    if is_address(path):
        return io.BufferedReader(cast(io.RawIOBase, path.open("rb")), CHUNK)
    return path.open("rb")


def _compression(path: Path, head: bytes) -> Compression | None:
    """The compression of a file with these first bytes."""
    for compression in COMPRESSIONS.values():
        if re.match(compression.magic, head):
            return compression
    _, ending = endings(path)
    if not ending:
        return None
    name = COMPRESSIONS[ending].name
    if not head:
        raise DamagedError(f"it has no bytes, not even those of an empty {name} file")
    raise DamagedError(
        f"it is not compressed with {name}; if it is plain text, take the {ending} off its name"
    )


def check_whole(path: Path) -> None:
    """Reads a compressed file to its end; raises `DAMAGE` if it is damaged."""
    with opened(path) as (stream, compression):
        while compression is not None and stream.read(CHUNK):
            pass


def format_of(path: Path, head: bytes) -> Format:
    """The format of a file, by its ending or, without one, by the first bytes of its text.

    Raises:
        UserError: for a file without an ending that is not UTF-8 text.
    """
    ending, _ = endings(path)
    if ending:
        return FORMATS[ending]
    if JSON_OBJECT.match(head.removeprefix(UTF8_MARK)):
        return "lines"
    # The head may end within a character.
    text = head.decode(errors="ignore")
    if b"\0" in head or len(head) - len(text.encode()) > 3:
        raise UserError(
            f"{path} has no known ending, and is not UTF-8 text; name it .txt to read its bytes as "
            "one document, or .jsonl if it has a JSON object in each line."
        )
    return "text"


def holds_lines(path: Path) -> bool:
    """Whether a file is JSON lines and not compressed, so that it can be read from any line on."""
    if is_table(path) or is_compressed(path):
        return False
    with opened(path) as (stream, compression):
        return compression is None and format_of(path, stream.peek(CHUNK)) == "lines"


def lines_before(path: Path, end: int) -> int:
    """How many lines end in the first `end` bytes of a file."""
    count = 0
    with binary(path) as file:
        while end > 0 and (block := file.read(min(end, 2**20))):
            count += block.count(b"\n")
            end -= len(block)
    return count


def json_lines(
    path: Path, stream: io.BufferedReader, within: range | None = None
) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, numbered from 1.

    Of an uncompressed file, they may be those `within` some bytes, which begin and end with lines.

    Raises:
        UserError: for JSON without one object a line.
    """
    head = stream.peek(CHUNK)
    if head.startswith(UTF16_MARKS):
        raise UserError(
            f"{path} is in UTF-16 or UTF-32, and JSON lines are in UTF-8; convert it, for example "
            "with `iconv -f UTF-16 -t UTF-8`."
        )
    text = head.removeprefix(UTF8_MARK).lstrip()
    first_line = text.partition(b"\n")[0].strip()
    is_array = first_line == b"[" or (endings(path)[0] == ".json" and text.startswith(b"["))
    if is_array or first_line == b"{":
        what, program = ("array", ".[]") if is_array else ("value", ".")
        raise UserError(
            f"{path} is one JSON {what} over all its lines, not an object in each line; rewrite "
            f"it, for example with `jq -c '{program}'`."
        )
    if within is not None and within.start:
        stream.seek(within.start)
    elif head.startswith(UTF8_MARK):
        stream.read(len(UTF8_MARK))
    for number, line in enumerate(stream if within is None else _until(stream, within.stop), 1):
        if not line.isspace():
            yield number, line


def _until(stream: io.BufferedReader, end: int) -> Iterator[bytes]:
    """The next lines of a stream that begin before `end`."""
    position = stream.tell()
    while position < end and (line := stream.readline()):
        yield line
        position += len(line)
