"""The patches that a model cuts text into: an evaluation, and one text on a terminal or a page."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any, ClassVar

import numpy as np
from rich.console import Console
from rich.text import Text

from bytelm.api import LoadedModel
from bytelm.core.chart import Chart
from bytelm.core.console import TerminalConsole
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import bootstrap
from bytelm.core.statistics import name_at
from bytelm.core.terminal_text import number_of, printable
from bytelm.evaluation.reading import Ratios
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import PATCHES, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.segmentation import (
    Patch,
    Segmentation,
    length_classes,
    length_histogram,
)
from bytelm.patching.learned import RATE
from bytelm.patching.marks import BPB_AT_LAG
from bytelm.patching.patches import BYTES_PER_PATCH, LENGTHS, OVERFLOW, SYMBOLS_PER_PATCH

_STYLES = ("black on bright_cyan", "black on bright_yellow")
_BAR_STYLE = "bold"
_WIDEST_BAR = 20

_COLOURS = ((59, 125, 216), (232, 185, 60), (215, 48, 31))
"""The heat map's scale from no bits to its top, in sRGB; visible on light and dark backgrounds."""
_TOP = 95
"""The scale ends at this percentile of the patches' bits per byte; outliers do not stretch it."""


@dataclass(frozen=True)
class PatchStatistics(Evaluation):
    """Lengths of patches, and bits by distance from a boundary."""

    name: ClassVar[str] = "segmentation"
    needs: ClassVar[tuple[Need, ...]] = (PATCHES,)

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures of each level, those of inner levels named as in `overflow/level_2`.

        - `bytes_per_patch`, and of inner levels `symbols_per_patch`;
        - `boundaries/rate`, boundaries per symbol, and `overflow`, the share of them without a
          slot; a level's symbols are the boundaries of the level around it, or START and the bytes;
        - `bpb_at_lag/...`: bits of the bytes at each lag after a boundary, and
          `boundary_enrichment` (arXiv 2601.22805): those at lag 1, the bytes right after a
          boundary, over those of all bytes (`bytelm.patching.marks`).
        """
        documents = list(filter(None, FirstBytes(text.documents(), scoring.max_bytes)))
        if not documents:
            raise UserError("the documents hold no bytes; choose a source or split that has text.")
        cut = loaded.segment_all(documents, stride=scoring.stride, batch_size=scoring.batch_size)
        ratios = Ratios()
        details: list[dict[str, Any]] = []
        lengths: dict[str, dict[str, float]] = {}
        lags: dict[str, dict[str, float]] = {}
        for level in range(1, len(cut[0].levels) + 1):
            found, label = [each.at(level) for each in cut], f"level {level}"
            _add_sizes(ratios, cut, level)
            ratios.figures += _boundaries(cut, level)
            lags[label] = _add_bits_at_lags(ratios, found, level)
            histogram = length_histogram(np.concatenate([each.lengths for each in found]))
            patches = sum(histogram.values())
            details.append({"patches": patches, "patches_by_length": histogram})
            lengths[label] = {name: count / patches for name, count in histogram.items()}
        return Result(
            tuple(ratios.figures),
            (number_of(details[0]["patches"], "patch", "patches"),),
            {"levels": details},
            items=ratios.items,
            charts=(
                Chart.histogram("Patch lengths", "bytes in a patch", "share of patches", lengths),
                Chart.histogram("Bits by lag", "bytes from the boundary", "bits per byte", lags),
            ),
        )


def _add_sizes(ratios: Ratios, cut: Sequence[Segmentation], level: int) -> None:
    """Adds bytes, and in an inner level symbols, per patch."""
    patches = [each.levels[level - 1].starts.sum() for each in cut]
    sizes = [len(each.text) for each in cut]
    ratios.add(BYTES_PER_PATCH.at(level).name, sizes, patches, BYTES_PER_PATCH.unit)
    if level > 1:
        symbols = [each.levels[level - 2].starts.sum() for each in cut]
        ratios.add(SYMBOLS_PER_PATCH.at(level).name, symbols, patches, SYMBOLS_PER_PATCH.unit)


def _boundaries(cut: Sequence[Segmentation], level: int) -> Iterable[Figure]:
    """The rate of boundaries, and the share of them that found no slot."""
    made = sum(each.levels[level - 1].boundaries.sum() for each in cut)
    ignored = sum(each.levels[level - 1].ignored.sum() for each in cut)
    if level == 1:
        symbols = sum(len(each.text) + 1 for each in cut)
    else:
        symbols = sum(each.levels[level - 2].boundaries.sum() for each in cut)
    yield from RATE.at(level)(made + ignored, symbols).figures
    yield from OVERFLOW.at(level)(ignored, made + ignored).figures


def _add_bits_at_lags(
    ratios: Ratios, found: Sequence[Segmentation], level: int
) -> dict[str, float]:
    """Adds bits of the bytes at each lag, and those at lag 1 over those of all bytes.

    Returns:
        bits by lag.
    """
    bits, counts = np.zeros((2, len(found), len(LENGTHS)))  # [documents, classes] each
    for document, each in enumerate(found):
        lags = length_classes(each.lags)
        bits[document] = np.bincount(lags, each.nats / math.log(2), len(LENGTHS))
        counts[document] = np.bincount(lags, minlength=len(LENGTHS))
    name, unit = BPB_AT_LAG.at(level).name, BPB_AT_LAG.unit
    by_lag = {
        lag: ratios.add(f"{name}/{lag}", bits[:, place], counts[:, place], unit).value
        for place, lag in enumerate(LENGTHS)
        if counts[:, place].any()
    }

    def enrichment(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return sums[0] / sums[3] / (sums[1] / sums[2])

    columns = bits[:, 0], bits.sum(axis=1), counts.sum(axis=1), counts[:, 0]
    low, high = bootstrap(enrichment, *columns) or (None, None)
    value = float(enrichment(np.sum(columns, axis=1)))
    ratios.figures.append(Figure(name_at("boundary_enrichment", level), value, "", low, high))
    return by_lag


def print_segmentation(segmentation: Segmentation, console: Console | None = None) -> None:
    """Prints the text with its patches in alternating colours, and figures below it.

    Bars stand where patches of inner levels start: one more for each level. Without colours, a bar
    also separates patches of the outermost level, and the text's own bars and backslashes have a
    backslash before them.
    """
    console = console or TerminalConsole()
    coloured = bool(console.color_system)
    text = Text()
    patches = zip(segmentation.pieces, segmentation.depths.tolist(), strict=True)
    for number, (piece, depth) in enumerate(patches):
        if number:
            text.append("|" * (depth - coloured), _BAR_STYLE)
        text.append(visible(piece if coloured else _escaped(piece)), _STYLES[number % 2])
    console.print(text, soft_wrap=True)
    lines = ["", *_legend(segmentation, coloured), *_summary(segmentation)]
    for line in lines:
        console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _escaped(piece: bytes) -> bytes:
    """A patch in which no bar, and no byte written as a number, can be taken for another."""
    return piece.replace(b"\\", rb"\\").replace(b"|", rb"\|")


def _legend(segmentation: Segmentation, coloured: bool) -> list[str]:
    """Says what the bars mean, if there are several levels or some are the text's own."""
    levels, first = len(segmentation.levels), 2 if coloured else 1
    bars = [f"{'|' * (n + 1 - first)} a patch of level {n}" for n in range(first, levels + 1)]
    lines = [f"here start: {', '.join(bars)}"] if levels > 1 else []
    if not coloured and _escaped(segmentation.text) != segmentation.text:
        lines.append(r"of the text: \| and \\")
    return [*lines, ""] if lines else []


