"""The charts of a comparison: what is drawn and where, however it is drawn."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator

from bytelm.experiments.record import Axis
from bytelm.experiments.report.summary import Entry, pareto_front
from bytelm.experiments.report.table import power

COLOURS = ("#005a9c", "#d55e00", "#00856a", "#c05a9b", "#3a3a3a", "#a37a00", "#45a5e0")
"""On white. After Okabe & Ito (2008), told apart by the colour-blind; light ones are darkened."""
DARK_COLOURS = ("#56b4e9", "#ff8a3d", "#2bc79a", "#e78ac3", "#e0e0e0", "#e3c04b", "#9aa0ff")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""Of Matplotlib. Their number and that of the colours have no common divisor, so that pairs of
them differ for as long as can be."""

UNITS = {
    "train_flops": "training FLOPs",
    "raw_bytes": "bytes of text",
    "inference_flops": "inference FLOPs per byte",
}
"""What a budget is of, by the comparison's axis."""

MEASURES = {"bpb": "bits per byte", "bits_per_target_byte": "bits per target byte"}
"""What models are compared by, in words."""

_MARGIN = 0.06
"""Of a scale, beyond what is drawn."""


class Point(NamedTuple):
    """A place on a chart, with the ends of its interval from below to above where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A contender's paths.

    Attributes:
        label: its name as shown.
        number: chooses the colour and the marker; the same on all charts.
        paths: one or several, each from left to right.
    """

    label: str
    number: int
    paths: tuple[tuple[Point, ...], ...]

    @property
    def last(self) -> Point:
        """Where the label points to."""
        return self.paths[0][-1]


@dataclass(frozen=True)
class Scale:
    """A logarithmic or linear axis.

    Attributes:
        label: what is measured.
        low, high: its ends.
        log: whether equal ratios are equally long.
    """

    label: str
    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)

    @property
    def ticks(self) -> dict[float, str]:
        """Round values, and how they are written."""
        for each in ((1,), (1, 3), (1, 2, 5)) if self.log else ():
            ticks = self._within(LogLocator(subs=each).tick_values(self.low, self.high))
            if len(ticks) > 2:
                return ticks
        locator = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
        return self._within(locator.tick_values(self.low, self.high))

    def _within(self, ticks: Iterable[float]) -> dict[float, str]:
        return {
            float(tick): power(tick, digits=6) for tick in ticks if self.low <= tick <= self.high
        }


def scale_of(values: Sequence[float], label: str, *, log: bool, shortest: float) -> Scale:
    """A scale that holds the values.

    Args:
        values: positive if `log`.
        label: what is measured.
        log: whether it is logarithmic.
        shortest: the least difference of its ends, or their least ratio if `log`: what differs by
            less is no difference to look at.
    """
    ends = [math.log(v) if log else v for v in (min(values), max(values))]
    lacking = max(0.0, (math.log(shortest) if log else shortest) - (ends[1] - ends[0]))
    margin = _MARGIN * (ends[1] - ends[0]) + lacking / 2
    low, high = ends[0] - margin, ends[1] + margin
    return Scale(label, math.exp(low), math.exp(high), log) if log else Scale(label, low, high, log)


