"""Documents packed one behind another, and the rows of T symbols that they are cut into."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bytelm.vocabulary import END, PAD, START, UNSCORED

FILLER = b"\0"
"""Stands for START and END in the packed bytes, where `starts` tells them from text."""


class Corpus:
    """The symbol stream of some documents: START, the bytes and END of each, in order.

    Attributes:
        symbols: uint8 `[num_symbols]`, one byte for each symbol; START and END are FILLER.
        starts: int64 `[num_documents + 1]`, position of each START, then `num_symbols`.
    """

    def __init__(self, symbols: np.ndarray, starts: np.ndarray) -> None:
        self.symbols = symbols
        self.starts = starts

    @property
    def num_documents(self) -> int:
        """How many documents there are; empty ones count."""
        return len(self.starts) - 1

    @property
    def num_symbols(self) -> int:
        """Bytes, and a START and an END for each document."""
        return int(self.starts[-1])

    @property
    def num_bytes(self) -> int:
        """Bytes of text."""
        return self.num_symbols - 2 * self.num_documents

    def document(self, index: int) -> bytes:
        """The bytes of one document, from 0."""
        return self.symbols[self.starts[index] + 1 : self.starts[index + 1] - 1].tobytes()

    def documents(self) -> Iterator[bytes]:
        """All documents in order."""
        return map(self.document, range(self.num_documents))


def pack(documents: Iterable[bytes]) -> Corpus:
    """Packs documents in memory."""
    packed = [FILLER + document + FILLER for document in documents]
    starts = np.cumsum([0, *map(len, packed)], dtype=np.int64)
    return Corpus(np.frombuffer(b"".join(packed), np.uint8), starts)


class Rows:
    """A corpus as rows of T symbols: row k is symbols k*T to k*T + T, the last row is padded.

    Each byte and each END of the corpus is a target exactly once.
    """

    def __init__(self, corpus: Corpus, length: int) -> None:
        self.corpus = corpus
        self.length = length

    def __len__(self) -> int:
        return -(-self.corpus.num_symbols // self.length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One row: `ids`, `targets` and `segment_ids`, int32 `[T]` each."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return {name: rows[0] for name, rows in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Several rows at once.

        Args:
            indices: B row numbers; one behind the last row gives a row of padding.

        Returns:
            int32 `[B, T]` each: `ids`; `targets`, the symbol after each of them, UNSCORED where
            it is START or missing; `segment_ids`, documents from 1 in each row, 0 for padding.
        """
        first = np.asarray(indices, np.int64) * self.length
        symbols = np.full((len(first), self.length + 1), PAD, np.int32)
        for row, position in zip(symbols, first, strict=True):
            text = self.corpus.symbols[position : position + self.length + 1]
            row[: len(text)] = text
        self._mark_documents(symbols, first)

        ids, targets = symbols[:, :-1].copy(), symbols[:, 1:].copy()
        targets[targets > END] = UNSCORED
        is_start = ids == START
        segment_ids = np.cumsum(is_start, axis=1, dtype=np.int32)
        segment_ids += ~is_start[:, :1]
        segment_ids[ids == PAD] = 0
        return {"ids": ids, "targets": targets, "segment_ids": segment_ids}

    def _mark_documents(self, symbols: np.ndarray, first: np.ndarray) -> None:
        """Writes START and END into `symbols` [B, T + 1], whose rows begin at `first` [B]."""
        starts = self.corpus.starts
        low = np.searchsorted(starts, first)
        counts = np.searchsorted(starts, first + symbols.shape[1], side="right") - low
        row = np.repeat(np.arange(len(first)), counts)
        nth_in_row = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = starts[low[row] + nth_in_row]
        column = start - first[row]
        # The last of `starts` ends the last document and starts none.
        starting = (column < symbols.shape[1]) & (start < self.corpus.num_symbols)
        symbols[row[starting], column[starting]] = START
        ending = column > 0
        symbols[row[ending], column[ending] - 1] = END
