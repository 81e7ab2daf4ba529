"""The patches that a model cuts text into: an evaluation, and one text on a terminal or a page."""

import functools
import html
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import ClassVar

import numpy as np
from rich.console import Console
from rich.text import Text

from bytelm.api import LoadedModel
from bytelm.core.console import TerminalConsole
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import ratio
from bytelm.core.terminal_text import number_of, printable
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import PATCHES, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.segmentation import Segmentation, length_histogram

_STYLES = ("black on bright_cyan", "black on bright_yellow")
_WIDEST_BAR = 20

_COLOURS = ((59, 125, 216), (232, 185, 60), (215, 48, 31))
"""The heat map's scale from no bits to its top, in sRGB; visible on light and dark backgrounds."""
_TOP = 95
"""The scale ends at this percentile of the patches' bits per byte; outliers do not stretch it."""


@dataclass(frozen=True)
class PatchStatistics(Evaluation):
    """Lengths of patches, and how well their starts agree with those of words."""

    name: ClassVar[str] = "segmentation"
    needs: ClassVar[tuple[Need, ...]] = (PATCHES,)

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `bytes_per_patch`, and `word_start/...` and `whitespace_start/...`: precision,
        recall and F1 of patch starts.
        """
        documents = list(filter(None, FirstBytes(text.documents(), scoring.max_bytes)))
        if not documents:
            raise UserError("the documents hold no bytes; choose a source or split that has text.")
        cut = loaded.segment_all(documents, stride=scoring.stride, batch_size=scoring.batch_size)
        sizes = np.array([len(found.text) for found in cut])
        counts = np.array([len(found.lengths) for found in cut])
        figures = [ratio("bytes_per_patch", sizes, counts, "B/patch")]
        words = functools.reduce(operator.add, [found.word_agreement for found in cut])
        spaces = functools.reduce(operator.add, [found.space_agreement for found in cut])
        figures += [
            Figure(f"{name}/{measure}", getattr(agreement, measure), "share")
            for name, agreement in (("word_start", words), ("whitespace_start", spaces))
            for measure in ("precision", "recall", "f1")
        ]
        lengths = np.concatenate([found.lengths for found in cut])
        return Result(
            tuple(figures),
            (number_of(len(lengths), "patch", "patches"),),
            {"patches": len(lengths), "patches_by_length": length_histogram(lengths)},
        )


def print_segmentation(segmentation: Segmentation, console: Console | None = None) -> None:
    """Prints the text with its patches in alternating colours, and figures below it.

    Without colours, a | separates patches.
    """
    console = console or TerminalConsole()
    text = Text("" if console.color_system else "|").join(
        Text(visible(piece), _STYLES[number % 2])
        for number, piece in enumerate(segmentation.pieces)
    )
    console.print(text, soft_wrap=True)
    for line in ("", *_summary(segmentation), "", *_bars(segmentation.lengths)):
        console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def visible(piece: bytes) -> str:
    r"""A patch as text: control characters made visible, bytes that are no character as \xNN.

    A character that two patches share is therefore shown by its bytes.
    """
    text = piece.decode("utf-8", "backslashreplace")
    return printable(text).replace("\t", "␉\t").replace("\n", "␊\n")


def _summary(segmentation: Segmentation) -> list[str]:
    lengths = segmentation.lengths
    agreement = {
        "at": segmentation.word_agreement,
        "at the whitespace before": segmentation.space_agreement,
    }
    return [
        f"{number_of(len(segmentation.text), 'byte')}, "
        f"{number_of(len(lengths), 'patch', 'patches')}, "
        f"{lengths.mean():.2f} bytes per patch (longest {lengths.max():,})",
        f"{segmentation.bits_per_byte:.4f} bits per byte; "
        f"end of text {segmentation.end_nats / math.log(2):.2f} bits",
        *(
            f"patches that start {place} a word: precision {_share(words.precision)}, recall "
            f"{_share(words.recall)}, F1 {_share(words.f1)}"
            for place, words in agreement.items()
        ),
    ]


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


def segmentation_page(segmentation: Segmentation, title: str) -> str:
    """A self-contained page of HTML, with a heat map of bits per byte under the patches."""
    costs = segmentation.patch_bits_per_byte
    finite = costs[np.isfinite(costs)]
    top = max(1.0, float(np.percentile(finite, _TOP)) if len(finite) else 1.0)
    patches = "".join(
        f'<span style="border-color:{_colour(cost / top)}" '
        f'title="{len(piece)} bytes, {cost:.2f} bits per byte">'
        f"{html.escape(visible(piece))}</span>"
        for piece, cost in zip(segmentation.pieces, costs, strict=True)
    )
    lines = [*_summary(segmentation), *_bars(segmentation.lengths)]
    template = files(__package__) / "segmentation_page.html"
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        gradient=", ".join(_colour(step / 8) for step in range(9)),
        middle=f"{top / 2:.2f}",
        top=f"{top:.2f}",
        patches=patches,
        summary=html.escape("\n".join(lines)),
    )


def _colour(share: float) -> str:
    """The scale's colour at `share`, clipped to 0 and 1; NaN has that of 1."""
    place = 1.0 if math.isnan(share) else share
    mixed = (np.interp(2 * place, range(3), channel) for channel in zip(*_COLOURS, strict=True))
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)
