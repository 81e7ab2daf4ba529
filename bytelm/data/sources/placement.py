"""Documents, and their splits.

A hash of the document decides its split, so that equal documents share one, and added documents
move none. A document longer than `split_above` bytes is cut instead: its beginning belongs to train
and its end to the splits that the source lacks. The cuts depend only on the document.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bytelm.data.text_record import SPLITS, Split, TextRecord, digest, passages


class Document(NamedTuple):
    """A document of a source."""

    text: bytes
    """Possibly empty."""
    script: str | None = None
    """Name of its script or language, such as `eng`."""
    target: bytes | None = None
    """The expected output for `text`, if `target_key` is set."""


class Placed(NamedTuple):
    """A document, or a part of a long one, and its split."""

    document: Document
    split: Split
    is_part: bool


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
            for split in self._splits(document.text):
                yield Placed(document, split, is_part=False)

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

    @property
    def _held_out_splits(self) -> list[Split]:
        if self.held_out == 0:
            return []
        return [split for split in ("validation", "test") if split not in self.own_splits]

    def _splits(self, text: bytes) -> list[Split]:
        """The splits that half of a text had in the record, or else one by its hash."""
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
        draw = digest(text) / 2**64
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
