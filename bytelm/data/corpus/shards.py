"""Training rows that give models of bytes and of tokens the same text in the same order.

Documents are cut into shards of equal bytes, which are shuffled in each epoch. The symbols of the
shuffled shards, one after another, are cut into rows. A shard begins without context.
"""

import functools

import numpy as np

from bytelm.data.corpus.packing import Arrays, Corpus, Indices, Rows


class ShardRows(Rows):
    """A corpus in shards, as rows of T symbols: each byte and END is a target once in an epoch.

    A shard has `shard_bytes` bytes of a document; a token belongs to the shard in which it starts.
    """

    def __init__(self, corpus: Corpus, length: int, shard_bytes: int, seed: int) -> None:
        super().__init__(corpus, length)
        self._starts = shard_starts(corpus, shard_bytes)
        self._seed = seed
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        self._origin = (corpus, length, shard_bytes, seed)

    def __reduce__(self) -> tuple[type["ShardRows"], tuple[object, ...]]:
        """Worker processes recompute the shards."""
        return ShardRows, self._origin

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        """Rows by their places in the endless order, as `Rows.batch` gives them.

        `document_ids` number the shards of a row.
        """
        return self.joined([self._parts(int(p)) for p in (indices if places is None else places)])

    def _parts(self, place: int) -> np.ndarray:
        epoch, index = divmod(place, len(self))
        return stretch(*self._order(epoch), index * self.length, self.length)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The first positions of the shuffled shards, and their edges in the shuffled stream."""
        # RandomState, because numpy promises never to change its streams.
        seed = (self._seed + epoch) % 2**32
        order = np.random.RandomState(seed).permutation(len(self._starts) - 1)
        return self._starts[order], edges_of(np.diff(self._starts)[order])


def edges_of(sizes: np.ndarray) -> np.ndarray:
    """Where parts of these sizes begin and end, one after another, int64 `[parts + 1]`."""
    return np.concatenate([[0], np.cumsum(sizes)])


def stretch(first: np.ndarray, edges: np.ndarray, begin: int, length: int) -> np.ndarray:
    """A stretch of a stream that joins parts of a corpus, as a row for `Rows.joined`.

    `first` has the parts' first positions in the corpus, int64 `[parts]`, and `edges` is `edges_of`
    their sizes.
    """
    end = min(begin + length, int(edges[-1]))
    low, high = np.searchsorted(edges, begin, side="right") - 1, np.searchsorted(edges, end)
    begins, ends = np.maximum(edges[low:high], begin), np.minimum(edges[low + 1 : high + 1], end)
    return np.stack([first[low:high] + begins - edges[low:high], ends - begins], axis=1)


def shard_starts(corpus: Corpus, shard_bytes: int) -> np.ndarray:
    """The position of each shard's first symbol, then `num_symbols`, int64 `[shards + 1]`."""
    found = []
    for first, last in zip(corpus.starts[:-1].tolist(), corpus.starts[1:].tolist(), strict=True):
        size = last - first - 2
        if corpus.byte_counts is None:
            cuts = np.arange(shard_bytes, size, shard_bytes)
        else:
            counts = corpus.byte_counts[corpus.symbols[first + 1 : last - 1]]
            ends = np.cumsum(counts, dtype=np.int64)
            edges = np.arange(shard_bytes, ends[-1] if size else 0, shard_bytes)
            cuts = np.searchsorted(ends - counts, edges)
        # START belongs to a document's first shard, END to its last.
        found += [[first], first + 1 + cuts]
    return np.concatenate([*found, [corpus.num_symbols]]).astype(np.int64)
