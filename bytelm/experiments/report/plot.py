"""Charts as PNG files."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bytelm.core.atomic_write import write_whole
from bytelm.experiments.report.charts import COLOURS, MARKERS, Chart, Series


def _save(figure: Figure, path: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_whole(path, image.getvalue())


def plot_charts(charts: Sequence[Chart], path: Path) -> None:
    """Writes charts into one PNG file; with no chart, one that says that there is nothing yet."""
    columns = min(2, max(1, len(charts)))
    rows = max(1, math.ceil(len(charts) / columns))
    figure = Figure(figsize=(7.5 * columns, 4.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, chart in zip(panels, charts, strict=False):
        _draw(axes, chart)
    for axes in list(panels[len(charts) :]):
        axes.set_axis_off()
    if not charts:
        figure.text(0.5, 0.5, "no figures yet", ha="center")
    _save(figure, path)


def _draw(axes: Axes, chart: Chart) -> None:
    x, y = chart.x, chart.y
    axes.set(title=chart.title, xlabel=x.label, ylabel=y.label)
    axes.title.set_parse_math(False)
    axes.set(xscale="log" if x.log else "linear", yscale="log" if y.log else "linear")
    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high))
    axes.set_xticks(list(x.ticks), list(x.ticks.values()))
    axes.set_yticks(list(y.ticks), list(y.ticks.values()))
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.front:
        steps = [*chart.front, (x.high, chart.front[-1][1])]
        axes.step(
            *zip(*steps, strict=True), "--", where="post", color="black", alpha=0.5, linewidth=1
        )
    for series, place in zip(chart.series, chart.label_places, strict=True):
        _draw_series(axes, chart, series, place)


def _draw_series(axes: Axes, chart: Chart, series: Series, label_place: float) -> None:
    colour = COLOURS[series.number % len(COLOURS)]
    marker = MARKERS[series.number % len(MARKERS)]
    for path in series.paths:
        marked = slice(None) if chart.marked else [len(path) - 1]
        xs, ys = [point.x for point in path], [point.y for point in path]
        axes.plot(xs, ys, color=colour, marker=marker, markevery=marked, alpha=0.8)
        for point in path:
            if point.low is not None and point.high is not None:
                axes.vlines(point.x, point.low, point.high, color=colour, alpha=0.5)
    outside, at = axes.transAxes, (1.04, label_place)
    axes.annotate(
        "",
        (series.last.x, series.last.y),
        at,
        textcoords=outside,
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "shrinkA": 0, "shrinkB": 0},
    )
    axes.plot(*at, marker, color=colour, transform=outside, clip_on=False)
    x, y = at[0] + 0.025, at[1]
    axes.text(x, y, series.label, transform=outside, va="center", parse_math=False)
