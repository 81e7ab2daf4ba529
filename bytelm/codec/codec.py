"""A model as a compressor of files of any bytes.

A file is divided into stretches, which are the rows of a batch and are coded symbol by symbol
(`bytelm.codec.container.Layout`). In a subword model the symbols are the canonical tokens of each
stretch. A stretch ends where its bytes do, so END is not coded. The layout depends on the file's
size and on `rows`, and stands in the header: whoever decompresses the file chooses nothing.

In HAT the ends of words follow from the bytes and are not coded: a file takes fewer bits than the
model's score, which has them.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from flax import nnx

from bytelm.codec import backend
from bytelm.codec.container import (
    Header,
    Layout,
    Totals,
    check_body,
    read_block,
    read_header,
    write_block,
)
from bytelm.codec.frequencies import Frequencies
from bytelm.codec.rows import Decoder, Diverged, Encoder, Side, run
from bytelm.core.checked import require_positive
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTE_VOCABULARY, BYTES
from bytelm.inference.scoring import default_stride
from bytelm.tokenizers.tokenizer import Tokenizer

ROWS = 64
"""Rows of a large file: the model reads a symbol of each in a step."""
SHORTEST, LONGEST = 2**11, 2**16
"""Bytes of a stretch: a shorter one costs more bits at its beginning; a block fits in memory."""

Done = Callable[[int], None]


class Codec:
    """Compresses and decompresses files with one model.

    Args:
        graphdef, params: of the model, in its form for decoding.
        checkpoint: a digest of the model; files of another one are refused.
        step: of the checkpoint, for messages.
        context: symbols of a window.
        tokenizer: of a subword model; None where symbols are bytes.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: Any,
        *,
        checkpoint: str,
        step: int,
        context: int,
        tokenizer: Tokenizer | None = None,
    ):
        self._graphdef, self._params = graphdef, params
        self._checkpoint, self._step, self._context = checkpoint, step, context
        self._tokenizer = tokenizer
        self._vocabulary = BYTE_VOCABULARY if tokenizer is None else tokenizer.vocabulary
        counts = np.arange(self._vocabulary.inputs) < BYTES
        self._byte_counts = counts.astype(np.int32) if tokenizer is None else tokenizer.byte_counts

    def layout(self, size: int, rows: int = ROWS) -> Layout:
        """How a file of `size` bytes is divided: `rows` are halved for a short one."""
        require_positive("rows", rows)
        while rows > 1 and size < rows * SHORTEST:
            rows //= 2
        blocks = max(1, -(-size // (rows * LONGEST)))
        stretch = max(1, -(-size // (rows * blocks)))
        return Layout(rows, stretch, self._context, default_stride(self._context))

    def compress(
        self,
        source: BinaryIO,
        target: BinaryIO,
        size: int,
        *,
        rows: int = ROWS,
        stores: bool = True,
        done: Done = lambda count: None,
    ) -> Header:
        """Compresses the next `size` bytes of `source` into `target`, which can seek.

        Args:
            rows: of a large file; more need more memory, and code more bytes in a step.
            stores: whether a block that its code would lengthen is stored as it is.
            done: called after each step with the number of bytes that it coded.

        Raises:
            UserError: if `source` has fewer bytes.
        """
        layout = self.layout(size, rows)
        nothing = Totals(size, 0, 0, 0)
        machine = backend.fingerprint()
        header = Header(self._checkpoint, self._step, machine, layout, nothing, stores)
        begin, coded, crc, coded_crc = target.tell(), 0, 0, 0
        target.write(header.to_bytes())
        for count, last in layout.blocks(size):
            block = source.read(count)
            if len(block) < count:
                raise UserError("the file became shorter while it was compressed; try again.")
            stream = self._encode(block, header, done)
            if stores and len(stream) >= count:
                stream = block
            written = write_block(target, stream, last=last)
            coded, crc = coded + len(written), zlib.crc32(block, crc)
            coded_crc = zlib.crc32(written, coded_crc)
        header = replace(header, totals=Totals(size, coded, crc, coded_crc))
        target.seek(begin)
        target.write(header.to_bytes())
        target.seek(0, io.SEEK_END)
        return header

    def decompress(
        self,
        source: BinaryIO,
        target: BinaryIO,
        *,
        name: str = "the file",
        done: Done = lambda count: None,
    ) -> Header:
        """Writes what was compressed into `source`, which can seek, to `target`.

        Args:
            name: of the source, for errors.
            done: as in `compress`.

        Raises:
            UserError: if it is no compressed file, damaged, or of another model or machine.
        """
        header = read_header(source, name)
        check_body(source, header.totals, name)
        self._check(header, name)
        crc = 0
        for count, last in header.layout.blocks(header.totals.bytes):
            try:
                stream = read_block(source, last=last)
                stored = header.stores and len(stream) == count
                block = stream if stored else self._decode(stream, count, header, done)
            except Diverged:
                break
            crc = zlib.crc32(block, crc)
            target.write(block)
        else:
            if crc == header.totals.crc:
                return header
        raise UserError(
            f"{name} cannot be decompressed: the model gives other probabilities here than where "
            "it was compressed; use the same versions of bytelm and JAX on the same machine."
        )

    def _check(self, header: Header, name: str) -> None:
        """Raises UserError if a file is of another model or machine."""
        if header.checkpoint != self._checkpoint:
            raise UserError(
                f"{name} was compressed with another checkpoint (of step {header.step}, digest "
                f"{header.checkpoint}; this is step {self._step}, {self._checkpoint}); name that "
                "one with --checkpoint."
            )
        if differs := backend.difference(header.machine, backend.fingerprint()):
            raise UserError(
                f"{name} was compressed where floats are rounded otherwise ({differs}); decompress "
                "it on such a machine."
            )

    def _encode(self, block: bytes, header: Header, done: Done) -> bytes:
        stretches = header.layout.stretches(block)
        encoder = Encoder([self._symbols(stretch) for stretch in stretches])
        self._run(encoder, stretches, header, done)
        return encoder.stream()

    def _decode(self, stream: bytes, size: int, header: Header, done: Done) -> bytes:
        stretches = header.layout.stretches(bytes(size))
        rows = self._run(Decoder(stream), stretches, header, done)
        return b"".join(map(self._bytes, rows))

    def _run(
        self, side: Side, stretches: list[bytes], header: Header, done: Done
    ) -> list[np.ndarray]:
        layout = header.layout
        frequencies = Frequencies(
            self._graphdef,
            self._params,
            self._vocabulary,
            rows=layout.rows,
            context=layout.context,
            stride=layout.stride,
            whole=header.version > 1,
        )
        start, sizes = self._vocabulary.start, list(map(len, stretches))
        return run(side, frequencies, start, sizes, self._byte_counts, done)

    def _symbols(self, text: bytes) -> np.ndarray:
        tokenizer = self._tokenizer
        return np.frombuffer(text, np.uint8) if tokenizer is None else tokenizer.encode(text)

    def _bytes(self, symbols: np.ndarray) -> bytes:
        if self._tokenizer is None:
            return symbols.astype(np.uint8).tobytes()
        return self._tokenizer.decode(symbols)
