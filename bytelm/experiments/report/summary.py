"""Runs taken together: means over seeds, paired differences, Pareto fronts."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bytelm.core.figure import Figure
from bytelm.core.intervals import bootstrap_interval
from bytelm.experiments.records import Heading, RunRecord, RunState


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

    @property
    def state(self) -> tuple[RunState, str]:
        """The state of its first run that is not done, and why; "done" if all are."""
        unfinished = [run for run in self.runs if run.state != "done"]
        return (unfinished[0].state, unfinished[0].reason) if unfinished else ("done", "")

    def figure(self, name: str) -> Figure | None:
        """The mean over the runs that are done, also of the interval's ends; None if unknown."""
        found = [run.figures[name] for run in self.done if name in run.figures]
        if not found:
            return None
        value = statistics.fmean(figure.value for figure in found)
        ends = [figure.interval for figure in found if figure.interval is not None]
        low, high = map(statistics.fmean, zip(*ends, strict=True)) if ends else (None, None)
        return Figure(name, value, found[0].unit, low, high, any(f.bound for f in found))

    def mean(self, name: str) -> float | None:
        """The mean over the runs that are done; None if none of them has the figure."""
        figure = self.figure(name)
        return None if figure is None else figure.value

    def spread(self, name: str) -> tuple[float, float] | None:
        """The lowest and the highest of several seeds; None for fewer than two."""
        values = [run.figures[name].value for run in self.done if name in run.figures]
        return (min(values), max(values)) if len(values) > 1 else None


def gather(records: Sequence[RunRecord]) -> list[Entry]:
    """The runs by corpus and contender, in order of first mention, budgets rising."""
    contenders = list(dict.fromkeys(run.contender for run in records))
    corpora = list(dict.fromkeys(run.corpus for run in records))

    def place(run: RunRecord) -> tuple[int, float, int]:
        return corpora.index(run.corpus), run.budget, contenders.index(run.contender)

    gathered = itertools.groupby(sorted(records, key=place), place)
    return [
        Entry(contenders[contender], corpora[corpus], budget, tuple(runs))
        for (corpus, budget, contender), runs in gathered
    ]


def groups(heading: Heading, entries: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """The entries of each corpus and budget, which are compared with each other, with a title."""
    for place, group in itertools.groupby(entries, lambda entry: (entry.corpus, entry.budget)):
        yield heading.group_title(*place), list(group)


@dataclass(frozen=True)
class Difference:
    """Bits per byte of a contender minus those of the baseline, on the same documents.

    Attributes:
        value: the mean over the seeds that both have done.
        interval: 95%, by resampling documents; None if there are too few of them.
        by_seed: the lowest and the highest difference of a seed; None for a single seed.
        seeds: how many both have done.
        documents: how many were tested.
        sign: "≤" or "≥" if the true difference is at most or at least this one, because the
            contender's or the baseline's bits are an upper bound.
    """

    contender: str
    value: float
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

    For each seed that both have done, the difference in bits of each document is taken. The means
    over seeds are resampled by document, as a ratio of sums. So the interval shows how the
    difference depends on the documents, and `by_seed` how it depends on the seed.

    Without `same_seeds` each has one run. None if both have done no common seed, or their test
    documents differ or are unknown.
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
    # [seeds, documents]
    bits = np.array([np.subtract(a.document_bits, b.document_bits) for a, b in pairs])
    by_seed = bits.sum(axis=1) / sum(raw_bytes)  # [seeds]
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
    """The points for which no other is as low in both coordinates, from left to right."""
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
    for name in (name for entry in entries for run in entry.done for name in run.figures):
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
