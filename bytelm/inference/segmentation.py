"""A text cut into a model's patches, with the cost of each byte.

A text is read in sliding windows, as in `bytelm.inference.scoring`. The nats of a byte come from
the window that scores it; its patch start comes from the window that reads it to score the next
byte. START belongs to no patch here: the first byte of the text starts one.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bytelm.core.errors import UserError
from bytelm.inference.by_document import Document, by_document
from bytelm.inference.scoring import Scorer, window_batches
from bytelm.patching.patches import LENGTHS

_WHITESPACE = re.compile(
    rb"(?:[\t-\r ]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f"
    rb"|\xe3\x80\x80)+"
)
"""A run of characters with Unicode's property White_Space, in UTF-8."""


@dataclass(frozen=True)
class LevelPatches:
    """A level's patches of a text; inputs are START and the bytes.

    Attributes:
        starts: bool `[bytes]`, whether a patch starts with the byte; True for the first.
        boundaries: bool `[1 + bytes]`, the inputs at whose boundary a patch opens, or ends.
        ignored: bool `[1 + bytes]`, the inputs at whose boundary the row had no slot left.
    """

    starts: np.ndarray
    boundaries: np.ndarray
    ignored: np.ndarray


class Patch(NamedTuple):
    """The bytes of a text from `first` to before `last`, and the patches that make it up."""

    first: int
    last: int
    nats: float
    parts: "tuple[Patch, ...]" = ()


@dataclass(frozen=True)
class Segmentation:
    """A text of at least one byte, cut into patches; those of an inner level are made of patches.

    Attributes:
        text: its bytes.
        levels: the patches of each level, the outermost first; that one's have properties here.
        nats: float64 `[bytes]`, of each byte.
        end_nats: of END.
    """

    text: bytes
    levels: tuple[LevelPatches, ...]
    nats: np.ndarray
    end_nats: float

    def at(self, level: int) -> "Segmentation":
        """The text cut by this level, in place of the outermost, 1, and by those inside it."""
        return dataclasses.replace(self, levels=self.levels[level - 1 :])

    @property
    def starts(self) -> np.ndarray:
        """Bool `[bytes]`, whether a patch starts with the byte; True for the first."""
        return self.levels[0].starts

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte, END not counted."""
        return float(self.nats.sum()) / (math.log(2) * len(self.text))

    @property
    def lengths(self) -> np.ndarray:
        """Bytes in each patch, int64 `[patches]`."""
        return np.diff(np.append(np.flatnonzero(self.starts), len(self.text)))

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of each patch."""
        bounds = [*np.flatnonzero(self.starts), len(self.text)]
        return [self.text[first:last] for first, last in itertools.pairwise(bounds)]

    @property
    def depths(self) -> np.ndarray:
        """In how many levels a patch starts where each patch does, int64 `[patches]`."""
        return np.sum([level.starts[self.starts] for level in self.levels], axis=0)

    @property
    def nested(self) -> list[Patch]:
        """The patches of the innermost level, made of those of the level around it, and so on."""
        patches: list[Patch] = []
        for level in self.levels:
            starts, parts = np.flatnonzero(level.starts), patches
            nats = np.add.reduceat(self.nats, starts).tolist()
            bounds = [*starts.tolist(), len(self.text)]
            cuts = np.searchsorted([part.first for part in parts], bounds).tolist()
            patches = [
                Patch(bounds[i], bounds[i + 1], nats[i], tuple(parts[cuts[i] : cuts[i + 1]]))
                for i in range(len(starts))
            ]
        return patches

    @property
    def patch_bits_per_byte(self) -> np.ndarray:
        """Bits per byte of each patch, float64 `[patches]`."""
        sums = np.add.reduceat(self.nats, np.flatnonzero(self.starts))
        return sums / (math.log(2) * self.lengths)

    @property
    def lags(self) -> np.ndarray:
        """The lag of each byte (`bytelm.patching.marks`), from 1, int64 `[bytes]`."""
        index = np.arange(len(self.text))
        boundaries = np.where(self.levels[0].boundaries[:-1], index, 0)
        return 1 + index - np.maximum.accumulate(boundaries)

    @property
    def word_agreement(self) -> "BoundaryAgreement":
        """Agreement of patch starts with word starts, just after whitespace."""
        return boundary_agreement(self.starts, word_starts(self.text))

    @property
    def space_agreement(self) -> "BoundaryAgreement":
        """Agreement of patch starts with starts of whitespace, where SpaceByte's patches start."""
        return boundary_agreement(self.starts, whitespace_starts(self.text))


