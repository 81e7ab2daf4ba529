"""The end of a generated text: at END, at a stop string, or at the most bytes allowed."""

import sys
from collections.abc import Sequence

import numpy as np

from bytelm.core.vocabulary import END
from bytelm.tokenizers.tokenizer import Tokenizer


class StopFilter:
    """Turns the symbols of one row into bytes, until END or a stop string ends the row.

    Bytes that may start a stop string are held back until that is certain. Of several stop strings,
    the one completed first ends the row, however the symbols are divided into calls.

    Args:
        stop: the stop strings.
        max_bytes: the row ends after this many bytes, even inside a token; None for no limit.
        tokenizer: of a subword model; None where symbols are bytes.
    """

    def __init__(
        self,
        stop: Sequence[bytes],
        max_bytes: int | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        self.ended = False
        self._stop = stop
        self._held = b""
        self._left = sys.maxsize if max_bytes is None else max_bytes
        self._tokenizer = tokenizer
        self._end = END if tokenizer is None else tokenizer.vocabulary.end

    def feed(self, symbols: np.ndarray) -> bytes:
        """Takes the next symbols, integers `[N]`; returns the bytes that are certain now."""
        if self.ended:
            return b""
        ends = np.flatnonzero(symbols == self._end)
        new = self._text(symbols[: ends[0]] if ends.size else symbols)[: self._left]
        self._left -= len(new)
        self._held += new
        found = [
            (start + len(stop), start)
            for stop in self._stop
            if (start := self._held.find(stop)) >= 0
        ]
        if found:
            self.ended = True
            self._held, text = b"", self._held[: min(found)[1]]
            return text
        if ends.size or not self._left:
            self.ended = True
            return self.flush()
        cut = len(self._held) - max((self._begun(stop) for stop in self._stop), default=0)
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def flush(self) -> bytes:
        """Returns the bytes still held back, when no more symbols come."""
        text, self._held = self._held, b""
        return text

    def _text(self, symbols: np.ndarray) -> bytes:
        if self._tokenizer is not None:
            return self._tokenizer.decode(symbols)
        return symbols.astype(np.uint8).tobytes()

    def _begun(self, stop: bytes) -> int:
        """How many bytes of a stop string the held bytes end with."""
        return next(n for n in range(len(stop) - 1, -1, -1) if self._held.endswith(stop[:n]))
