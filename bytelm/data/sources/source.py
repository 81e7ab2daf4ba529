"""Sources of documents behind one interface: bytes, split into train, validation and test."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, SourceConfig, Split
from bytelm.data.corpus.text_record import TextRecord
from bytelm.data.sources.document import Document
from bytelm.data.sources.files import FilesReader
from bytelm.data.sources.placement import Placed, Placement
from bytelm.data.sources.python_stdlib import PythonStdlibReader
from bytelm.data.sources.tfds import TfdsReader


class Reader(Protocol):
    """What reads one kind of storage."""

    name: str
    skipped: int
    """Bad records that the last reading of documents left out."""

    @property
    def own_splits(self) -> frozenset[Split]:
        """The splits that the storage has; the others are taken from its train split."""

    @property
    def settings(self) -> dict[str, object]:
        """What the reader was told, as JSON values."""

    def inputs(self, split: Split) -> object:
        """A JSON value that changes when the stored documents do."""

    def places(self, split: Split) -> object:
        """Where the documents are stored, such as real paths and sizes of files: a JSON value."""

    def size(self, split: Split) -> int:
        """About how many bytes the documents have."""

    def documents(self, split: Split) -> Iterator[Document]:
        """The documents, in a fixed order."""


@dataclass(frozen=True)
class Source:
    """Documents of three splits; those that the storage lacks come from its train split.

    `Placement` says which of them a document belongs to, or how a long one is cut.

    Attributes:
        reader: what reads the storage.
        held_out: share of the documents that each missing split gets.
        script: of every document; None where the reader tells it, or nothing does.
        split_above: bytes above which a document is cut; None for never.
        record: of a run whose text keeps its splits; None for none.
    """

    reader: Reader
    held_out: float
    script: str | None = None
    split_above: int | None = None
    record: TextRecord | None = None

    @property
    def name(self) -> str:
        """The dataset's name, or the name of the first file."""
        return self.reader.name

    def documents(self, split: Split) -> Iterator[Document]:
        """The documents of a split, in a fixed order."""
        return (placed.document for placed in self.placed(split) if placed.split == split)

    def placed(self, split: Split) -> Iterator[Placed]:
        """All documents of the storage among which those of `split` are, each with its split."""
        stored, placement = self.stored_split(split), self.placement
        for document in self.reader.documents(stored):
            if self.script is not None:
                document = document._replace(script=self.script)
            if stored == "train":
                yield from placement.parts(document)
            else:
                yield Placed(document, stored, is_part=False)

    def stored_split(self, split: Split) -> Split:
        """The split of the storage that holds the documents of `split`."""
        return split if split in self.reader.own_splits else "train"

    @property
    def placement(self) -> Placement:
        """What places the documents of the storage's train split."""
        own_splits = self.reader.own_splits
        return Placement(own_splits, self.held_out, self.split_above, self.record)

    def settings(self, split: Split) -> dict[str, object]:
        """What was asked for, as JSON values."""
        optional = {
            "script": self.script,
            "split_above": self.split_above,
            "record": self.record and self.record.fingerprint,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {"split": split, "held_out": self.held_out, **given, **self.reader.settings}

    def fingerprint(self, split: Split) -> str:
        """Hex digest that changes with the stored documents of the split."""
        own = sorted(self.reader.own_splits)
        inputs = self.reader.inputs(self.stored_split(split))
        described = json.dumps([self.settings(split), own, inputs], sort_keys=True)
        return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


def open_source(config: SourceConfig, data: DataConfig) -> Source:
    """Opens one source; `data` says where the cache is.

    Raises:
        UserError: for a mistake in the config, or files that are not there.
    """
    return Source(
        _reader(config, data),
        held_out=config.held_out,
        script=config.script,
        split_above=config.split_above,
    )


def _reader(config: SourceConfig, data: DataConfig) -> Reader:
    if config.files:
        return FilesReader(config, data.cache_path)
    if config.dataset == "python_stdlib":
        if config.train_split or config.validation_split or config.test_split or config.data_dir:
            raise UserError(
                "python_stdlib has no splits or data directory to name; leave out data.data_dir "
                "and data.*_split, or choose another data.dataset."
            )
        return PythonStdlibReader(data.cache_path)
    return TfdsReader(config)


def open_sources(config: DataConfig) -> tuple[Source, ...]:
    """Opens every source of a run."""
    return tuple(open_source(source, config) for source in config.source_configs)
