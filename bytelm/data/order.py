"""The order of rows: row r of global batch s depends only on the seed, s and r."""

import functools
import hashlib
import sys
from collections.abc import Sequence

import grain
import numpy as np

from bytelm.data.corpus.packing import Arrays, ConcatenatedRows

SMALL = 2**16
"""Most rows whose order is kept in memory; Grain's shuffle is slow for few rows."""


class ShuffledRows:
    """The rows of all sources in an endless order; the row at a place is always the same.

    Every epoch shuffles every source again, and sources are mixed by their weights.
    """

    def __init__(self, rows: ConcatenatedRows, weights: Sequence[float], seed: int) -> None:
        self._rows = rows
        orders = [
            EndlessShuffle(int(end) - len(source), len(source), source_seed(seed, index))
            for index, (source, end) in enumerate(zip(rows.sources, rows.ends, strict=True))
        ]
        self._order: EndlessShuffle | grain.MapDataset[int] = orders[0]
        if len(orders) > 1:
            self._order = grain.MapDataset.mix(
                [grain.MapDataset.source(order) for order in orders], weights
            )

    def batch(self, first: int, count: int) -> Arrays:
        """The rows at `count` places from `first` on, as `RowSource.batch` gives them."""
        places = range(first, first + count)
        return self._rows.batch([self._order[place] for place in places], places)


class EndlessShuffle:
    """The integers `first` to `first + count - 1`, endlessly, in a new random order each epoch."""

    def __init__(self, first: int, count: int, seed: int) -> None:
        self._first = first
        self._count = count
        self._seed = seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> int:
        epoch, index = divmod(place, self._count)
        seed = (self._seed + epoch) % 2**32
        if self._count <= SMALL:
            return self._first + int(_permutation(self._count, seed)[index])
        return self._first + grain.experimental.index_shuffle(
            index, max_index=self._count - 1, seed=seed, rounds=4
        )


@functools.lru_cache(maxsize=16)
def _permutation(count: int, seed: int) -> np.ndarray:
    # RandomState, because numpy promises never to change its streams.
    return np.random.RandomState(seed).permutation(count)


def source_seed(seed: int, index: int) -> int:
    """A seed of 32 bits for the source with this index in a run."""
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest)
