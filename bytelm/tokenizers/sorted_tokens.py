"""The tokens of a vocabulary sorted by their bytes: those with a common prefix are neighbours."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np


class SortedTokens:
    """Tokens sorted by their bytes; a span of places stands for all that start with some bytes.

    Args:
        token_bytes: the bytes of each id; ids of no bytes are left out, ids of equal bytes kept.

    Attributes:
        ids: int64 `[N]`, the id at each place.
        everything: the span of all places.
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
        """The tokens of a span that are `text`, and those that start with it and are longer."""
        low = bisect_left(self._texts, text, within.start, within.stop)
        longer = bisect_right(self._texts, text, low, within.stop)
        high = bisect_left(self._texts, text + self._above, longer, within.stop)
        return slice(low, longer), slice(longer, high)

    def bytes_at(self, depth: int, span: slice) -> np.ndarray:
        """Byte number `depth` of each token of a span, uint8; all must be longer than that."""
        return self._content[self._starts[span] + depth]
