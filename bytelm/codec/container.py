"""The format of a compressed file.

- 8 bytes: the signature, and the version;
- 24 bytes: `Totals`, little-endian;
- 2 bytes: the length of the description;
- the description, JSON: the checkpoint, the machine, the layout;
- 4 bytes: CRC-32 of all of the above;
- the body: the stream of each block, and before it, but for the last, its length (4 bytes).

A block that its code would lengthen is stored: a stream as long as its block is that block itself.
If nothing is to be stored, the description says `"stores": false`.

In version 1 nothing was stored, and patches found the slots of rows of 512 symbols at first.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from bytelm.core.errors import UserError

SIGNATURE, VERSION, VERSIONS = b"\xb7bytelm", 2, (1, 2)
_TOTALS, _SHORT, _WORD = struct.Struct("<QQII"), struct.Struct("<H"), struct.Struct("<I")
_READ = 2**20
"""Bytes read at a time to check a body."""


@dataclass(frozen=True)
class Layout:
    """How a file is divided: into blocks, coded one after another, and those into rows.

    The bytes that a row codes are a stretch; each has a context of its own. A file of less than a
    block is one block; the last block may have fewer rows.
    """

    rows: int
    stretch: int  # bytes of each
    context: int  # symbols of a window
    stride: int  # symbols by which a full window moves on

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return self.rows * self.stretch

    def stretches(self, block: bytes) -> list[bytes]:
        """The stretches of a block; empty ones where the last block has fewer rows."""
        starts = range(0, self.block, self.stretch)
        return [block[start : start + self.stretch] for start in starts]

    def divide(self, file: bytes) -> list[bytes]:
        """The stretches of a whole file that hold any bytes."""
        return [file[start : start + self.stretch] for start in range(0, len(file), self.stretch)]

    def blocks(self, size: int) -> Iterator[tuple[int, bool]]:
        """The bytes of each block of a file of `size` bytes, and whether it is the last."""
        for start in range(0, size, self.block):
            yield min(self.block, size - start), start + self.block >= size


@dataclass(frozen=True)
class Totals:
    """What is known once a file is compressed."""

    bytes: int  # of the file
    coded_bytes: int  # of the body
    crc: int  # CRC-32 of the file
    coded_crc: int  # of the body


@dataclass(frozen=True)
class Header:
    """Everything before the body.

    Attributes:
        checkpoint: a digest of the model.
        step: of the checkpoint, for messages.
        machine: its `bytelm.codec.backend.fingerprint`.
        stores: whether a stream that is as long as its block is the block.
    """

    checkpoint: str
    step: int
    machine: dict[str, str]
    layout: Layout
    totals: Totals
    stores: bool = True
    version: int = VERSION

    def to_bytes(self) -> bytes:
        """As it stands in the file; the totals do not change its length."""
        fields = {"checkpoint": self.checkpoint, "step": self.step, "machine": self.machine}
        stores = {} if self.stores else {"stores": False}
        described = json.dumps({**fields, "layout": asdict(self.layout), **stores}).encode()
        head = SIGNATURE + bytes([self.version]) + _TOTALS.pack(*asdict(self.totals).values())
        head += _SHORT.pack(len(described)) + described
        return head + _WORD.pack(zlib.crc32(head))


def read_header(file: BinaryIO, name: str) -> Header:
    """Reads a header, and checks it; the file is then at its body.

    Args:
        file: at its beginning.
        name: of the file, for errors.

    Raises:
        UserError: if it is no compressed file, of another version, cut or damaged.
    """
    start = file.read(len(SIGNATURE) + 1)
    if start[:-1] != SIGNATURE:
        raise UserError(f"{name} is no file that `bytelm compress` wrote; name a compressed file.")
    if (version := start[-1]) not in VERSIONS:
        raise UserError(
            f"{name} has version {version} of the format, and this bytelm reads version "
            f"{' and '.join(map(str, VERSIONS))}; decompress it with the bytelm that wrote it."
        )
    try:
        totals = file.read(_TOTALS.size)
        size = file.read(_SHORT.size)
        described = file.read(*_SHORT.unpack(size))
        (crc,) = _WORD.unpack(file.read(_WORD.size))
        if crc != zlib.crc32(start + totals + size + described):
            raise ValueError
        fields: dict[str, Any] = json.loads(described)
        return Header(
            fields["checkpoint"],
            fields["step"],
            fields["machine"],
            Layout(**fields["layout"]),
            Totals(*_TOTALS.unpack(totals)),
            stores=version > 1 and fields.get("stores", True),
            version=version,
        )
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name} is damaged in its first bytes; get another copy of it.") from error


def check_body(file: BinaryIO, totals: Totals, name: str) -> None:
    """Reads the body, and returns to its beginning; raises UserError if it is cut or damaged."""
    begin, size, crc = file.tell(), 0, 0
    while part := file.read(_READ):
        size, crc = size + len(part), zlib.crc32(part, crc)
    if size < totals.coded_bytes:
        missing = totals.coded_bytes - size
        raise UserError(f"{name} is cut: its last {missing:,} bytes are missing; get all of it.")
    if size > totals.coded_bytes or crc != totals.coded_crc:
        raise UserError(f"{name} is damaged; get another copy of it.")
    file.seek(begin)


def write_block(file: BinaryIO, stream: bytes, *, last: bool) -> bytes:
    """Writes a block; returns the bytes that were written."""
    block = stream if last else _WORD.pack(len(stream)) + stream
    file.write(block)
    return block


def read_block(file: BinaryIO, *, last: bool) -> bytes:
    """The stream of the next block of a body that `check_body` accepts."""
    return file.read() if last else file.read(*_WORD.unpack(file.read(_WORD.size)))
