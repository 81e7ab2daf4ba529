"""The data of a report's charts; `drawing` draws them."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bytelm.experiments.records import MEASURES, Heading
from bytelm.experiments.report.summary import Entry, groups, pareto_front


class Point(NamedTuple):
    """A place on a chart, with the ends of its interval where it has one."""

    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """A contender's lines, each from left to right; `number` chooses colour and marker."""

    label: str
    number: int
    paths: tuple[tuple[Point, ...], ...]


@dataclass(frozen=True)
class Chart:
    """Contenders' bits against a cost on a logarithmic scale.

    Attributes:
        title: the corpus and the budget.
        x, y: labels of the axes.
        series: the contenders.
        front: the Pareto front, from left to right; empty for none.
        curves: whether paths are learning curves, with bits on a logarithmic scale and a mark at
            the last point only.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    front: tuple[tuple[float, float], ...] = ()
    curves: bool = False


Paths = dict[str, list[list[Point]]]
"""The lines of each contender."""


def cost_charts(
    heading: Heading,
    entries: Sequence[Entry],
    figure: str,
    label: str,
    *,
    by_budget: bool,
    front: bool = True,
) -> list[Chart]:
    """Test bits against a cost, one chart for each corpus that has a point.

    Args:
        heading: of the report.
        entries: all runs.
        figure, label: the cost's name, and in words.
        by_budget: whether each budget has its own chart; otherwise it is a point of each contender.
        front: whether to draw the Pareto front.
    """
    bits_label = f"test {MEASURES[heading.measure]}"
    charts = []
    for title, part in _parts(heading, entries, by_budget):
        paths: Paths = {}
        for entry in part:
            cost, bits = entry.mean(figure), entry.figure(heading.measure)
            if cost and bits and bits.value and math.isfinite(cost * bits.value):
                point = Point(cost, bits.value, bits.interval)
                paths.setdefault(entry.contender, [[]])[0].append(point)
        if paths:
            points = [point[:2] for (path,) in paths.values() for point in path]
            shown = tuple(pareto_front(points)) if front else ()
            charts.append(Chart(title, label, bits_label, _series(entries, paths), shown))
    return charts


def curve_charts(heading: Heading, entries: Sequence[Entry]) -> list[Chart]:
    """Validation bits during training, of unfinished runs too, for each corpus and budget."""
    bits_label = f"validation {MEASURES[heading.measure]}"
    charts = []
    for title, part in _parts(heading, entries, by_budget=True):
        paths: Paths = defaultdict(list)
        for run in (run for entry in part for run in entry.runs):
            path = [
                Point(flops, bits)
                for flops, _, bits in run.curve
                if flops > 0 and bits > 0 and math.isfinite(bits)
            ]
            if path:
                paths[run.contender].append(path)
        if paths:
            series = _series(entries, paths)
            charts.append(Chart(title, "training FLOPs", bits_label, series, curves=True))
    return charts


def _parts(
    heading: Heading, entries: Sequence[Entry], by_budget: bool
) -> Iterator[tuple[str, list[Entry]]]:
    """The entries of each chart, with its title."""
    if by_budget:
        yield from groups(heading, entries)
    else:
        for corpus, part in itertools.groupby(entries, lambda entry: entry.corpus):
            yield corpus, list(part)


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
