"""Charts: what is on them, where labels go, and both ways to draw them."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from bytelm.experiments.record import RunRecord
from bytelm.experiments.report.charts import (
    COLOURS,
    DARK_COLOURS,
    MARKERS,
    curve_charts,
    pareto_charts,
    scale_of,
    spread,
)
from bytelm.experiments.report.plot import plot_charts
from bytelm.experiments.report.summary import gather
from bytelm.experiments.report.svg import svg

CURVE = ((1e12, 1e6, 8.0), (1e13, 1e7, 4.0), (1e14, 1e8, 2.0))


def run(contender, budget, bpb, cost, **fields):
    figures = {"bpb": bpb, "bpb_low": bpb - 0.1, "bpb_high": bpb + 0.2, "train_flops": cost}
    return RunRecord(contender, "books", budget, 0, "done", figures=figures, **fields)


RUNS = [
    run("flat", 1e14, 3.0, 1e14),
    run("flat", 4e14, 2.0, 4e14),
    run("<b>", 1e14, 2.5, 1.1e14, upper_bound=True, curve=CURVE),
]


def pareto(runs, by_budget=False):
    return pareto_charts(
        gather(runs), "train_flops", "training FLOPs", "train_flops", by_budget=by_budget
    )


def test_a_contender_is_a_path_across_budgets():
    (chart,) = pareto(RUNS)
    assert chart.title == "books"
    flat, other = chart.series
    assert [(point.x, point.y) for point in flat.paths[0]] == [(1e14, 3.0), (4e14, 2.0)]
    assert flat.last.low == pytest.approx(1.9) and flat.last.high == pytest.approx(2.2)
    assert other.label == "<b> (≤)"
    assert chart.front == ((1e14, 3.0), (1.1e14, 2.5), (4e14, 2.0))
    assert chart.y.low < 1.9 and chart.y.high > 3.2


def test_budgets_apart():
    first, second = pareto(RUNS, by_budget=True)
    assert first.title == "books, 1e14 training FLOPs" and len(first.series) == 2
    assert second.title == "books, 4e14 training FLOPs"
    assert [series.number for series in (*first.series, *second.series)] == [0, 1, 0]


@pytest.mark.parametrize("bpb", [float("nan"), float("inf")])
def test_what_has_no_place_is_not_drawn(bpb):
    assert pareto([run("flat", 1e14, bpb, 1e14)]) == []
    assert pareto([RunRecord("flat", "books", 1e14, 0, "done", figures={"bpb": 2.0})]) == []


def test_curves_of_runs_that_are_not_done_are_drawn_too():
    stopped = RunRecord("flat", "books", 1e14, 0, "stopped", curve=((0.0, 0.0, 9.0), *CURVE[:2]))
    other_seed = RunRecord("flat", "books", 1e14, 1, "done", curve=CURVE)
    (chart,) = curve_charts(gather([stopped, other_seed]), "train_flops")
    first, second = chart.series[0].paths
    assert [point.x for point in first] == [1e12, 1e13]  # no place for 0 on this scale
    assert [point.y for point in second] == [8.0, 4.0, 2.0]
    assert chart.front == ()


@pytest.mark.parametrize(
    ("values", "log"),
    [([1e15, 1.0001e15], True), ([3.0], False), ([1e12, 1e18], True), ([1.7, 1.9], True)],
)
def test_scales_hold_their_values_and_have_ticks(values, log):
    scale = scale_of(values, "", log=log, shortest=1.5 if log else 0.01)
    assert all(0 < scale.place(value) < 1 for value in values)
    assert 1 <= len(scale.ticks) <= 9
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    assert [float(label) for label in scale.ticks.values()] == pytest.approx(list(scale.ticks))


@pytest.mark.parametrize(
    "wanted", [[], [0.5], [0.5, 0.5, 0.5], [0.99, 0.0, 1.0], [1.0] * 12, [0.3] * 40]
)
def test_labels_do_not_cover_each_other(wanted):
    places = spread(wanted, 0.05)
    assert len(places) == len(wanted)
    gap = min(0.05, 1 / max(1, len(wanted) - 1))
    assert all(high - low >= gap - 1e-9 for low, high in pairwise(sorted(places)))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)


def test_labels_stay_where_there_is_room_and_in_order():
    assert spread([0.9, 0.1, 0.5], 0.05) == pytest.approx([0.9, 0.1, 0.5])
    assert spread([0.5, 0.52], 0.1) == pytest.approx([0.46, 0.56])


def test_colours_with_markers_repeat_late():
    pairs = {(n % len(COLOURS), n % len(MARKERS)) for n in range(50)}
    assert len(pairs) == 50 and len(COLOURS) == len(DARK_COLOURS)


@pytest.mark.parametrize("charts", [pareto(RUNS), curve_charts(gather(RUNS), "train_flops")])
def test_the_svg_is_sound_and_tells_its_figures(charts):
    text = svg(charts[0])
    tree = ElementTree.fromstring(text)
    assert tree.get("role") == "img" and "against training FLOPs" in tree.get("aria-label")
    assert "<b>" not in text and "nan" not in text
    words = [element.text for element in tree.iter() if element.text]
    for series in charts[0].series:
        assert series.label in words
        assert any(word.startswith(f"{series.label}: {series.last.y:.4f}") for word in words)
    width, height = (float(side) for side in tree.get("viewBox").split()[2:])
    for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", text):
        assert 0 <= float(x) <= width and 0 <= float(y) <= height


@pytest.mark.parametrize("charts", [[], pareto(RUNS), pareto(RUNS, by_budget=True) * 2])
def test_the_png(charts, tmp_path):
    plot_charts(charts, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_names_are_no_mathematics(tmp_path):
    plot_charts(pareto([run("$x_{$", 1e14, 3.0, 1e14)]), tmp_path / "chart.png")
