"""What reads the stored documents of a source."""

import abc
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from bytelm.core.errors import UserError
from bytelm.data.text_record import SPLITS, Split


def usual_splits(available: Iterable[str], named: Mapping[Split, str | None]) -> dict[Split, str]:
    """The stored split for each split: the one that is named, or the one of the usual name."""
    usual = {"train": ("train",), "validation": ("validation", "valid"), "test": ("test",)}
    available = list(available)
    found = {
        split: named[split] or next((name for name in usual[split] if name in available), None)
        for split in SPLITS
    }
    return {split: name for split, name in found.items() if name}


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

    def random_access(self, split: Split) -> Texts | None:
        """The texts by index; None if documents can only be read in order."""
        return None
