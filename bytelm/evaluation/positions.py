"""Bits of bytes by their position: in the document, and in the patch.

Positions count from 1. The curve over the document shows how much a model gains from context, as in
Huang et al. 2023 ("Lexinvariant Language Models"). Beyond the model's context the curve is flat by
construction: every byte there has between `context - stride` and `context` symbols before it. Only
long documents have bytes in the last ranges, so the ranges are of different texts.

The bits of a token count at the position of its first byte, over all its bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.chart import Chart, Point
from bytelm.core.figure import Figure
from bytelm.core.statistics import name_at
from bytelm.evaluation.reading import Ratios, byte_lengths, in_order, read_documents
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText
from bytelm.inference.scoring import nats_and_marks
from bytelm.inference.segmentation import length_classes
from bytelm.patching.patches import LENGTHS

MOST_RANGES = 40
"""Ranges of positions; the last ends after 16 x 2^39 bytes, or more."""
AXES = ("position of the byte", "bits per byte")
"""Labels of the charts' axes."""


@dataclass(frozen=True)
class Positions(Evaluation):
    """Bits per byte by position in the document, and by position in the patch."""

    name: ClassVar[str] = "positions"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)
    choosing: ClassVar[tuple[str, ...]] = ("first",)

    first: int = 16
    """Bytes in the first range of positions; each further range ends twice as far."""

    def __post_init__(self) -> None:
        self.require_positive("first")

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `bpb_at_position/1-16`, `.../17-32`, ...; in families with patches, of each level
        also `bpb_in_patch/1`, `/2`, `/3-4`, ...: of the bytes with these positions in their patch.
        """
        in_documents: dict[int, _Sums] = {}
        in_patches: dict[int, list[_Sums]] = {}  # of each document, by level
        for document, _ in read_documents(loaded, text, scoring, nats_and_marks):
            nats, levels = document.values
            bits = nats[:-1].astype(np.float64) / np.log(2)
            lengths = byte_lengths(loaded, document.symbols)
            positions = 1 + np.cumsum(lengths) - lengths
            in_documents[document.number] = _sums(bits, lengths, self._ranges(positions))
            in_patches[document.number] = [
                _sums(bits, lengths, length_classes(position_in_patch(level.starts[1:])))
                for level in levels
            ]
        ratios, sums = Ratios(), in_order(in_documents)
        bound = loaded.tokenizer is not None
        figures = _add(ratios, "bpb_at_position", self._names(sums), sums, bound=bound)
        curve = [Point(_end(figure.name), figure.value, figure.interval) for figure in figures]
        title = "Bits by position in the document"
        charts = [Chart.of(title, *AXES, {"documents": curve}, log_x=True)]
        bars: dict[str, dict[str, float]] = {}
        for level, of_level in enumerate(zip(*in_order(in_patches), strict=True), start=1):
            figures = _add(ratios, name_at("bpb_in_patch", level), list(LENGTHS), of_level)
            bars[f"level {level}"] = {f.name.rpartition("/")[2]: f.value for f in figures}
        if bars:
            charts.append(Chart.histogram("Bits by position in the patch", *AXES, bars))
        return Result(
            tuple(ratios.figures),
            details={"documents": len(sums), "ranges": _counts(sums)},
            items=ratios.items,
            charts=tuple(charts),
        )

    def _ranges(self, positions: np.ndarray) -> np.ndarray:
        """The number of each position's range, from 0."""
        return np.searchsorted(self.first << np.arange(MOST_RANGES), positions)

    def _names(self, sums: Sequence["_Sums"]) -> list[str]:
        ends = [self.first << n for n in range(max(len(each.bytes) for each in sums))]
        begins = [1, *(end + 1 for end in ends)]
        pairs = zip(begins, ends, strict=False)
        return [str(end) if begin == end else f"{begin}-{end}" for begin, end in pairs]


def _end(name: str) -> int:
    """The last position of the range of a figure, such as 32 for "bpb_at_position/17-32"."""
    return int(name.rpartition("/")[2].rpartition("-")[2])


def position_in_patch(starts: np.ndarray) -> np.ndarray:
    """The position of each byte in its patch, from 1, int64 `[bytes]`.

    `starts`, bool `[bytes]`, are the bytes with which patches begin; the first byte always does.
    """
    index = np.arange(len(starts))
    return 1 + index - np.maximum.accumulate(np.where(starts, index, 0))


class _Sums(NamedTuple):
    """Sums of a document in each class, float64 `[classes]`; the last class has something."""

    bits: np.ndarray
    bytes: np.ndarray


def _sums(bits: np.ndarray, lengths: np.ndarray, classes: np.ndarray) -> _Sums:
    return _Sums(np.bincount(classes, bits), np.bincount(classes, lengths))


def _table(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays `[classes]` of several documents as one, `[documents, classes]`."""
    rows = list(arrays)
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows])


def _add(
    ratios: Ratios, name: str, classes: Sequence[str], sums: Sequence[_Sums], *, bound: bool = False
) -> list[Figure]:
    """Adds the bits per byte of each class that has bytes, and returns them."""
    bits, sizes = _table(each.bits for each in sums), _table(each.bytes for each in sums)
    return [
        ratios.add(f"{name}/{classes[at]}", bits[:, at], sizes[:, at], "bpb", bound=bound)
        for at in np.flatnonzero(sizes.any(axis=0)).tolist()
    ]


def _counts(sums: Sequence[_Sums]) -> list[dict[str, Any]]:
    """How many documents and bytes each range has."""
    sizes = _table(each.bytes for each in sums)
    pairs = zip(np.count_nonzero(sizes, axis=0), sizes.sum(axis=0), strict=True)
    return [{"documents": int(count), "bytes": int(size)} for count, size in pairs]
