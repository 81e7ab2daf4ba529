"""Documents packed one after another, and cut into rows of T symbols: bytes or tokens."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTE_VOCABULARY, Vocabulary
from bytelm.data.corpus.entries import CheckedArray
from bytelm.data.corpus.joined import JoinedArray

FILLER = b"\0"
"""Stands for START and END in the packed bytes; `starts` distinguishes them from text."""
Indices: TypeAlias = Sequence[int] | np.ndarray
Arrays: TypeAlias = dict[str, np.ndarray]


@dataclass(eq=False, repr=False)
class Corpus:
    """The symbol stream of some documents: START, the bytes and END of each, in order."""

    symbols: np.ndarray | CheckedArray | JoinedArray
    """uint8 `[num_symbols]`, or a wider type for tokens; START and END are FILLER."""
    starts: np.ndarray
    """int64 `[num_documents + 1]`: the position of each START, then `num_symbols`."""
    scripts: np.ndarray | None = None
    """int32 `[num_documents]`: the index of each document's script in `data.scripts`."""
    boundaries: np.ndarray | CheckedArray | None = None
    """bool `[num_symbols]`: whether a piece of `data.unigram` ends with the symbol."""
    entropies: np.ndarray | CheckedArray | None = None
    """int16 `[num_symbols]`: the entropy after each symbol in its row, in multiples of `STEP`."""
    vocabulary: Vocabulary = BYTE_VOCABULARY
    byte_counts: np.ndarray | None = None
    """int32 `[vocabulary.inputs]`: the bytes of each kind of symbol; None if symbols are bytes."""
    fingerprint: str = ""
    """Hex digest of the documents' bytes and order; "" if they are in memory."""

    @property
    def num_documents(self) -> int:
        """Number of documents, empty ones included."""
        return len(self.starts) - 1

    @property
    def num_symbols(self) -> int:
        """Symbols of text, and a START and an END for each document."""
        return int(self.starts[-1])

    @property
    def num_bytes(self) -> int:
        """Bytes of text; only for a corpus of bytes."""
        return self.num_symbols - 2 * self.num_documents

    def document(self, index: int) -> bytes:
        """The bytes of one document; only for a corpus of bytes."""
        return self.symbols[self.starts[index] + 1 : self.starts[index + 1] - 1].tobytes()

    def documents(self) -> Iterator[bytes]:
        """All documents in order; only for a corpus of bytes."""
        return map(self.document, range(self.num_documents))


def pack(documents: Iterable[bytes]) -> Corpus:
    """Packs documents in memory."""
    packed = [FILLER + document + FILLER for document in documents]
    starts = np.cumsum([0, *map(len, packed)], dtype=np.int64)
    return Corpus(np.frombuffer(b"".join(packed), np.uint8), starts)


