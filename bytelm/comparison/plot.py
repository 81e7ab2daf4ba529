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
    has_encoder = any(result.test_target_bits is not None for result in results)
    measure = "bits per target byte" if has_encoder else "bits per byte"
    across = "share of the inputs deleted" if has_encoder else "bytes per patch"
    reached.set(xlabel=across, ylabel=f"test {measure} (95% interval)")
    curves.set(xlabel="step", ylabel=f"{measure}: training (thin), validation (dots)")
    if curves.has_data():
        curves.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_whole(output / "plot.png", image.getvalue())


def _plot_reached(axes: Axes, result: PointResult, colour: str) -> None:
    """A labelled point with its interval; a line across where nothing is cut or deleted."""
    with_encoder = result.test_target_bits is not None
    bits = result.test_target_bits if with_encoder else result.test_bpb
    shortened = result.deleted if with_encoder else result.bytes_per_patch
    assert bits is not None and result.test_interval is not None
    if shortened is None:
        axes.axhline(bits, color=colour, linestyle="--")
        place = (0.01, bits)
        axes.annotate(result.point, place, xycoords=("axes fraction", "data"), color=colour)
        return
    low, high = result.test_interval
    axes.vlines(shortened, low, high, color=colour, alpha=0.4)
    axes.plot(shortened, bits, "o", color=colour)
    place = (shortened, bits)
    axes.annotate(result.point, place, (6, 6), textcoords="offset points", color=colour)


def _plot_curves(axes: Axes, result: PointResult, colour: str) -> None:
    axes.plot(*_columns(result.curve), color=colour, alpha=0.5)
    axes.plot(*_columns(result.validation_curve), "o-", color=colour, label=result.point)


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
