"""How well the patches of a model agree with words and morphemes, and at which bytes they start.

A patch *boundary* is the byte with which a patch starts, in all families; the first byte of a
document is none. It is compared with three yardsticks:

- `word_start`: the first byte of each word, a run of bytes that are not whitespace;
- `whitespace_start`: the first byte after each word, where the run of whitespace starts;
- `morpheme`: inside words of a file, the byte with which each morpheme but the first starts. Only
  places inside these words count, so that boundaries at the edges of words are neither right nor
  wrong.

Each has two controls with as many boundaries, in each document, as the model: at random places (the
expectation, computed exactly), and at even distances.

The *lift* of a kind of byte says how much likelier a boundary is there than at any byte.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.chart import Chart
from bytelm.core.figure import Figure
from bytelm.core.intervals import bootstrap
from bytelm.core.places import place
from bytelm.core.statistics import name_at
from bytelm.core.terminal_text import number_of
from bytelm.evaluation.characters import KINDS, byte_kinds
from bytelm.evaluation.morphemes import Morphemes, read_morphemes
from bytelm.evaluation.reading import Ratios, in_order, read_documents
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import PATCHES, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText
from bytelm.inference.segmentation import whitespace_starts, word_starts
from bytelm.models.contract import ModelOutput


@dataclass(frozen=True)
class Boundaries(Evaluation):
    """Precision, recall and F1 of patch boundaries against words and morphemes, with controls."""

    name: ClassVar[str] = "boundaries"
    needs: ClassVar[tuple[Need, ...]] = (PATCHES,)

    morphemes: str | None = None
    """A file with `word TAB morphemes` on each line; none = words alone."""
    separator: str = " "
    """What separates the morphemes of a word, such as | or " @@"."""

    def __post_init__(self) -> None:
        self.require("give at least one character", bool, "separator")

    def check(self, loaded: LoadedModel) -> None:
        super().check(loaded)
        self._morphemes()

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures of each level, those of inner levels named as in `word_start/level_2/f1`.

        - `word_start/...`, `whitespace_start/...` and `morpheme/...`: `precision`, `recall`, `f1`,
          and the F1 of the controls, `random_f1` and `even_f1`;
        - `boundary_lift/KIND`: the share of the bytes of a kind with a boundary, over that of all
          bytes; the kinds are `bytelm.evaluation.characters.KINDS`.
        """
        morphemes, details = self._morphemes()
        found: dict[int, list[_Counts]] = {}  # of each document, by level
        words = known = 0
        for document, _ in read_documents(loaded, text, scoring, _starts):
            content = document.symbols.astype(np.uint8).tobytes()
            yardsticks = _yardsticks(content)
            if morphemes is not None:
                expected, places, *more = morphemes.find(content)
                yardsticks["morpheme"] = _Yardstick(expected, places)
                words, known = words + more[0], known + more[1]
            kinds = byte_kinds(content)
            counts = [_count(level[1:], yardsticks, kinds) for level in document.values]
            found[document.number] = counts
        details |= {"documents": len(found)}
        notes: list[str] = []
        if morphemes is not None:
            details |= {"words": words, "known_words": known}
            notes = [f"{known:,} of {number_of(words, 'word')} are in {self.morphemes}"]
        ratios, levels = Ratios(), list(zip(*in_order(found), strict=True))
        for level, of_level in enumerate(levels, start=1):
            _add_agreement(ratios, of_level, level)
            ratios.figures += _lifts(of_level, level)
        charts = _charts({figure.name: figure.value for figure in ratios.figures}, len(levels))
        return Result(
            tuple(ratios.figures), tuple(notes), details, items=ratios.items, charts=charts
        )

    def _morphemes(self) -> tuple[Morphemes | None, dict[str, Any]]:
        """The morphemes of the file, if there is one, and its digest."""
        if self.morphemes is None:
            return None, {}
        path = place(self.morphemes)
        morphemes = read_morphemes(path, self.separator)
        return morphemes, {"morphemes": hashlib.blake2b(path.read_bytes()).hexdigest()[:16]}


def _starts(output: ModelOutput, targets: jax.Array) -> tuple[jax.Array, ...]:
    """Where patches of each level start, bool `[B, T]` each."""
    return tuple(level.starts for level in output.levels)


class _Yardstick(NamedTuple):
    """Boundaries that are expected, and the places that count, bool `[bytes]`."""

    expected: np.ndarray
    places: np.ndarray


def _yardsticks(text: bytes) -> dict[str, _Yardstick]:
    inside = np.arange(len(text)) > 0
    return {
        "word_start": _Yardstick(word_starts(text), inside),
        "whitespace_start": _Yardstick(whitespace_starts(text), inside),
    }