class CorpusRows:
    """Rows that are cut from a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    @property
    def num_bytes(self) -> int:
        """Bytes of text in all rows."""
        return self.corpus.num_bytes


class Rows(CorpusRows):
    """A corpus as rows of T symbols: row k is symbols k*T to k*T + T, the last row is padded.

    Each byte and each END of the corpus is a target exactly once.
    """

    def __init__(self, corpus: Corpus, length: int) -> None:
        super().__init__(corpus)
        self.length = length

    def __len__(self) -> int:
        return -(-self.corpus.num_symbols // self.length)

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        """Several rows at once; `places` are ignored, since these rows are deterministic.

        Returns:
            int32 `[B, T]` each: `ids`; `targets`, the symbol after each of them, UNSCORED if it is
            START or missing; `document_ids`, 1, 2, ... in each row, 0 for padding. If the corpus
            has them: `scripts` of the symbols' documents, -1 for padding; `byte_counts` of the
            targets; `boundaries`, bool `[B, T]`, False for padding; `entropies`, float32 `[B, T]`.
        """
        return self._starting_at(np.asarray(indices, np.int64) * self.length, self.length)

    def joined(self, rows: Sequence[np.ndarray]) -> Arrays:
        """Rows of parts of the corpus, one after another and then padding, as `batch` gives them.

        `rows` has the first position and the size of each part of each row, int64 `[parts, 2]`.
        `document_ids` number the parts of a row.
        """
        batch = self._starting_at(np.full(len(rows), self.corpus.num_symbols), self.length)
        for row, parts in enumerate(rows):
            if not len(parts):
                continue
            first, sizes = parts.T
            longest = int(sizes.max())
            found = self._starting_at(first, longest)
            found["document_ids"][:] = np.arange(1, len(parts) + 1)[:, None]
            is_read = np.arange(longest) < sizes[:, None]  # [parts, longest]
            for name, values in found.items():
                batch[name][row, : sizes.sum()] = values[is_read]
        return batch

    def _starting_at(self, first: np.ndarray, length: int) -> Arrays:
        """Rows of `length` symbols that start at the positions `first`, int64 `[B]`."""
        vocabulary = self.corpus.vocabulary
        # Row r holds the symbols from first[r] - 1. One more than needed at either end spares a
        # special case for documents that start at an edge.
        symbols = np.full((len(first), length + 3), vocabulary.pad, np.int32)  # [B, T + 3]
        for row, position in zip(symbols, first.tolist(), strict=True):
            text = self.corpus.symbols[position : position + length + 1]
            row[1 : 1 + len(text)] = text
        self._mark_documents(symbols, first)

        ids, targets = symbols[:, 1:-2], vocabulary.scored(symbols[:, 2:-1])  # [B, T]
        document_ids = np.cumsum(ids == vocabulary.start, axis=1, dtype=np.int32)
        document_ids += 1 - document_ids[:, :1]
        document_ids[ids == vocabulary.pad] = 0
        batch = {"ids": ids, "targets": targets, "document_ids": document_ids}
        if self.corpus.byte_counts is not None:
            batch["byte_counts"] = self.corpus.byte_counts[targets]
        if self.corpus.scripts is not None:
            batch["scripts"] = self._scripts(self.corpus.scripts, first, document_ids)
        if self.corpus.boundaries is not None:
            batch["boundaries"] = _cut(self.corpus.boundaries, first, length, np.bool_)
        if self.corpus.entropies is not None:
            from bytelm.patching.entropy import STEP  # only here: processes that pack need no JAX

            batch["entropies"] = _cut(self.corpus.entropies, first, length, np.float32) * STEP
        return batch

    def _scripts(
        self, scripts: np.ndarray, first: np.ndarray, document_ids: np.ndarray
    ) -> np.ndarray:
        """The script of each symbol of rows that begin at `first` [B], int32 [B, T]."""
        before = np.searchsorted(self.corpus.starts, first, side="right") - 2
        is_text = document_ids > 0
        found = np.full(document_ids.shape, -1, np.int32)
        found[is_text] = scripts[(before[:, None] + document_ids)[is_text]]
        return found

    def _mark_documents(self, symbols: np.ndarray, first: np.ndarray) -> None:
        """Writes START and END into `symbols` [B, T + 3]."""
        starts, vocabulary = self.corpus.starts, self.corpus.vocabulary
        low = np.searchsorted(starts, first)
        high = np.searchsorted(starts, first + symbols.shape[1] - 2, side="right")
        found = np.concatenate([starts[a:b] for a, b in zip(low, high, strict=True)])
        row = np.repeat(np.arange(len(first)), high - low)
        before = row * symbols.shape[1] + (found - first[row])
        symbols.reshape(-1)[before] = vocabulary.end
        # The last of `starts` ends the last document and starts none.
        starting = found < self.corpus.num_symbols
        symbols.reshape(-1)[before + 1] = np.where(starting, vocabulary.start, vocabulary.pad)


def _cut(
    values: np.ndarray | CheckedArray, first: np.ndarray, length: int, dtype: type
) -> np.ndarray:
    """The values of rows of `length` symbols that begin at `first`, `[B]`: `[B, T]`."""
    found: np.ndarray = np.zeros((len(first), length), dtype)
    for row, position in zip(found, first.tolist(), strict=True):
        part = values[position : position + length]
        row[: len(part)] = part
    return found


class RowSource(Protocol):
    """The rows of one source, by their indices."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of the text, or the name of a task that makes up its own text."""

    @property
    def num_bytes(self) -> int | None:
        """Bytes of text in all rows; None if rows are endless."""

    def __len__(self) -> int: ...

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        """Several rows at once: the fields of a `Batch`.

        Args:
            indices: B row indices; an index past the end gives a row of padding.
            places: position of each row in the endless order of training, which seeds random rows;
                None in evaluation, in which a row is always the same.
        """


class ConcatenatedRows:
    """The rows of several sources, one source after another."""

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self.sources = sources
        self.ends = np.cumsum([len(rows) for rows in sources])
        """int `[number of sources]`: one past the index of each source's last row."""

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        if len(self.sources) == 1:
            return self.sources[0].batch(indices, places)
        indices = np.asarray(indices, np.int64)
        owners = np.minimum(np.searchsorted(self.ends, indices, "right"), len(self.sources) - 1)

        def batch_of(owner: int, mine: np.ndarray) -> Arrays:
            source = self.sources[owner]
            places_of_mine = None if places is None else np.asarray(places)[mine]
            return source.batch(indices[mine] - (self.ends[owner] - len(source)), places_of_mine)

        return joined_batch(owners, batch_of)


def joined_batch(owners: np.ndarray, batch_of: Callable[[int, np.ndarray], Arrays]) -> Arrays:
    """A batch of rows that several owners have.

    Args:
        owners: the number of each row's owner, int `[B]`.
        batch_of: gives the rows of an owner; a bool `[B]` says which they are.
    """
    batch: Arrays = {}
    for owner in np.unique(owners).tolist():
        mine = owners == owner
        for name, rows in batch_of(owner, mine).items():
            shape = (len(owners), *rows.shape[1:])
            batch.setdefault(name, np.empty(shape, rows.dtype))[mine] = rows
    return batch


def script_ids(found: Sequence[str] | None, known: Sequence[str], source: str) -> np.ndarray:
    """The indices in `known` (`data.scripts`) of the scripts found in a source, int32 `[found]`.

    Raises:
        UserError: for a source without scripts, and for a script that is not known.
    """
    if not found:
        raise UserError(
            f"data.scripts is given, and the documents of {source} have no script; name the script "
            "of them all with data.script, or the key of each JSON line's with data.script_key."
        )
    unknown = [name for name in dict.fromkeys(found) if name not in known]
    if unknown:
        raise UserError(
            f"{source} has documents of the script {', '.join(unknown)}, which is not in "
            f"data.scripts ({', '.join(known)}); add it there."
        )
    return np.array([known.index(name) for name in found], np.int32)
