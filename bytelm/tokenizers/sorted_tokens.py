"""Tokens sorted by their bytes, so that tokens with a common prefix are neighbours."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np


class SortedTokens:
    """Tokens sorted by their bytes; tokens with a common prefix are a slice.

    Args:
        token_bytes: the bytes of each id; ids without bytes are left out.

    Attributes:
        ids: int64 `[N]`, in sorted order.
        everything: the slice of all tokens.
    """

    def __init__(self, token_bytes: Sequence[bytes]):
        ids = [index for index, text in enumerate(token_bytes) if text]
        ids.sort(key=lambda index: token_bytes[index])
        self.ids = np.array(ids, np.int64)
        self.everything = slice(0, len(ids))
        self._texts = [token_bytes[index] for index in ids]
        self._content = np.frombuffer(b"".join(self._texts), np.uint8)
        lengths = np.array([len(text) for text in self._texts], np.int64)
        self._starts = np.cumsum(lengths) - lengths
        self._above = b"\xff" * (1 + max(map(len, self._texts), default=0))

    def starting_with(self, text: bytes, within: slice) -> tuple[slice, slice]:
        """The tokens within a slice that equal `text`, and the longer ones that start with it."""
        low = bisect_left(self._texts, text, within.start, within.stop)
        longer = bisect_right(self._texts, text, low, within.stop)
        high = bisect_left(self._texts, text + self._above, longer, within.stop)
        return slice(low, longer), slice(longer, high)

    def bytes_at(self, depth: int, span: slice) -> np.ndarray:
        """Byte `depth`, from 0, of each token of a slice, uint8; all must have it."""
        return self._content[self._starts[span] + depth]
