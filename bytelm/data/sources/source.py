"""Sources of documents: bytes, split into train, validation and test.

A hash of a document decides its split, so that equal documents share one, and added documents move
none. A document longer than `split_above` bytes is cut instead: its beginning belongs to train and
its end to the splits that the source lacks. The cuts depend only on the document.
"""

import abc
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.data.sources.distinct import DistinctReader
from bytelm.data.sources.reader import Document, InputShard, Reader
from bytelm.data.text_record import LONGEST, SPLITS, Split, TextRecord, digest, passages

LEAST_SPLIT = 4 * LONGEST
"""Least bytes of a document that is split by position: a few passages for each split."""

SPLITTING = ("held_out", "split_above")
"""Options of how a source is split."""


class Placed(NamedTuple):
    """A document, or a part of a long one, and its split."""

    document: Document
    split: Split
    is_part: bool
    digest: int | None = None
    """Of its text, if that was needed to find its split."""


@dataclass(frozen=True)
class SourceConfig(Variant, name="data", key="kind"):
    """Where text comes from. Naming its `kind` registers a subclass."""

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def parts(self) -> tuple["SingleSource", ...]:
        """The sources of a mixture, or the source itself."""

    def with_files(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Self:
        """The source with changed files, such as those in a directory, if it has files."""
        return self


@dataclass(frozen=True)
class SingleSource(SourceConfig):
    """One source of documents; splits that it lacks are taken from its train split."""

    script: str | None = None
    """Script (or language) of all documents, such as `eng`; none = unknown."""
    held_out: float = 0.05
    """Fraction of documents assigned by hash to each split that the source lacks."""
    split_above: int | None = 2**20
    """A document longer than this many bytes is split by position: its beginning is trained on and
    its end is held out, `held_out` of it for each split that the source lacks. none = every
    document is in one split."""
    deduplicate: bool = False
    """Leave out documents whose text an earlier one has, or one of a stored split that is held
    out."""
    weight: float = 1.0
    """Share of a mixture's rows that come from this source, relative to the other weights."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 0.5:
            raise UserError(f"data.held_out is {self.held_out}; choose from 0 to below 0.5.")
        if self.split_above is not None and self.split_above < LEAST_SPLIT:
            raise UserError(
                f"data.split_above is {self.split_above}; choose {LEAST_SPLIT} bytes or more, or "
                "None to keep every document in one split."
            )
        if not 0 < self.weight < float("inf"):
            raise UserError(f"data.weight is {self.weight}; choose a positive number.")

    @property
    def parts(self) -> tuple["SingleSource", ...]:
        return (self,)

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """Its name in reports, without paths."""

    @property
    def has_targets(self) -> bool:
        """Whether each document has a target, for the task `pairs`."""
        return False

    @abc.abstractmethod
    def reader(self, cache_path: Path) -> Reader:
        """The reader of its documents, which may store digests in the cache.

        Raises:
            UserError: for missing files.
        """


@dataclass(frozen=True)
class Mixture(SourceConfig):
    """Several sources, each with its weight."""

    kind: ClassVar[str] = "mixture"

    sources: tuple[SourceConfig, ...]
    """The sources."""

    def __post_init__(self) -> None:
        if not self.sources or any(isinstance(source, Mixture) for source in self.sources):
            raise UserError("data.sources of a mixture must be one or more single sources.")

    @property
    def parts(self) -> tuple[SingleSource, ...]:
        return tuple(part for source in self.sources for part in source.parts)

    def with_files(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Self:
        sources = tuple(source.with_files(change) for source in self.sources)
        return replace(self, sources=sources)


@dataclass(frozen=True)
class Placement:
    """Assigns documents of a source's stored train split to splits; can be pickled."""

    own_splits: frozenset[Split]
    """Splits that are stored; they get nothing from the train split."""
    held_out: float
    """Share of the documents, or of a long document, for each other split."""
    split_above: int | None = None
    """Bytes above which a document is cut."""
    record: TextRecord | None = None
    """Of a run's text; passages in it keep their splits."""

    def parts(self, document: Document) -> Iterator[Placed]:
        """The document with its split, or its parts with theirs, in order."""
        if self.is_cut(document):
            lengths = [len(passage) for passage in passages(document.text)]
            placed = zip(self._splits_of_passages(document.text, lengths), lengths, strict=True)
            begin = 0
            for split, part in itertools.groupby(placed, key=lambda item: item[0]):
                end = begin + sum(length for _, length in part)
                yield Placed(document._replace(text=document.text[begin:end]), split, is_part=True)
                begin = end
        else:
            key = digest(document.text)
            for split in self._splits(document.text, key):
                yield Placed(document, split, is_part=False, digest=key)

    def is_cut(self, document: Document) -> bool:
        """Whether a long document is cut; a text with a target stays whole."""
        return (
            self.split_above is not None
            and len(document.text) > self.split_above
            and document.target is None
            and bool(self._held_out_splits)
        )

    def part_in(self, split: Split, text: bytes) -> bytes | None:
        """The first part of a text that belongs to a split, or all of the text; None if none."""
        parts = self.parts(Document(text))
        return next((part.document.text for part in parts if part.split == split), None)

    @functools.cached_property
    def _held_out_splits(self) -> list[Split]:
        if self.held_out == 0:
            return []
        return [split for split in ("validation", "test") if split not in self.own_splits]

    def _splits(self, text: bytes, key: int) -> list[Split]:
        """The splits that half of a text had in the record, or else one by its digest."""
        if self.record is not None:
            lengths = np.array([len(passage) for passage in passages(text)])
            masks = self.record.masks(passages(text))
            known = [
                split
                for bit, split in enumerate(SPLITS)
                if 2 * lengths[masks >> bit & 1 == 1].sum() >= len(text) > 0
            ]
            if known:
                return known
        draw = key / 2**64
        drawn: Split = "train"
        if draw < 2 * self.held_out:
            drawn = "test" if draw < self.held_out else "validation"
        return ["train" if drawn in self.own_splits else drawn]

    def _splits_of_passages(self, text: bytes, lengths: list[int]) -> list[Split]:
        """The split of each passage of a long document: as in the record, or by position."""
        by_position = self._by_position(lengths)
        if self.record is None:
            return by_position
        placed: list[Split] = []
        for mask, new in zip(self.record.masks(passages(text)), by_position, strict=True):
            had = [split for bit, split in enumerate(SPLITS) if mask >> bit & 1]
            # A passage of two splits goes with the passage before it, so that parts stay whole.
            keep = [split for split in had if placed and split == placed[-1]]
            placed.append((keep or had or [new])[0])
        return placed

    def _by_position(self, lengths: list[int]) -> list[Split]:
        """Train first, then the other splits, cut at the passage ends nearest to their shares.

        `split_above` is at least 4 passages, so that each split has one.
        """
        ends = np.cumsum(lengths)
        splits: list[Split] = []
        order = self._held_out_splits
        for index, split in enumerate(["train", *order[:-1]]):
            left = len(order) - index
            wanted = ends[-1] * (1 - left * self.held_out)
            last = int(np.abs(ends - wanted).argmin()) + 1
            last = min(max(last, len(splits) + 1), len(ends) - left)
            splits += [split] * (last - len(splits))
        return splits + [order[-1]] * (len(ends) - len(splits))


@dataclass(frozen=True)
class Source:
    """Documents of three splits; those that are not stored come from the train split.

    `held_out`, `split_above` and `record` are those of its `Placement`; `script` is that of every
    document, unless the reader gives scripts.
    """

    reader: Reader
    held_out: float
    script: str | None = None
    split_above: int | None = None
    record: TextRecord | None = None

    @property
    def name(self) -> str:
        return self.reader.name

    def documents(self, split: Split) -> Iterator[Document]:
        """The documents of a split, in a fixed order."""
        return (placed.document for placed in self.placed(split) if placed.split == split)

    def placed(self, split: Split, shard: InputShard | None = None) -> Iterator[Placed]:
        """All documents of the stored split that contains `split`, each with its split.

        With a shard, only its documents.
        """
        stored, placement = self.stored_split(split), self.placement
        read = self.reader.documents(stored) if shard is None else self.reader.read(shard)
        for document in read:
            if self.script is not None:
                document = document._replace(script=self.script)
            if stored == "train":
                yield from placement.parts(document)
            else:
                yield Placed(document, stored, is_part=False)

    def stored_split(self, split: Split) -> Split:
        return split if split in self.reader.own_splits else "train"

    def splits_in(self, stored: Split) -> list[Split]:
        """The splits that are taken from a stored split."""
        return [split for split in SPLITS if self.stored_split(split) == stored]

    @functools.cached_property
    def placement(self) -> Placement:
        own_splits = self.reader.own_splits
        return Placement(own_splits, self.held_out, self.split_above, self.record)

    def settings(self, split: Split) -> dict[str, object]:
        """The options that decide which documents a split has, as JSON values."""
        optional = {
            "script": self.script,
            "split_above": self.split_above,
            "record": self.record and self.record.fingerprint,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {"split": split, "held_out": self.held_out, **given, **self.reader.settings}

    def fingerprint(self, split: Split) -> str:
        """Hex digest that changes with the stored documents of the split."""
        return self._digest(split, self.reader.inputs(self.stored_split(split)))

    def shards_fingerprint(self, split: Split, shards: Sequence[InputShard]) -> str:
        """Hex digest that changes with some shards of its stored split, and how they are read."""
        return self._digest(split, [shard.content for shard in shards])

    def _digest(self, split: Split, inputs: object) -> str:
        own = sorted(self.reader.own_splits)
        described = json.dumps([self.settings(split), own, inputs], sort_keys=True)
        return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


def open_source(config: SingleSource, cache_path: Path) -> Source:
    """Opens one source; UserError for a mistake in the config, or missing files."""
    reader = config.reader(cache_path)
    reader = DistinctReader(reader, cache_path) if config.deduplicate else reader
    return Source(reader, config.held_out, config.script, config.split_above)