@dataclass(frozen=True)
class Chart:
    """Contenders on two scales.

    Attributes:
        title: what of.
        x, y: the scales.
        series: the contenders.
        front: the Pareto front, from left to right; empty for none.
        marked: whether each point of a path has a marker, or its end alone.
    """

    title: str
    x: Scale
    y: Scale
    series: tuple[Series, ...]
    front: tuple[tuple[float, float], ...] = ()
    marked: bool = True

    @property
    def label_places(self) -> list[float]:
        """For each series the height of its label, so that none covers another."""
        return spread([self.y.place(series.last.y) for series in self.series], 1 / 17)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places from 0 to 1, in the order of those wanted, at least `gap` apart if there is room."""
    gap = min(gap, 1 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    up = _pushed([wanted[number] for number in order], gap)
    down = [-place for place in _pushed([-wanted[number] for number in reversed(order)], gap)]
    # Halfway between those pushed up and those pushed down they are as far apart, and centred.
    middle = [(low + high) / 2 for low, high in zip(reversed(down), up, strict=True)]
    room = [(number * gap, 1 - (len(wanted) - 1 - number) * gap) for number in range(len(wanted))]
    places = [min(max(at, low), high) for at, (low, high) in zip(middle, room, strict=True)]
    return [place for _, place in sorted(zip(order, places, strict=True))]


def _pushed(rising: Sequence[float], gap: float) -> list[float]:
    """The values, each raised to `gap` above the one before where it is closer."""
    return list(itertools.accumulate(rising, lambda below, value: max(value, below + gap)))


def pareto_charts(
    entries: Sequence[Entry],
    figure: str,
    label: str,
    axis: Axis | None,
    *,
    by_budget: bool,
    measure: str = "bpb",
) -> list[Chart]:
    """Test bits against a cost, one chart for each corpus.

    Args:
        entries: of the whole comparison, as `gather` gives them.
        figure: the cost's name.
        label: the cost in words.
        axis: what budgets are of; None for entries without corpora and budgets.
        by_budget: whether each budget has a chart of its own, rather than being a further point
            of each contender.
        measure: name of the bits, a key of `MEASURES`.

    Returns:
        the charts that have a point.
    """
    charts = []
    for title, part in _parts(entries, axis, by_budget):
        paths: dict[str, list[list[Point]]] = {}
        for entry in part:
            cost, value = entry.mean(figure), entry.mean(measure)
            if cost and value and math.isfinite(cost * value):
                point = Point(cost, value, *(entry.interval(measure) or ()))
                paths.setdefault(entry.contender, [[]])[0].append(point)
        if paths:
            points = _all_points(paths)
            heights = [h for p in points for h in (p.y, p.low, p.high) if h is not None]
            charts.append(
                Chart(
                    title,
                    scale_of([point.x for point in points], label, log=True, shortest=1.5),
                    scale_of(heights, f"test {MEASURES[measure]}", log=False, shortest=0.01),
                    _series(entries, paths),
                    tuple(pareto_front([(point.x, point.y) for point in points])),
                )
            )
    return charts


def curve_charts(
    entries: Sequence[Entry], axis: Axis | None, *, measure: str = "bpb"
) -> list[Chart]:
    """Validation bits while training, one chart for each corpus and budget.

    Runs that are not done are shown as far as they came. Arguments as of `pareto_charts`.
    """
    charts = []
    for title, part in _parts(entries, axis, by_budget=True):
        paths: dict[str, list[list[Point]]] = {}
        for entry in part:
            for run in entry.runs:
                path = [
                    Point(flops, value)
                    for flops, _, value in run.curve
                    if flops > 0 and value > 0 and math.isfinite(value)
                ]
                if path:
                    paths.setdefault(entry.contender, []).append(path)
        if paths:
            points = _all_points(paths)
            flops, heights = [point.x for point in points], [point.y for point in points]
            charts.append(
                Chart(
                    title,
                    scale_of(flops, "training FLOPs", log=True, shortest=1.5),
                    scale_of(heights, f"validation {MEASURES[measure]}", log=True, shortest=1.01),
                    _series(entries, paths),
                    marked=False,
                )
            )
    return charts


def _parts(
    entries: Sequence[Entry], axis: Axis | None, by_budget: bool
) -> Iterator[tuple[str, list[Entry]]]:
    """The entries by corpus, or by corpus and budget, with the name of each part."""
    if axis is None:
        yield "", list(entries)
        return
    for corpus, of_corpus in itertools.groupby(entries, lambda entry: entry.corpus):
        if not by_budget:
            yield corpus, list(of_corpus)
            continue
        for budget, part in itertools.groupby(of_corpus, lambda entry: entry.budget):
            yield f"{corpus}, {budget_words(budget, axis)}", list(part)


def budget_words(budget: float, axis: Axis) -> str:
    """The budget with what it is of, such as `1e17 training FLOPs`."""
    return f"{power(budget)} {UNITS[axis]}"


def _all_points(paths: Mapping[str, list[list[Point]]]) -> list[Point]:
    return [point for of_contender in paths.values() for path in of_contender for point in path]


def _series(entries: Sequence[Entry], paths: Mapping[str, list[list[Point]]]) -> tuple[Series, ...]:
    contenders = list(dict.fromkeys(entry.contender for entry in entries))
    bounds = {entry.contender for entry in entries if entry.upper_bound}
    return tuple(
        Series(
            f"{contender} (≤)" if contender in bounds else contender,
            contenders.index(contender),
            tuple(tuple(sorted(path, key=lambda point: point.x)) for path in of_contender),
        )
        for contender, of_contender in paths.items()
    )
