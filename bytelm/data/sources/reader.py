"""What reads the stored documents of a source."""

import abc
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from bytelm.core.errors import UserError
from bytelm.data.text_record import Split

SHARD_BYTES = 2**25
"""Bytes of small files, or of rows, that are packed together, on average."""


class NotInstalledError(UserError):
    """A package that reads the source is missing; text packed earlier can still be used."""


class Document(NamedTuple):
    """A document of a source."""

    text: bytes
    """Possibly empty."""
    script: str | None = None
    """Name of its script or language, such as `eng`."""
    target: bytes | None = None
    """The expected output for `text`, if `target_key` is set."""


class InputShard(NamedTuple):
    """A part of a stored split that is packed on its own: files, or a range of rows."""

    content: object
    """A JSON value that changes when its documents do."""
    place: Any
    """Where its reader finds it."""
    size: int
    """Approximate bytes of its documents."""


def row_shards(inputs: object, split: Split, rows: int, size: int) -> list[InputShard]:
    """Ranges of rows of about SHARD_BYTES, for a split with so many rows and bytes.

    Their `place` is the split, the first row, and one past the last row.
    """
    count = max(1, min(round(size / SHARD_BYTES), rows))
    edges = [rows * index // count for index in range(count + 1)]
    return [
        InputShard([inputs, begin, end], (split, begin, end), size // count)
        for begin, end in itertools.pairwise(edges)
    ]


class Texts(Protocol):
    """The texts of documents by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...


class Reader(abc.ABC):
    """Reads the stored documents of a source."""

    name: str
    skipped = 0
    """Bad records that the last iteration over documents has skipped."""
    repeated = repeated_bytes = 0
    """Documents, and their bytes, that it left out because they came before."""

    @property
    @abc.abstractmethod
    def own_splits(self) -> frozenset[Split]:
        """The stored splits; the others are taken from the train split."""

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, object]:
        """The options that decide which documents are read, as JSON values."""

    @abc.abstractmethod
    def inputs(self, split: Split) -> object:
        """A JSON value that changes when the stored documents do."""

    def places(self, split: Split) -> object:
        """Where the documents are stored, as a JSON value, such as paths and sizes of files."""
        return self.inputs(split)

    @abc.abstractmethod
    def size(self, split: Split) -> int:
        """Approximate bytes of the documents."""

    @abc.abstractmethod
    def documents(self, split: Split) -> Iterator[Document]:
        """The documents, in a fixed order."""

    def shards(self, split: Split) -> list[InputShard]:
        """The parts of a stored split, in order; joined they are its documents."""
        return [InputShard(self.inputs(split), split, self.size(split))]

    def read(self, shard: InputShard) -> Iterator[Document]:
        """The documents of one of `shards`, in order."""
        return self.documents(shard.place)

    def is_unchanged(self, shard: InputShard) -> bool:
        """Whether a shard still has the content that it had."""
        return True

    def random_access(self, split: Split) -> Texts | None:
        """The texts by index; None if documents can only be read in order."""
        return None
