"""Charts: what is on them, and how they are drawn."""

import dataclasses
import re
from xml.etree import ElementTree

import pytest

from bytelm.evaluation.page.drawing import COLOURS, DARK_COLOURS, MARKERS, svg, write_png
from bytelm.experiments.records import Heading, RunRecord, run_figures
from bytelm.experiments.report.charts import cost_charts, curve_charts
from bytelm.experiments.report.summary import gather

HEADING = Heading("Toys", "train_flops", "flat", "bytelm compare", "a machine")

CURVE = ((1e12, 1e6, 8.0), (1e13, 1e7, 4.0), (1e14, 1e8, 2.0))


def run(contender, budget, bpb, cost, **fields):
    figures = {"bpb": bpb, "bpb_low": bpb - 0.1, "bpb_high": bpb + 0.2, "train_flops": cost}
    return RunRecord(contender, "books", budget, 0, "done", figures=run_figures(figures), **fields)


RUNS = [
    run("flat", 1e14, 3.0, 1e14),
    run("flat", 4e14, 2.0, 4e14),
    run("<b>", 1e14, 2.5, 1.1e14, upper_bound=True, curve=CURVE),
]


def pareto(runs, by_budget=False):
    return cost_charts(HEADING, gather(runs), "train_flops", "training FLOPs", by_budget=by_budget)


def test_a_contender_is_a_path_across_budgets():
    (chart,) = pareto(RUNS)
    assert chart.title == "books"
    flat, other = chart.series
    assert [(point.x, point.y) for point in flat.paths[0]] == [(1e14, 3.0), (4e14, 2.0)]
    assert flat.paths[0][-1].interval == pytest.approx((1.9, 2.2))
    assert other.label == "<b> (≤)"
    assert chart.front == ((1e14, 3.0), (1.1e14, 2.5), (4e14, 2.0))


def test_budgets_apart():
    first, second = pareto(RUNS, by_budget=True)
    assert first.title == "books, 1e14 training FLOPs" and len(first.series) == 2
    assert second.title == "books, 4e14 training FLOPs"
    assert [series.number for series in (*first.series, *second.series)] == [0, 1, 0]


@pytest.mark.parametrize("bpb", [float("nan"), float("inf")])
def test_what_has_no_place_is_not_drawn(bpb):
    assert pareto([run("flat", 1e14, bpb, 1e14)]) == []
    assert (
        pareto([RunRecord("flat", "books", 1e14, 0, "done", figures=run_figures({"bpb": 2.0}))])
        == []
    )


def test_curves_of_runs_that_are_not_done_are_drawn_too():
    stopped = RunRecord("flat", "books", 1e14, 0, "stopped", curve=((0.0, 0.0, 9.0), *CURVE[:2]))
    other_seed = RunRecord("flat", "books", 1e14, 1, "done", curve=CURVE)
    (chart,) = curve_charts(HEADING, gather([stopped, other_seed]))
    first, second = chart.series[0].paths
    assert [point.x for point in first] == [1e12, 1e13]  # no place for 0 on this scale
    assert [point.y for point in second] == [8.0, 4.0, 2.0]
    assert chart.front == ()


def test_colours_with_markers_repeat_late():
    pairs = {(n % len(COLOURS), n % len(MARKERS)) for n in range(50)}
    assert len(pairs) == 50 and len(COLOURS) == len(DARK_COLOURS)


@pytest.mark.parametrize("charts", [pareto(RUNS), curve_charts(HEADING, gather(RUNS))])
def test_the_svg_is_sound_and_shows_its_figures(charts):
    text = svg(charts[0])
    tree = ElementTree.fromstring(text)
    assert tree.get("role") == "img" and "against training FLOPs" in tree.get("aria-label")
    assert "<b>" not in text and "nan" not in text and "xlink" not in text
    words = [element.text for element in tree.iter() if element.text]
    for series in charts[0].series:
        assert series.label in words
        last = series.paths[0][-1]
        assert any(word.startswith(f"{series.label}: {last.y:.4f}") for word in words)
    # All colours are the page's, light or dark, and what is referred to is there.
    assert not re.findall(r"(?:fill|stroke): #", text) and "var(--c" in text
    ids = set(re.findall(r' id="(.+?)"', text))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= ids
    assert svg(charts[0]) == text


@pytest.mark.parametrize("bits", [[2.0, 2.0], [2.0, 2.00001], [1.7, 3.9], [2.0]])
def test_axes_have_ticks_with_plain_labels(bits):
    runs = [run(f"c{number}", 1e14, value, 1e14) for number, value in enumerate(bits)]
    curves = [
        dataclasses.replace(each, curve=((1e12, 1, 2 * value), (1e14, 1, value)))
        for each, value in zip(runs, bits, strict=True)
    ]
    for (chart,) in (pareto(runs), curve_charts(HEADING, gather(curves))):
        labels = re.findall(r">([\d.]+(?:e\d+)?)</text>", svg(chart))
        assert 6 <= len(labels) <= 20
        assert len(labels) == len(re.findall(r">[-\d][^<]*</text>", svg(chart)))


@pytest.mark.parametrize("charts", [[], pareto(RUNS), pareto(RUNS, by_budget=True) * 2])
def test_the_png(charts, tmp_path):
    write_png(charts, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_names_are_no_mathematics(tmp_path):
    write_png(pareto([run("$x_{$", 1e14, 3.0, 1e14)]), tmp_path / "chart.png")


def test_many_contenders_have_a_taller_chart(tmp_path):
    runs = [run(f"dynamic_pooling-words-{n}", 1e14, 2 + n / 50, 1e14 + n) for n in range(26)]
    charts = pareto(runs)
    write_png(charts, tmp_path / "chart.png")  # a warning would say that the legend has no room
    tree = ElementTree.fromstring(svg(charts[0]))
    *_, width, height = map(float, tree.get("viewBox").split())
    labels = [
        each
        for each in tree.iter()
        if each.tag.endswith("text") and (each.text or "").startswith("dynamic_pooling-words-")
    ]
    assert len(labels) == 26
    assert all(0 < float(label.get("x")) < width for label in labels)
    assert all(10 < float(label.get("y")) < height for label in labels)