def visible(piece: bytes) -> str:
    r"""A patch as text: control characters made visible, bytes that are no character as \xNN.

    A character that two patches share is therefore shown by its bytes.
    """
    text = piece.decode("utf-8", "backslashreplace")
    return printable(text).replace("\t", "␉\t").replace("\n", "␊\n")


def _summary(segmentation: Segmentation) -> Iterable[str]:
    """Figures of the text, and of the patches of each level."""
    symbols = len(segmentation.text)
    for level in range(1, len(segmentation.levels) + 1):
        cut = segmentation.at(level)
        patches = number_of(len(cut.lengths), "patch", "patches")
        size = f"{cut.lengths.mean():.2f} bytes per patch (longest {cut.lengths.max():,})"
        if level == 1:
            yield f"{number_of(symbols, 'byte')}, {patches}, {size}"
            yield (
                f"{cut.bits_per_byte:.4f} bits per byte; "
                f"end of text {cut.end_nats / math.log(2):.2f} bits"
            )
        else:
            yield ""
            each = f"{symbols / len(cut.lengths):.2f} of level {level - 1} in each"
            yield f"level {level}: {patches}, {size}, {each}"
        for place, words in (
            ("at", cut.word_agreement),
            ("at the whitespace before", cut.space_agreement),
        ):
            yield (
                f"patches that start {place} a word: precision {_share(words.precision)}, recall "
                f"{_share(words.recall)}, F1 {_share(words.f1)}"
            )
        yield ""
        yield from _bars(cut.lengths)
        symbols = len(cut.lengths)


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1%}"


