"""Sources of documents behind one interface: bytes, split into train, validation and test."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bytelm.data.config import DataConfig, SourceConfig, Split
from bytelm.data.document import Document
from bytelm.data.files import FilesReader
from bytelm.data.python_stdlib import PythonStdlibReader
from bytelm.data.tfds_source import TfdsReader
from bytelm.errors import UserError


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

    def size(self, split: Split) -> int:
        """About how many bytes the documents have."""

    def documents(self, split: Split) -> Iterator[Document]:
        """The documents, in a fixed order."""


@dataclass(frozen=True)
class Source:
    """Documents of three splits; those that the storage lacks come from its train split.

    A document's hash decides which split it belongs to, so that equal documents share one, and
    adding documents moves none.

    Attributes:
        reader: what reads the storage.
        held_out: share of the documents that each missing split gets.
        script: of every document; None where the reader tells it, or nothing does.
    """

    reader: Reader
    held_out: float
    script: str | None = None

    @property
    def name(self) -> str:
        """The dataset's name, or the name of the first file."""
        return self.reader.name

    def documents(self, split: Split) -> Iterator[Document]:
        """The documents of a split, in a fixed order."""
        belongs = self.membership(split)
        for document in self.reader.documents(self.stored_split(split)):
            if belongs(document.text):
                yield document if self.script is None else document._replace(script=self.script)

    def stored_split(self, split: Split) -> Split:
        """The split of the storage that holds the documents of `split`."""
        return split if split in self.reader.own_splits else "train"

    def membership(self, split: Split) -> Callable[[bytes], bool]:
        """Tells whether a text of the stored split is in `split`; can be pickled."""
        own_splits = self.reader.own_splits
        return partial(_belongs, split=split, own_splits=own_splits, held_out=self.held_out)

    def settings(self, split: Split) -> dict[str, object]:
        """What was asked for, as JSON values."""
        script = {} if self.script is None else {"script": self.script}
        return {"split": split, "held_out": self.held_out, **script, **self.reader.settings}

    def fingerprint(self, split: Split) -> str:
        """Hex digest that changes with the documents of the split, without reading them all."""
        own = sorted(self.reader.own_splits)
        inputs = self.reader.inputs(self.stored_split(split))
        described = json.dumps([self.settings(split), own, inputs], sort_keys=True)
        return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


def _belongs(text: bytes, split: Split, own_splits: frozenset[Split], held_out: float) -> bool:
    if split != "train" and split in own_splits:
        return True
    draw = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64
    drawn: Split = "test" if draw < held_out else "validation" if draw < 2 * held_out else "train"
    return split == ("train" if drawn in own_splits else drawn)


def open_source(config: SourceConfig, data: DataConfig) -> Source:
    """Opens one source; `data` says where the cache is.

    Raises:
        UserError: for a mistake in the config, or files that are not there.
    """
    if config.files:
        return Source(FilesReader(config), config.held_out, config.script)
    if config.dataset == "python_stdlib":
        if config.train_split or config.validation_split or config.test_split or config.data_dir:
            raise UserError(
                "python_stdlib has no splits or data directory to name; leave out data.data_dir "
                "and data.*_split, or choose another data.dataset."
            )
        return Source(PythonStdlibReader(data.cache_path), config.held_out, config.script)
    return Source(TfdsReader(config), config.held_out, config.script)


def open_sources(config: DataConfig) -> tuple[Source, ...]:
    """Opens every source of a run."""
    return tuple(open_source(source, config) for source in config.source_configs)
