"""Training rows that give models of bytes and of tokens the same text in the same order.

Documents are cut into shards of equal bytes, which are shuffled in each epoch. The symbols of the
shuffled shards, one after another, are cut into rows. A shard begins without context.
"""

import functools

import numpy as np

from bytelm.core.vocabulary import UNSCORED
from bytelm.data.corpus.packing import Arrays, Corpus, CorpusRows, Indices


class ShardRows(CorpusRows):
    """A corpus in shards, as rows of T symbols: each byte and END is a target once in an epoch.

    Args:
        corpus: of bytes or tokens.
        length: T.
        shard_bytes: bytes of a document in each shard; a token belongs to the shard in which it
            starts.
        seed: of the order.
    """

    def __init__(self, corpus: Corpus, length: int, shard_bytes: int, seed: int) -> None:
        super().__init__(corpus)
        self.length = length
        self._starts = shard_starts(corpus, shard_bytes)
        self._seed = seed
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        self._origin = (corpus, length, shard_bytes, seed)

    def __reduce__(self) -> tuple[type["ShardRows"], tuple[object, ...]]:
        """Worker processes recompute the shards."""
        return ShardRows, self._origin

    def __len__(self) -> int:
        return -(-self.corpus.num_symbols // self.length)

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        """Rows by their places in the endless order, as `Rows.batch` gives them.

        `document_ids` number the shards of a row.
        """
        rows = [self._row(int(place)) for place in (indices if places is None else places)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the shards, and the end of each in the shuffled stream, int64 `[shards]`."""
        # RandomState, because numpy promises never to change its streams.
        seed = (self._seed + epoch) % 2**32
        order = np.random.RandomState(seed).permutation(len(self._starts) - 1)
        return order, np.cumsum(np.diff(self._starts)[order])

    def _row(self, place: int) -> Arrays:
        epoch, index = divmod(place, len(self))
        order, ends = self._order(epoch)
        wanted = np.arange(index * self.length, (index + 1) * self.length)
        wanted = wanted[wanted < self.corpus.num_symbols]  # [N]
        rank = np.searchsorted(ends, wanted, side="right")
        positions = self._starts[order[rank] + 1] - (ends[rank] - wanted)
        ids = self._symbols(positions)
        following = self._symbols(np.minimum(positions + 1, self.corpus.num_symbols - 1))
        row = {
            "ids": ids,
            "targets": np.where(ids == self.corpus.vocabulary.end, UNSCORED, following),
            "document_ids": 1 + rank - rank[:1],
        }
        if self.corpus.scripts is not None:
            row["scripts"] = self.corpus.scripts[self._documents(positions)]
        return self._padded(self.length, **row)

    def _documents(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.corpus.starts, positions, side="right") - 1

    def _symbols(self, positions: np.ndarray) -> np.ndarray:
        starts, vocabulary = self.corpus.starts, self.corpus.vocabulary
        document = self._documents(positions)
        symbols = self.corpus.symbols[positions].astype(np.int32)
        symbols[positions == starts[document]] = vocabulary.start
        symbols[positions + 1 == starts[document + 1]] = vocabulary.end
        return symbols


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
