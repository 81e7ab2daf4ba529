"""Rows that represent a corpus: a small part of it, spread over its documents.

Each document is cut every T symbols, at a phase that a hash of its text decides. Another hash picks
as many of these fragments as are wanted, all with the same probability. So nats over bytes of the
picked fragments are an unbiased estimate of the corpus's. The order of the documents and the names
of files do not matter, and added documents replace few fragments. If training cuts documents into
shards that begin without context, the fragments are those shards.
"""

import bisect
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from bytelm.data.corpus.packing import Arrays, Corpus, Indices, Rows, RowSource
from bytelm.data.corpus.shards import edges_of, shard_starts, stretch

SEED = 20201
"""Decides which fragments are picked; the same in every run."""
KEYED = 2**12
"""A document is identified by its length and this many of its first symbols."""


class SpreadRows:
    """Rows of T symbols: fragments that are spread over a corpus, one or several in each row.

    Args:
        corpus: of bytes or tokens.
        length: T.
        wanted: about how many rows; a smaller corpus gives all its text.
        shard_bytes: size of the shards that training cuts documents into, if it does; they are then
            the fragments, the same for bytes and tokens.
        text: the documents as bytes, by which fragments are picked; None if `corpus` has bytes.
    """

    def __init__(
        self,
        corpus: Corpus,
        length: int,
        wanted: int,
        *,
        shard_bytes: int | None = None,
        text: Corpus | None = None,
    ) -> None:
        self._rows = Rows(corpus, length)
        keys = _document_keys(text or corpus)
        if shard_bytes is None:
            edges = _edges_at_phases(np.asarray(corpus.starts, np.int64), keys, length)
        else:
            edges = shard_starts(corpus, shard_bytes)
        parts = _picked(corpus, edges, keys, wanted * length)
        first, sizes = parts.T
        self.size = int(sizes.sum())
        """Symbols in all rows."""
        self._plan: list[np.ndarray]  # of each row, as `Rows.joined` takes it
        if shard_bytes is None:
            self._plan = [parts[row] for row in fit(sizes.tolist(), length)]
        else:
            ends = edges_of(sizes)
            self._plan = [
                stretch(first, ends, begin, length) for begin in range(0, self.size, length)
            ]

    def __len__(self) -> int:
        return len(self._plan)

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        """Several rows, as `Rows.batch` gives them; `places` have no effect."""
        padding = np.zeros((0, 2), np.int64)
        wanted = [self._plan[index] if index < len(self) else padding for index in indices]
        return self._rows.joined(wanted)


def _edges_at_phases(starts: np.ndarray, keys: np.ndarray, length: int) -> np.ndarray:
    """The first position of each fragment, if documents are cut at phases; then `num_symbols`."""
    sizes = np.diff(starts)
    # The first cut of a document is 1 to T symbols after its start.
    phases = 1 + (_mixed(keys) % np.uint64(length)).astype(np.int64)
    counts = 1 + np.maximum(0, -(-(sizes - phases) // length))
    document = np.repeat(np.arange(len(sizes)), counts)
    ordinal = _ranges(counts)
    begin = np.where(ordinal == 0, 0, phases[document] + (ordinal - 1) * length)
    return np.append(starts[document] + begin, starts[-1])


def _picked(corpus: Corpus, edges: np.ndarray, keys: np.ndarray, symbols: int) -> np.ndarray:
    """The picked fragments, with `symbols` symbols or a few more: first positions and sizes."""
    first, size = edges[:-1], np.diff(edges)
    document = np.searchsorted(corpus.starts, first, side="right") - 1
    ordinal = _ranges(np.bincount(document, minlength=corpus.num_documents))
    hashes = _mixed(keys[document] + _mixed(ordinal.astype(np.uint64)))
    order = np.argsort(hashes, kind="stable")
    # The last one may exceed the wanted size: without it, long fragments would be too rare.
    before = np.cumsum(size[order]) - size[order]
    picked = order[: np.searchsorted(before, symbols)]
    parts = np.stack([first, size], axis=1)[picked]
    return parts[parts[:, 1] > 0]


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0 to n - 1 for each n in `counts`, concatenated."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _document_keys(corpus: Corpus) -> np.ndarray:
    """A hash of each document's text and of how many copies come before it, uint64."""
    keys = np.empty(corpus.num_documents, np.uint64)
    starts = np.asarray(corpus.starts).tolist()
    for index, (begin, end) in enumerate(itertools.pairwise(starts)):
        text = corpus.symbols[begin + 1 : min(end - 1, begin + 1 + KEYED)].tobytes()
        key = f"{SEED} {end - begin}".encode()
        digest = hashlib.blake2b(text, digest_size=8, key=key).digest()
        keys[index] = int.from_bytes(digest, "little")
    return _mixed(keys + _mixed(_occurrences(keys)))


def _occurrences(keys: np.ndarray) -> np.ndarray:
    """How many equal keys come before each, uint64."""
    order = np.argsort(keys, kind="stable")
    found = np.empty(len(keys), np.uint64)
    found[order] = _ranges(np.unique(keys, return_counts=True)[1])
    return found


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64 of each uint64: a hash whose bits look random."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Puts items of sizes up to `length` into few rows of `length`: best fit, large items first.

    Returns:
        the indices of the items in each row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free symbols of a row, its index), sorted
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        best = bisect.bisect_left(free, (sizes[item], -1))
        if best < len(free):
            left, row = free.pop(best)
        else:
            left, row = length, len(rows)
            rows.append([])
        rows[row].append(item)
        bisect.insort(free, (left - sizes[item], row))
    return rows


class DrawnRows:
    """Some rows of a source whose rows are independent examples; `chosen` are their indices."""

    def __init__(self, rows: RowSource, chosen: np.ndarray) -> None:
        self._source = rows
        self._chosen = chosen
        self.size = len(chosen)
        """Weight of all rows; each one counts the same."""

    def __len__(self) -> int:
        return len(self._chosen)

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        """Several rows, as `RowSource.batch` gives them; `places` have no effect."""
        # An index past the last row gives a row of padding.
        chosen = np.append(self._chosen, len(self._source))
        return self._source.batch(chosen[np.minimum(indices, len(self))])


def drawn_rows(rows: RowSource, wanted: int) -> DrawnRows:
    """`wanted` rows, or all if there are fewer, drawn by a hash of their indices.

    Rows that are added at the end replace few of them.
    """
    keys = _mixed(np.arange(len(rows), dtype=np.uint64) + np.uint64(SEED))
    return DrawnRows(rows, np.sort(np.argsort(keys, kind="stable")[:wanted]))
