"""A chart as an SVG image inside a page, in the page's own colours."""

import functools
import html

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D

from bytelm.experiments.report.charts import COLOURS, MARKERS, Chart, Point, Series
from bytelm.experiments.report.table import bits, power

_LEFT, _TOP, _BOTTOM = 58, 12, 46
_WIDTH, _HEIGHT = 300, 270
_LABELS_AT = 30
"""Between the plot and the labels."""
_LETTER = 7.4
"""A letter's width at most, on average over a label."""
_LONGEST = 26
"""Letters of a label; the tables have the whole name."""


def svg(chart: Chart) -> str:
    """The chart as an SVG element.

    Colours are the classes `c0`, `c1` and so on, which the page defines; the rest is drawn in the
    text's colour. Points have their figures as a tooltip.
    """
    longest = max(len(_short(series.label)) for series in chart.series)
    width = _LEFT + _WIDTH + _LABELS_AT + round(longest * _LETTER)
    height = _TOP + _HEIGHT + _BOTTOM
    front = "; the Pareto front is dashed" if chart.front else ""
    description = f"{chart.title}: {chart.y.label} against {chart.x.label}{front}"
    places = zip(chart.series, chart.label_places, strict=True)
    return "".join(
        [
            f'<svg viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{html.escape(description)}">',
            *_axes(chart),
            _front(chart),
            *(_series(chart, series, place) for series, place in places),
            "</svg>",
        ]
    )


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _across(chart: Chart, x: float) -> float:
    return _LEFT + _WIDTH * chart.x.place(x)


def _down(chart: Chart, y: float) -> float:
    return _TOP + _HEIGHT * (1 - chart.y.place(y))


def _axes(chart: Chart) -> list[str]:
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    parts = []
    for tick, label in chart.x.ticks.items():
        x = f"{_across(chart, tick):.1f}"
        parts.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>')
        parts.append(_text(x, bottom + 17, label, "middle"))
    for tick, label in chart.y.ticks.items():
        y = _down(chart, tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text(_LEFT - 6, f"{y + 4:.1f}", label, "end"))
    middle = _TOP + _HEIGHT / 2
    return [
        *parts,
        f'<path class="frame" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
        _text(_LEFT + _WIDTH / 2, bottom + 37, chart.x.label, "middle"),
        f'<g transform="translate(14 {middle}) rotate(-90)">'
        f"{_text(0, 0, chart.y.label, 'middle')}</g>",
    ]


def _text(x: float | str, y: float | str, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _front(chart: Chart) -> str:
    """A staircase: right of a point, nothing on the front is better until the next one."""
    if not chart.front:
        return ""
    places = [(_across(chart, x), _down(chart, y)) for x, y in chart.front]
    steps = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    steps += "".join(f"H{x:.1f}V{y:.1f}" for x, y in places[1:])
    return f'<path class="front" d="{steps}H{_LEFT + _WIDTH}"/>'


def _series(chart: Chart, series: Series, label_place: float) -> str:
    """The paths with their markers, and the label with a line that leads to it."""
    shape = MARKERS[series.number % len(MARKERS)]
    parts = []
    for path in series.paths:
        if len(path) > 1:
            along = "L".join(f"{_across(chart, p.x):.1f} {_down(chart, p.y):.1f}" for p in path)
            parts.append(f'<path class="line" d="M{along}"/>')
        for point in path if chart.marked else path[-1:]:
            parts.append(_point(chart, series, point, shape))
    at, y = _LEFT + _WIDTH + _LABELS_AT, _TOP + _HEIGHT * (1 - label_place)
    x0, y0 = _across(chart, series.last.x), _down(chart, series.last.y)
    parts.append(f'<path class="leader" d="M{x0:.1f} {y0:.1f}L{at - 14} {y:.1f}"/>')
    parts.append(f'<path class="marker" d="{_marker(shape, at - 8, y)}"/>')
    parts.append(_text(at, f"{y + 4:.1f}", _short(series.label), "start"))
    return f'<g class="c{series.number % len(COLOURS)}">{"".join(parts)}</g>'


def _point(chart: Chart, series: Series, point: Point, shape: str) -> str:
    x, y = _across(chart, point.x), _down(chart, point.y)
    whisker, ends = "", ""
    if point.low is not None and point.high is not None:
        low, high = _down(chart, point.low), _down(chart, point.high)
        whisker = f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        ends = f" ({bits(point.low)} to {bits(point.high)})"
    words = f"{series.label}: {bits(point.y)}{ends} at {power(point.x)} {chart.x.label}"
    marker = f'<path class="marker" d="{_marker(shape, x, y)}"/>'
    return f"<g><title>{html.escape(words)}</title>{whisker}{marker}</g>"


def _marker(shape: str, x: float, y: float) -> str:
    """One of Matplotlib's markers as a path at a place."""
    outline = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in _outline(shape))
    return f"M{outline}Z"


@functools.cache
def _outline(shape: str) -> list[tuple[float, float]]:
    """The corners of a marker 9 units wide around the origin, y down."""
    style = MarkerStyle(shape)
    size = Affine2D().scale(9, -9)
    path = style.get_path().transformed(style.get_transform() + size)
    return [(x, y) for x, y in np.asarray(path.to_polygons()[0]).tolist()]
