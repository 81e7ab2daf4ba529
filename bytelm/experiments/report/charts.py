"""The charts of a report: what they show."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from bytelm.core.chart import Chart, Point, Series
from bytelm.experiments.records import MEASURES, Heading
from bytelm.experiments.report.summary import Entry, groups, pareto_front

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
            series = _series(entries, paths)
            charts.append(Chart(title, label, bits_label, series, log_x=True, front=shown))
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
            axes = title, "training FLOPs", bits_label
            charts.append(Chart(*axes, series, log_x=True, log_y=True, marks_ends=True))
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
