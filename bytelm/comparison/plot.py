"""The plot of a comparison: what the points reached, and how they got there."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bytelm.comparison.results import PointResult
from bytelm.whole_file import write_whole


def plot(results: Sequence[PointResult], output: Path) -> None:
    """Writes `plot.png`: test bits per byte against bytes per patch, and the training curves."""
    # A Figure without pyplot is drawn in memory (Agg) and needs no display.
    figure = Figure(figsize=(12, 5), layout="constrained")
    reached, curves = figure.subplots(1, 2)
    for number, result in enumerate(results):
        if result.state == "done":
            _plot_reached(reached, result, f"C{number}")
            _plot_curves(curves, result, f"C{number}")
    reached.margins(x=0.2)  # room for the labels
    reached.set(xlabel="bytes per patch", ylabel="test bits per byte (95% interval)")
    curves.set(xlabel="step", ylabel="bits per byte: training (thin), validation (dots)")
    if curves.has_data():
        curves.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_whole(output / "plot.png", image.getvalue())


def _plot_reached(axes: Axes, result: PointResult, colour: str) -> None:
    """A labelled point with its interval; a flat model, which has no patches, is a line across."""
    assert result.test_bpb is not None and result.test_interval is not None
    if result.bytes_per_patch is None:
        axes.axhline(result.test_bpb, color=colour, linestyle="--")
        place = (0.01, result.test_bpb)
        axes.annotate(result.point, place, xycoords=("axes fraction", "data"), color=colour)
        return
    low, high = result.test_interval
    place = (result.bytes_per_patch, result.test_bpb)
    axes.vlines(place[0], low, high, color=colour, alpha=0.4)
    axes.plot(*place, "o", color=colour)
    axes.annotate(result.point, place, (6, 6), textcoords="offset points", color=colour)


def _plot_curves(axes: Axes, result: PointResult, colour: str) -> None:
    axes.plot(*_columns(result.curve), color=colour, alpha=0.5)
    axes.plot(*_columns(result.validation_curve), "o-", color=colour, label=result.point)


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