class _Agreement(NamedTuple):
    """Numbers of boundaries in a document, or an array of them for each document."""

    found: Any
    expected: Any
    hits: Any
    random_hits: Any
    even_hits: Any


class _Counts(NamedTuple):
    """A level's boundaries in a document: agreement by yardstick, and int64 `[kinds]` by byte."""

    agreement: dict[str, _Agreement]
    boundaries: np.ndarray
    bytes: np.ndarray


def _count(starts: np.ndarray, yardsticks: Mapping[str, _Yardstick], kinds: np.ndarray) -> _Counts:
    """Counts the boundaries of a document, bool `[bytes]`, but for that of its first byte."""
    agreement = {name: agreement_with(starts, *each) for name, each in yardsticks.items()}
    boundaries = np.bincount(kinds[1:][starts[1:]], minlength=len(KINDS))
    return _Counts(agreement, boundaries, np.bincount(kinds[1:], minlength=len(KINDS)))


def agreement_with(starts: np.ndarray, expected: np.ndarray, places: np.ndarray) -> _Agreement:
    """Compares boundaries with expected ones at the places that count, bool `[bytes]` each."""
    found, wanted = starts[places], expected[places]
    number, count = int(found.sum()), len(found)
    return _Agreement(
        number,
        int(wanted.sum()),
        int((found & wanted).sum()),
        number * wanted.mean() if count else 0.0,
        int((evenly(number, count) & wanted).sum()),
    )


def evenly(number: int, places: int) -> np.ndarray:
    """A number of boundaries at even distances, bool `[places]`; the last place has one."""
    return np.diff(np.arange(places + 1) * number // max(places, 1)) > 0


def _add_agreement(ratios: Ratios, counts: Sequence[_Counts], level: int) -> None:
    """Adds precision, recall and F1, and F1 of the controls."""
    for name in counts[0].agreement:
        columns = zip(*(each.agreement[name] for each in counts), strict=True)
        sums = _Agreement(*(np.array(column, np.float64) for column in columns))
        either = sums.found + sums.expected
        for measure, hits, all_of_them in (
            ("precision", sums.hits, sums.found),
            ("recall", sums.hits, sums.expected),
            ("f1", 2 * sums.hits, either),
            ("random_f1", 2 * sums.random_hits, either),
            ("even_f1", 2 * sums.even_hits, either),
        ):
            full_name = f"{name_at(name, level)}/{measure}"
            ratios.add(full_name, hits, all_of_them, "share", empty=math.nan)


def _lifts(counts: Sequence[_Counts], level: int) -> Iterable[Figure]:
    """The lift of each kind of byte that the text has."""
    boundaries = np.array([each.boundaries for each in counts], np.float64)  # [documents, kinds]
    sizes = np.array([each.bytes for each in counts], np.float64)  # [documents, kinds]

    def lift(sums: np.ndarray) -> np.ndarray:
        of_kind, every, all_bytes, bytes_of_kind = sums
        with np.errstate(invalid="ignore", divide="ignore"):
            return of_kind / bytes_of_kind / (every / all_bytes)

    for index in np.flatnonzero(sizes.any(axis=0)).tolist():
        columns = boundaries[:, index], boundaries.sum(1), sizes.sum(1), sizes[:, index]
        value = float(lift(np.sum(columns, axis=1)))
        low, high = bootstrap(lift, *columns) or (None, None)
        yield Figure(f"{name_at('boundary_lift', level)}/{KINDS[index]}", value, "", low, high)


def _charts(values: Mapping[str, float], levels: int) -> tuple[Chart, ...]:
    """F1 by yardstick and lift by kind of byte, with bars for each level."""

    def bars(figures: Mapping[str, str]) -> dict[str, float]:
        return {label: values[name] for label, name in figures.items() if name in values}

    f1: dict[str, dict[str, float]] = {}
    lifts: dict[str, dict[str, float]] = {}
    for level in range(1, levels + 1):
        label = f"level {level}"
        for line, measure in ((label, "f1"), (f"{label}, random", "random_f1")):
            yardsticks = ("word_start", "whitespace_start", "morpheme")
            f1[line] = bars({name: f"{name_at(name, level)}/{measure}" for name in yardsticks})
        lifts[label] = bars({kind: f"{name_at('boundary_lift', level)}/{kind}" for kind in KINDS})
    return (
        Chart.histogram("Boundaries and words", "yardstick", "F1", f1),
        Chart.histogram("Boundaries by kind of byte", "kind of byte", "lift", lifts),
    )
