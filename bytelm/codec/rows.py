"""The range coder, and the loop over symbols that both sides run.

One stream has the symbols of all rows: the first of each row, then the second of each, and so on.

Shapes: R = rows, n = rows that have not ended, V = outputs.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import constriction
import numpy as np

from bytelm.codec.frequencies import TOTAL, Frequencies

# Gives each symbol 1, and divides the rest in proportion: free frequencies stay as they are.
_FAMILY = constriction.stream.model.Categorical(perfect=False)
WORD = np.dtype("<u4")
"""A word of the stream."""


class Diverged(Exception):
    """A decoder found symbols that no encoder wrote: its frequencies differ."""


class Side(Protocol):
    """One side of the codec."""

    def next(self, free: np.ndarray, reading: np.ndarray) -> np.ndarray:
        """The next symbols, int32 `[n]`, of the rows `reading`, bool `[R]`.

        `free` are their free frequencies, float32 `[n, V]`.
        """
        ...


class Encoder:
    """Writes symbols that it knows.

    Attributes:
        bits: what the symbols cost by their frequencies.
    """

    def __init__(self, symbols: Sequence[np.ndarray]):
        """Takes the symbols of each row, integers."""
        self._symbols = np.zeros((len(symbols), max(map(len, symbols))), np.int32)
        for row, own in zip(self._symbols, symbols, strict=True):
            row[: len(own)] = own
        self._coder, self._place, self.bits = constriction.stream.queue.RangeEncoder(), 0, 0.0

    def next(self, free: np.ndarray, reading: np.ndarray) -> np.ndarray:
        symbols = self._symbols[reading, self._place]
        self._place += 1
        self._coder.encode(symbols, _FAMILY, free)
        chosen = np.take_along_axis(free, symbols[:, None], axis=1).astype(np.float64)
        self.bits -= float(np.log2((1 + chosen) / TOTAL).sum())
        return symbols

    def stream(self) -> bytes:
        """What was written so far, in whole words."""
        return self._coder.get_compressed().astype(WORD).tobytes()


class Decoder:
    """Reads the symbols of a stream."""

    def __init__(self, stream: bytes):
        self._coder = constriction.stream.queue.RangeDecoder(
            np.frombuffer(stream, WORD).astype(np.uint32)
        )

    def next(self, free: np.ndarray, reading: np.ndarray) -> np.ndarray:
        try:
            return self._coder.decode(_FAMILY, free)
        except AssertionError as error:  # no encoder writes such words with these frequencies
            raise Diverged from error


def run(
    side: Side,
    frequencies: Frequencies,
    start: int,
    sizes: Sequence[int],
    byte_counts: np.ndarray,
    done: Callable[[int], None],
) -> list[np.ndarray]:
    """Codes the symbols of all rows, and returns them, int32 `[symbols]` of each row.

    Args:
        start: the symbol before the first of a row.
        sizes: bytes of each row, which say where it ends.
        byte_counts: int `[inputs]`, bytes of each symbol.
        done: called with the number of bytes that were just coded.
    """
    left, last = np.array(sizes), np.full(len(sizes), start, np.int32)
    columns = []
    while (reading := left > 0).any():
        free = frequencies.after(last, reading)
        symbols = side.next(free if reading.all() else free[reading], reading)
        counts = byte_counts[symbols]
        last[reading] = symbols
        left[reading] -= counts
        if (counts == 0).any() or (left < 0).any():
            raise Diverged
        columns.append(np.where(reading, last, -1))
        done(int(counts.sum()))
    return [row[row >= 0] for row in np.array(columns, np.int32).reshape(-1, len(sizes)).T]
