"""How Matplotlib draws charts, as PNG or as SVG for a page."""

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from bytelm.core.chart import Chart, Point, Series
from bytelm.core.figure import in_powers
from bytelm.core.files import write_whole

COLOURS = ("#005a9c", "#d55e00", "#00856a", "#c05a9b", "#3a3a3a", "#a37a00", "#45a5e0")
"""On white. After Okabe & Ito (2008), for the colour-blind; light ones are darkened."""
DARK_COLOURS = ("#56b4e9", "#ff8a3d", "#2bc79a", "#e78ac3", "#e0e0e0", "#e3c04b", "#9aa0ff")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""8 markers and 7 colours: a pair repeats after 56 series."""

_INK, _RULE = "#1c1c1c", "#d8d8d8"
_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    "grid.color": _RULE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # letters stay text
    "svg.hashsalt": "bytelm",  # the same chart gives the same bytes
}
_PAGE_COLOURS = {colour: f"var(--c{number})" for number, colour in enumerate(COLOURS)}
_PAGE_COLOURS |= {_INK: "var(--ink)", _RULE: "var(--rule)"}
_LONGEST = 30
"""Letters of a label; the tables have the whole name."""
_ROW = 0.19
"""Inches of a label's line in the legend, whose letters have 9 points."""
_BARS = 0.8
"""Share of the x-axis that bars take."""
_LETTER, _SMALL_LETTER = 0.085, 0.078
"""Inches of a letter of a label of the axes, and of the legend, on average."""
_AROUND = 1.2
"""Inches left and right of the axes, without the letters of the legend."""
_SVG = "http://www.w3.org/2000/svg"


def write_png(charts: Sequence[Chart], path: Path) -> None:
    """Writes charts into one PNG file; without charts, the file says so."""
    columns = min(2, max(1, len(charts)))
    rows = max(1, math.ceil(len(charts) / columns))
    with rc_context(_STYLE):
        height = max([4.6, *map(_height, charts)])
        figure = Figure(figsize=(7.5 * columns, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for axes, chart in zip(panels, charts, strict=False):
            _draw(axes, chart)
            axes.set_title(chart.title, parse_math=False)
        for axes in list(panels[len(charts) :]):
            axes.set_axis_off()
        if not charts:
            figure.text(0.5, 0.5, "no figures yet", ha="center")
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=150)
    write_whole(path, image.getvalue())


def svg(chart: Chart) -> str:
    """The chart as an SVG element, without its title.

    Its colours are variables that the page defines: `--ink`, `--rule` and `--c0`, `--c1`, ...
    Points show their figures as a tooltip.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, max(4.0, _height(chart))), layout="constrained")
        tooltips = _draw(figure.subplots(), chart)
        image = io.BytesIO()
        figure.savefig(image, format="svg", transparent=True, metadata={"Date": None})
    text = image.getvalue().decode().replace("xlink:href", "href")
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return _inline(text, chart, tooltips)


def _inline(text: str, chart: Chart, tooltips: dict[str, str]) -> str:
    """A whole SVG file as an element of a page."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(text)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for group in root.iter(f"{{{_SVG}}}g"):
        name = group.attrib.pop("id", "")  # the page has other charts with the same names
        if name in tooltips:
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = tooltips[name]
            group.insert(0, title)
    front = "; the Pareto front is dashed" if chart.front else ""
    description = f"{chart.title}: {chart.y} against {chart.x}{front}"
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": description})
    return ElementTree.tostring(root, encoding="unicode")


def _height(chart: Chart) -> float:
    """Inches in which a chart's legend fits, with the title and the other texts around the axes."""
    return 1.2 + _ROW * len(chart.series)


def _draw(axes: Axes, chart: Chart) -> dict[str, str]:
    """Draws a chart; returns the tooltips of its points by their ids."""
    axes.set(xlabel=chart.x, ylabel=chart.y)
    axes.set(xscale="log" if chart.log_x else "linear", yscale="log" if chart.log_y else "linear")
    axes.autoscale(enable=False)
    axes.grid(axis="y" if chart.bars else "both")
    tooltips: dict[str, str] = {}
    last_heights = {}
    for place, series in enumerate(chart.series):
        handle = _draw_series(axes, chart, place, tooltips)
        last_heights[handle] = series.paths[0][-1].y
    if chart.bars:
        axes.set_xlim(-0.6, len(chart.bars) - 0.4)
        axes.set_ylim(0, 1.06 * max(p.y for each in chart.series for p in each.paths[0]))
        flat = _have_room(axes, chart)
        style: Any = {} if flat else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(chart.bars)), chart.bars, **style)
        _set_ticks(axes.yaxis)
    else:
        axes.set_xlim(_ends(axes.xaxis, 1.5 if chart.log_x else 0.01))
        axes.set_ylim(_ends(axes.yaxis, 1.01 if chart.log_y else 0.01))
        for axis in (axes.xaxis, axes.yaxis):
            _set_ticks(axis)
    if chart.front:
        steps = [*chart.front, (axes.get_xlim()[1], chart.front[-1][1])]
        dashed: Any = {"linestyle": "--", "color": _INK, "alpha": 0.6, "linewidth": 1}
        axes.step(*zip(*steps, strict=True), where="post", **dashed)
    # From top to bottom as the lines end.
    handles = sorted(last_heights, key=lambda handle: -last_heights[handle])
    place_of_legend: Any = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    legend = axes.legend(handles=handles, fontsize=9, **place_of_legend)
    for label in legend.get_texts():
        label.set_parse_math(False)
    return tooltips