def _bars(lengths: np.ndarray) -> Iterable[str]:
    """The histogram of patch lengths."""
    histogram = length_histogram(lengths)
    most = max(histogram.values())
    yield "bytes in a patch"
    for label, count in histogram.items():
        bar = "█" * math.ceil(_WIDEST_BAR * count / most)
        yield f"{label:>12}  {bar:{_WIDEST_BAR}}  {count:,} ({count / len(lengths):.1%})"


def segmentation_json(segmentation: Segmentation) -> dict[str, Any]:
    """The patches as JSON values: those of the innermost level, which hold those around it."""

    def patch(found: Patch) -> dict[str, Any]:
        values: dict[str, Any] = {"start": found.first, "bytes": found.last - found.first}
        values["bits"] = found.nats / math.log(2) if math.isfinite(found.nats) else None
        if found.parts:
            return {**values, "patches": [patch(part) for part in found.parts]}
        piece = segmentation.text[found.first : found.last]
        return {**values, "text": piece.decode("utf-8", "backslashreplace")}

    return {
        "bytes": len(segmentation.text),
        "levels": len(segmentation.levels),
        "patches": [patch(found) for found in segmentation.nested],
    }


def segmentation_page(segmentation: Segmentation, title: str) -> str:
    """A self-contained page of HTML, with a heat map of bits per byte under the patches.

    The map has a line for each level.
    """
    costs = segmentation.patch_bits_per_byte
    finite = costs[np.isfinite(costs)]
    top = max(1.0, float(np.percentile(finite, _TOP)) if len(finite) else 1.0)
    levels = len(segmentation.levels)

    def span(patch: Patch, level: int) -> str:
        piece = segmentation.text[patch.first : patch.last]
        cost = patch.nats / math.log(2) / len(piece)
        inside = "".join(span(part, level - 1) for part in patch.parts)
        size, style = f"{len(piece)} bytes", f'style="border-color:{_colour(cost / top)}'
        if level > 1:
            size = f"level {level}: {size}, {len(patch.parts)} patches"
            style = f'class="inner" {style};padding-bottom:{0.6 * (level - 1):.1f}em'
        return (
            f'<span {style}" title="{size}, {cost:.2f} bits per byte">'
            f"{inside or html.escape(visible(piece))}</span>"
        )

    template = files(__package__) / "segmentation_page.html"
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        gradient=", ".join(_colour(step / 8) for step in range(9)),
        middle=f"{top / 2:.2f}",
        top=f"{top:.2f}",
        height=f"{1.6 + 0.6 * levels:.1f}",
        patches="".join(span(patch, levels) for patch in segmentation.nested),
        summary=html.escape("\n".join(_summary(segmentation))),
    )


def _colour(share: float) -> str:
    """The scale's colour at `share`, clipped to 0 and 1; NaN has that of 1."""
    place = 1.0 if math.isnan(share) else share
    mixed = (np.interp(2 * place, range(3), channel) for channel in zip(*_COLOURS, strict=True))
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)