def segment_all(
    scorer: Scorer,
    texts: Sequence[bytes],
    *,
    sequence_length: int,
    stride: int | None = None,
    batch_size: int = 8,
) -> list[Segmentation]:
    """Cuts texts into the model's patches; see the module's docstring.

    Args:
        texts: one document each.
        sequence_length, stride, batch_size: as for `score_documents`.

    Raises:
        UserError: if the model has no patches, a text no bytes, or the stride is out of range.
    """
    if not all(texts):
        raise UserError("the text is empty; give one of at least one byte.")
    batches = window_batches(texts, sequence_length, stride, batch_size)
    found = {
        document.number: segmentation_of(document)
        for document in by_document(scorer.nats_and_marks, batches)
    }
    return [found[number] for number in sorted(found)]


def segmentation_of(document: Document) -> Segmentation:
    """The patches of a document of at least one byte, whose values are of `nats_and_marks`."""
    nats, levels = document.values
    if not levels:
        raise UserError(
            "the model is flat: it has no patches to show; choose a checkpoint of a family with "
            "patches."
        )
    cut = tuple(_of_level(level.starts, level.boundaries, level.ignored) for level in levels)
    costs, text = nats.astype(np.float64), document.symbols.astype(np.uint8).tobytes()
    return Segmentation(text, cut, costs[:-1], float(costs[-1]))


def _of_level(starts: np.ndarray, boundaries: np.ndarray, ignored: np.ndarray) -> LevelPatches:
    """The patches of a text, from marks of its inputs, bool `[1 + bytes]` each."""
    starts = starts[1:].copy()
    starts[0] = True
    return LevelPatches(starts, boundaries, ignored)


@dataclass(frozen=True)
class BoundaryAgreement:
    """Numbers of boundaries `found`, `expected`, and both. They may be added up over texts."""

    found: int
    expected: int
    hits: int

    def __add__(self, other: "BoundaryAgreement") -> "BoundaryAgreement":
        return BoundaryAgreement(
            self.found + other.found, self.expected + other.expected, self.hits + other.hits
        )

    @property
    def precision(self) -> float:
        """Share of the boundaries found that are expected; NaN if none is found."""
        return self.hits / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        """Share of the boundaries expected that are found; NaN if none is expected."""
        return self.hits / self.expected if self.expected else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN if no boundary is found and none expected."""
        either = self.found + self.expected
        return 2 * self.hits / either if either else math.nan


def boundary_agreement(found: np.ndarray, expected: np.ndarray) -> BoundaryAgreement:
    """Compares boundaries, bool `[bytes]` both; not the first byte, where a patch always starts."""
    found, expected = found[1:], expected[1:]
    return BoundaryAgreement(int(found.sum()), int(expected.sum()), int((found & expected).sum()))


def word_starts(text: bytes) -> np.ndarray:
    """Bool `[bytes]`: bytes that are not whitespace, first in the text or after whitespace."""
    starts = np.zeros(len(text) + 1, np.bool_)
    starts[0] = True
    runs = [run.span() for run in _WHITESPACE.finditer(text)]
    starts[[first for first, _ in runs]] = False
    starts[[end for _, end in runs]] = True
    return starts[:-1]


def whitespace_starts(text: bytes) -> np.ndarray:
    """Bool `[bytes]`: the first byte, and the first of each run of whitespace characters."""
    starts = np.zeros(len(text), np.bool_)
    starts[:1] = True
    starts[[run.start() for run in _WHITESPACE.finditer(text)]] = True
    return starts


def length_histogram(lengths: np.ndarray) -> dict[str, int]:
    """How many patches have each of the `LENGTHS`, given their bytes, int `[patches]`."""
    counts = np.bincount(length_classes(lengths), minlength=len(LENGTHS))
    return dict(zip(LENGTHS, counts.tolist(), strict=True))


def length_classes(lengths: np.ndarray) -> np.ndarray:
    """The place of each length in `LENGTHS`, int64."""
    return np.searchsorted(list(LENGTHS.values())[:-1], lengths)
