"""Rows that represent a corpus: a small part of it, spread over its documents.

The figure of a corpus, with the context that rows give, is that of its documents cut every T
symbols. Here each document is cut at a phase that its text decides, and a fixed hash picks as many
fragments as are wanted, all with the same probability: nats over bytes of those are an unbiased
estimate of the corpus's. Neither the order of the documents nor the names of files change what is
picked, and documents that are added replace few fragments. If training cuts documents into shards
that begin without context, the fragments are those shards.
"""

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bytelm.data.corpus.packing import Corpus, Rows, RowSource
from bytelm.data.corpus.shards import shard_starts

SEED = 20201
"""Decides what is picked; the same in every run."""
KEYED = 2**12
"""Symbols at the start of a document that, with its length, distinguish it from others."""


class SpreadRows:
    """Rows of T symbols: fragments that are spread over a corpus, one or several in each row.

    Args:
        corpus: of bytes or tokens.
        length: T.
        wanted: about how many rows; all text is taken where it has no more.
        shard_bytes: where training cuts documents into shards of so many bytes, those are the
            fragments, the same for bytes and tokens; None where it does not.
        text: of the documents as bytes, by which fragments are picked; None where `corpus` is it.
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
            cut = _cut_at_phases(np.asarray(corpus.starts, np.int64), keys, length)
        else:
            cut = _cut_in_shards(corpus, shard_bytes)
        picked = _picked(cut, keys, wanted * length)
        fragments = list(zip(cut.first[picked].tolist(), cut.size[picked].tolist(), strict=True))
        self.size = int(cut.size[picked].sum())
        """Symbols in all rows."""
        if shard_bytes is None:
            rows = fit([size for _, size in fragments], length)
            self._plan = [[fragments[number] for number in row] for row in rows]
        else:
            self._plan = _in_a_row(fragments, length)

    def __len__(self) -> int:
        return len(self._plan)

    def batch(
        self, indices: Sequence[int] | np.ndarray, places: Sequence[int] | np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Several rows, as `Rows.batch` gives them; `places` have no effect."""
        batch = self._rows.batch([len(self._rows)] * len(indices))  # padding
        for row, index in enumerate(np.asarray(indices).tolist()):
            if index >= len(self):
                continue
            fragments = self._plan[index]
            found = self._rows.at(np.array([first for first, _ in fragments], np.int64))
            begin = 0
            for number, (_, size) in enumerate(fragments):
                for name, values in found.items():
                    batch[name][row, begin : begin + size] = values[number, :size]
                batch["document_ids"][row, begin : begin + size] = number + 1
                begin += size
        return batch


class Cut(NamedTuple):
    """Documents in fragments, each int64 `[fragments]`.

    Attributes:
        first: position of its first symbol.
        size: its symbols.
        document: that it is of.
        number: of the fragment in its document, from 0.
    """

    first: np.ndarray
    size: np.ndarray
    document: np.ndarray
    number: np.ndarray