def _draw_series(axes: Axes, chart: Chart, place: int, tooltips: dict[str, str]) -> object:
    """Draws the series at a place of the chart; returns its handle for the legend."""
    series = chart.series[place]
    colour = COLOURS[series.number % len(COLOURS)]
    marker = MARKERS[series.number % len(MARKERS)]
    label = _shown(series)
    width = _BARS / len(chart.series)
    shift = width * (place + 0.5) - _BARS / 2 if chart.bars else 0.0
    for path in series.paths:
        if not chart.bars:
            axes.plot([p.x for p in path], [p.y for p in path], color=colour, alpha=0.8)
        for point in path[-1:] if chart.marks_ends else path:
            name = f"point{len(tooltips)}"
            tooltips[name] = _tooltip(chart, series, point)
            if chart.bars:
                axes.bar(point.x + shift, point.y, width, gid=name, **_bar_style(series))
            else:
                axes.plot(point.x, point.y, marker, color=colour, gid=name)
            if point.interval:
                axes.vlines(point.x + shift, *point.interval, color=colour, alpha=0.6)
    if chart.bars:
        handle: object = Patch(label=label, **_bar_style(series))
    else:
        (handle,) = axes.plot([], [], color=colour, label=label, marker=marker)
    return handle


def _bar_style(series: Series) -> dict[str, Any]:
    """Full colours; bars that share a colour with one before are pale, then hatched too."""
    times, number = divmod(series.number, len(COLOURS))
    colour = COLOURS[number]
    if not times:
        return {"color": colour}
    hatch = "///" if times > 1 else None
    return {"facecolor": (colour, 0.3), "edgecolor": colour, "linewidth": 1, "hatch": hatch}


def _shown(series: Series) -> str:
    """Its label in the legend."""
    cut = f"{series.label[: _LONGEST - 1]}…"
    return cut if len(series.label) > _LONGEST else series.label


def _have_room(axes: Axes, chart: Chart) -> bool:
    """Whether the labels of bars fit next to each other, in the width that the legend leaves."""
    legend = _SMALL_LETTER * max(len(_shown(series)) for series in chart.series)
    figure: Any = axes.get_figure()
    grid: Any = axes.get_gridspec()
    width = figure.get_figwidth() / grid.ncols - _AROUND - legend
    letters = [len(label) + 1.5 for label in chart.bars]
    widest = max((sum(pair) / 2 for pair in itertools.pairwise(letters)), default=0.0)
    return _LETTER * widest * len(letters) < width


def _tooltip(chart: Chart, series: Series, point: Point) -> str:
    ends = " ({:.4f} to {:.4f})".format(*point.interval) if point.interval else ""
    place = chart.bars[int(point.x)] if chart.bars else in_powers(point.x)
    return f"{series.label}: {point.y:.4f}{ends} at {place} {chart.x}"


def _ends(axis: Axis, least: float) -> tuple[float, float]:
    """The ends of an axis: around its data, with a margin.

    They differ by `least` or more (on a logarithmic scale: by that factor), so that small
    differences do not fill the chart.
    """
    function, inverse = (math.log, math.exp) if axis.get_scale() == "log" else (float, float)
    low, high = map(function, axis.get_data_interval())
    margin = 0.06 * (high - low) + max(0.0, function(least) - (high - low)) / 2
    return inverse(low - margin), inverse(high + margin)


def _set_ticks(axis: Axis) -> None:
    """A few ticks with plain labels."""
    low, high = axis.get_view_interval()
    locators: list[Locator] = [MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])]
    if axis.get_scale() == "log":
        locators = [LogLocator(subs=subs) for subs in ((1,), (1, 3), (1, 2, 5))] + locators
    for locator in locators:
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) > 2:
            break
    axis.set_ticks(ticks, [in_powers(tick, digits=6) for tick in ticks])
    axis.set_tick_params(which="minor", size=0)
    axis.set_minor_formatter("")
