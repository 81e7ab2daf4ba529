"""What is on a chart: lines or bars of points. `bytelm.evaluation.page.drawing` draws it."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class Point(NamedTuple):
    """A place on a chart, with the ends of its 95% interval where it has one."""

    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """Lines of one name, each from left to right; `number` chooses colour and marker."""

    label: str
    number: int
    paths: tuple[tuple[Point, ...], ...]


@dataclass(frozen=True)
class Chart:
    """Named lines in one pair of axes.

    Attributes:
        title: unique in a result.
        x, y: labels of the axes.
        log_x, log_y: whether an axis is logarithmic.
        front: a dashed staircase, such as a Pareto front; empty for none.
        marks_ends: whether only the last point of a line has a mark, as on learning curves.
        bars: names of x = 0, 1, 2, ...: the points are bars of a histogram; empty for lines.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    front: tuple[tuple[float, float], ...] = ()
    marks_ends: bool = False
    bars: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, title: str, x: str, y: str, lines: Mapping[str, Iterable[Point]], **options: Any
    ) -> Self:
        """A chart with one line for each name, without points that have no place on it.

        Those are not finite, or not positive on a logarithmic axis.
        """
        chart = cls(title, x, y, (), **options)
        series = tuple(
            Series(name, number, (tuple(filter(chart._has_place, points)),))
            for number, (name, points) in enumerate(lines.items())
        )
        return dataclasses.replace(chart, series=tuple(each for each in series if each.paths[0]))

    def _has_place(self, point: Point) -> bool:
        axes = ((point.x, self.log_x), (point.y, self.log_y))
        return all(math.isfinite(value) and (value > 0 or not log) for value, log in axes)

    @classmethod
    def histogram(
        cls, title: str, x: str, y: str, shares: Mapping[str, Mapping[str, float]]
    ) -> Self:
        """Bars: by name, the height at each label of the x-axis; all have the same labels."""
        labels = tuple(dict.fromkeys(label for heights in shares.values() for label in heights))
        lines = {
            name: [Point(labels.index(label), height) for label, height in heights.items()]
            for name, heights in shares.items()
        }
        return cls.of(title, x, y, lines, bars=labels)

    def to_json(self) -> dict[str, Any]:
        """JSON values of everything but the front; a point is `[x, y]` or `[x, y, low, high]`."""
        lines = [
            {"name": series.label, "points": [_numbers(point) for point in path]}
            for series in self.series
            for path in series.paths
        ]
        words = {name: getattr(self, name) for name in ("title", "x", "y")}
        flags = {name: True for name in ("log_x", "log_y", "marks_ends") if getattr(self, name)}
        return {
            **words,
            **flags,
            **({"bars": list(self.bars)} if self.bars else {}),
            "lines": lines,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        lines: dict[str, list[tuple[Point, ...]]] = {}
        for line in saved["lines"]:
            lines.setdefault(line["name"], []).append(tuple(map(_point, line["points"])))
        series = tuple(Series(name, n, tuple(p)) for n, (name, p) in enumerate(lines.items()))
        fields = {name: value for name, value in saved.items() if name != "lines"}
        return cls(**{**fields, "series": series, "bars": tuple(saved.get("bars", ()))})


def _numbers(point: Point) -> list[float]:
    return [float(number) for number in (point.x, point.y, *(point.interval or ()))]


def _point(numbers: list[float]) -> Point:
    x, y, *ends = numbers
    return Point(x, y, (ends[0], ends[1]) if ends else None)
