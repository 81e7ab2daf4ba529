"""The arrays of several files, one after another, read as one array."""

import bisect
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bytelm.data.corpus.entries import CheckedArray

MOST_MAPPED = 256
"""Files that are mapped at a time: each takes a file descriptor."""


class JoinedArray:
    """One-dimensional arrays one after another; indexing with slices gives plain arrays.

    A slice within one array is a view. Arrays are opened when they are first read; those not read
    lately are closed, and what was checked of them is remembered.
    """

    def __init__(
        self, dtype: Any, lengths: Sequence[int], open_part: Callable[[int], CheckedArray]
    ) -> None:
        """Opens nothing yet; `open_part` opens the array with an index, of `lengths[index]`."""
        self._dtype = np.dtype(dtype)
        self._edges = np.cumsum([0, *lengths], dtype=np.int64).tolist()
        self._unchecked: dict[int, bytearray] = {}
        self._open = open_part
        self._part = functools.lru_cache(MOST_MAPPED)(self._opened)

    def __len__(self) -> int:
        return int(self._edges[-1])

    def __getitem__(self, indices: slice) -> np.ndarray:
        first, last, _ = indices.indices(len(self))
        if first >= last:
            return np.zeros(0, self._dtype)
        part = bisect.bisect_right(self._edges, first) - 1
        begin = self._edges[part]
        if last <= self._edges[part + 1]:
            return self._part(part)[first - begin : last - begin]
        found = []
        while first < last:
            begin, end = self._edges[part : part + 2]
            found.append(self._part(part)[first - begin : min(last, end) - begin])
            first, part = end, part + 1
        return np.concatenate(found)

    def tobytes(self) -> bytes:
        return self[:].tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype, copy=copy)

    def _opened(self, index: int) -> CheckedArray:
        array = self._open(index)
        array.unchecked = self._unchecked.setdefault(index, array.unchecked)
        return array
