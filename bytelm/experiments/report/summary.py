"""The runs of a comparison taken together: means over seeds, paired differences, the best."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bytelm.core.intervals import bootstrap_interval
from bytelm.experiments.record import RunRecord


@dataclass(frozen=True)
class Entry:
    """A contender's runs on one corpus and budget, one for each seed."""

    contender: str
    corpus: str
    budget: float
    runs: tuple[RunRecord, ...]

    @property
    def done(self) -> list[RunRecord]:
        return [run for run in self.runs if run.state == "done"]

    @property
    def upper_bound(self) -> bool:
        """Whether its bits are an upper bound."""
        return any(run.upper_bound for run in self.runs)

    def values(self, figure: str) -> list[float]:
        """A figure of each run that is done and has it."""
        return [run.figures[figure] for run in self.done if figure in run.figures]

    def mean(self, figure: str) -> float | None:
        """Over the runs that are done; None if none of them has the figure."""
        values = self.values(figure)
        return statistics.fmean(values) if values else None

    def spread(self, figure: str) -> tuple[float, float] | None:
        """The lowest and the highest of several seeds; None for fewer than two."""
        values = self.values(figure)
        return (min(values), max(values)) if len(values) > 1 else None

    def interval(self, figure: str = "bpb") -> tuple[float, float] | None:
        """The means over seeds of the ends of a figure's interval over documents."""
        low, high = self.mean(f"{figure}_low"), self.mean(f"{figure}_high")
        return None if low is None or high is None else (low, high)


def gather(records: Sequence[RunRecord]) -> list[Entry]:
    """The runs by corpus and contender, in order of first mention, budgets rising."""
    gathered: dict[tuple[str, float, str], list[RunRecord]] = {}
    for run in records:
        gathered.setdefault((run.corpus, run.budget, run.contender), []).append(run)
    contenders = list(dict.fromkeys(run.contender for run in records))
    corpora = list(dict.fromkeys(run.corpus for run in records))
    entries = [
        Entry(contender, corpus, budget, tuple(runs))
        for (corpus, budget, contender), runs in gathered.items()
    ]
    return sorted(
        entries,
        key=lambda entry: (
            corpora.index(entry.corpus),
            entry.budget,
            contenders.index(entry.contender),
        ),
    )


@dataclass(frozen=True)
class Difference:
    """Bits per byte of a contender less those of the baseline, on the same documents.

    Attributes:
        contender: its name.
        bpb: the mean over the seeds that both have done.
        interval: 95%, by resampling documents; None if there are too few of them.
        by_seed: the lowest and the highest of the seeds' differences; None for a single seed.
        seeds: how many both have done.
        documents: how many were tested.
        sign: "≤" or "≥" if the true difference is at most or at least this one, because the
            contender's or the baseline's bits are an upper bound.
    """

    contender: str
    bpb: float
    interval: tuple[float, float] | None
    by_seed: tuple[float, float] | None
    seeds: int
    documents: int
    sign: Literal["", "≤", "≥"]

    @property
    def verdict(self) -> str:
        """Whether the interval excludes 0, and on which side."""
        if self.interval is None:
            return ""
        low, high = self.interval
        if high < 0:
            return "yes, lower"
        return "yes, higher" if low > 0 else "no"


def paired_difference(
    contender: Entry, baseline: Entry, *, same_seeds: bool = True
) -> Difference | None:
    """The difference of two entries, by a paired bootstrap over documents.

    For each seed that both have done, the difference of a document's bits is taken; the means of
    these over seeds are resampled by document, as a ratio of sums. The interval so tells how the
    difference depends on the documents, `by_seed` how it depends on the seed.

    Args:
        contender, baseline: of one corpus and budget.
        same_seeds: whether runs of the same seed are paired; otherwise the only run of each is,
            whatever its seed.

    Returns:
        None if no seed is done by both, or the tested documents are not known or not the same.
    """
    ours, theirs = (
        {run.seed if same_seeds else 0: run for run in entry.done}
        for entry in (contender, baseline)
    )
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    sizes = {run.document_bytes for pair in pairs for run in pair}
    if len(sizes) != 1 or sum(raw_bytes := sizes.pop()) == 0:
        return None
    bits = np.array([np.subtract(a.document_bits, b.document_bits) for a, b in pairs])
    by_seed = bits.sum(axis=1) / sum(raw_bytes)
    signs: dict[tuple[bool, bool], Literal["≤", "≥"]] = {(True, False): "≤", (False, True): "≥"}
    return Difference(
        contender.contender,
        float(by_seed.mean()),
        bootstrap_interval(bits.mean(axis=0), raw_bytes),
        (float(np.min(by_seed)), float(np.max(by_seed))) if len(seeds) > 1 else None,
        len(seeds),
        len(raw_bytes),
        signs.get((contender.upper_bound, baseline.upper_bound), ""),
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points than which no other is as low in both coordinates, from left to right."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def breakdown(entries: Sequence[Entry], prefix: str) -> dict[str, list[str]]:
    """The middles of the figures named `prefix/MIDDLE/MEASURE`, by measure.

    Numbers in the middle, such as a rate, rise; words stay in order of first mention.
    """
    found: dict[str, dict[str, None]] = {}
    for entry in entries:
        for run in entry.done:
            for name in run.figures:
                if name.startswith(f"{prefix}/") and name.count("/") > 1:
                    middle, _, measure = name.removeprefix(f"{prefix}/").rpartition("/")
                    found.setdefault(measure, {})[middle] = None
    return {measure: _by_number(list(middles)) for measure, middles in found.items()}


def _by_number(middles: list[str]) -> list[str]:
    kinds = list(dict.fromkeys(middle.partition("/")[0] for middle in middles))

    def place(middle: str) -> tuple[int, float, str]:
        kind, _, rate = middle.partition("/")
        try:
            return kinds.index(kind), float(rate), rate
        except ValueError:
            return kinds.index(kind), math.inf, rate

    return sorted(middles, key=place)