def _cut_at_phases(starts: np.ndarray, keys: np.ndarray, length: int) -> Cut:
    """Each document cut every `length` symbols at a phase that its key decides."""
    sizes = np.diff(starts)
    # Where a document is first cut: 1 to T symbols after its start.
    phases = 1 + (_mixed(keys) % np.uint64(length)).astype(np.int64)
    counts = 1 + np.maximum(0, -(-(sizes - phases) // length))
    document = np.repeat(np.arange(len(sizes)), counts)
    number = _numbers(counts)
    begin = np.where(number == 0, 0, phases[document] + (number - 1) * length)
    end = np.minimum(phases[document] + number * length, sizes[document])
    return Cut(starts[document] + begin, end - begin, document, number)


def _cut_in_shards(corpus: Corpus, shard_bytes: int) -> Cut:
    """Each document cut as training on shards does."""
    starts = shard_starts(corpus, shard_bytes)
    first, size = starts[:-1], np.diff(starts)
    document = np.searchsorted(corpus.starts, first, side="right") - 1
    counts = np.bincount(document, minlength=corpus.num_documents)
    return Cut(first, size, document, _numbers(counts))


def _numbers(counts: np.ndarray) -> np.ndarray:
    """0 to n - 1 for each n of the counts, one after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _picked(cut: Cut, keys: np.ndarray, symbols: int) -> np.ndarray:
    """Which fragments are picked, in the order of their hashes: `symbols` or a few more."""
    hashes = _mixed(keys[cut.document] + _mixed(cut.number.astype(np.uint64)))
    order = np.argsort(hashes, kind="stable")
    # The one that makes them enough is picked too: without it long ones would be too rare.
    before = np.cumsum(cut.size[order]) - cut.size[order]
    return order[: np.searchsorted(before, symbols)]


def _in_a_row(fragments: Sequence[tuple[int, int]], length: int) -> list[list[tuple[int, int]]]:
    """Fragments (first, size) one after another, cut where a row of `length` ends."""
    rows: list[list[tuple[int, int]]] = [[]]
    room = length
    for first, size in fragments:
        while size:
            taken = min(size, room)
            rows[-1].append((first, taken))
            first, size, room = first + taken, size - taken, room - taken
            if not room:
                rows.append([])
                room = length
    return rows if rows[-1] else rows[:-1]


def _document_keys(corpus: Corpus) -> np.ndarray:
    """A number that the text of each document, and how often it was before, decides, uint64."""
    keys = np.empty(corpus.num_documents, np.uint64)
    starts = np.asarray(corpus.starts).tolist()
    for number, (begin, end) in enumerate(itertools.pairwise(starts)):
        text = corpus.symbols[begin + 1 : min(end - 1, begin + 1 + KEYED)].tobytes()
        key = f"{SEED} {end - begin}".encode()
        digest = hashlib.blake2b(text, digest_size=8, key=key).digest()
        keys[number] = int.from_bytes(digest, "little")
    return _mixed(keys + _mixed(_occurrences(keys)))


def _occurrences(keys: np.ndarray) -> np.ndarray:
    """How many equal keys are before each, uint64: copies of a document are picked apart."""
    order = np.argsort(keys, kind="stable")
    _, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    found = np.empty(len(keys), np.uint64)
    found[order] = np.arange(len(keys)) - np.repeat(first, counts)
    return found


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64 of uint64 numbers, which look like independent random ones."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Puts things of sizes up to `length` into few rows of `length` (best fit, large ones first).

    Returns:
        the numbers of the things in each row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left in a row, and its number, sorted
    for thing in sorted(range(len(sizes)), key=lambda thing: -sizes[thing]):
        place = bisect.bisect_left(room, (sizes[thing], -1))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = length, len(rows)
            rows.append([])
        rows[row].append(thing)
        bisect.insort(room, (left - sizes[thing], row))
    return rows


class DrawnRows:
    """Some rows of a source whose rows are examples of their own.

    Args:
        rows: of the source.
        numbers: which of them, integers.
    """

    def __init__(self, rows: RowSource, numbers: np.ndarray) -> None:
        self._source = rows
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def size(self) -> int:
        """How many rows: they count the same."""
        return len(self)

    def batch(
        self, indices: Sequence[int] | np.ndarray, places: Sequence[int] | np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Several rows, as `RowSource.batch` gives them; `places` have no effect."""
        # A number after the last row gives a row of padding.
        numbers = np.append(self._numbers, len(self._source))
        return self._source.batch(numbers[np.minimum(indices, len(self))])


def drawn_rows(rows: RowSource, wanted: int) -> DrawnRows:
    """So many rows, or all if there are no more, drawn by their numbers.

    Rows that are added at the end replace few of them.
    """
    keys = _mixed(np.arange(len(rows), dtype=np.uint64) + np.uint64(SEED))
    return DrawnRows(rows, np.sort(np.argsort(keys, kind="stable")[:wanted]))
