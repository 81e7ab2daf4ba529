import itertools

import pytest
from matplotlib.figure import Figure

from bytelm.core.chart import Chart
from bytelm.evaluation.page.drawing import COLOURS, _draw

LENGTHS = "1", "2", "3-4", "5-8", "9-16", "17-32", "33+"
WORDS = "word_start", "whitespace_start", "morpheme_start"
SHORT, LONG = ("a", "b"), ("hnet-english_books-lr0.003-s0-x", "blt-english_books-lr0.003-s0-x")


@pytest.mark.parametrize(
    ("labels", "names", "flat"),
    [
        (LENGTHS, SHORT, True),
        (LENGTHS, LONG, False),
        (WORDS[:2], SHORT, True),
        (WORDS, LONG, False),
        (tuple("abcdefghijklmnop"), SHORT, True),
        (("alone",), LONG, True),
    ],
)
def test_labels_of_bars_do_not_touch(labels, names, flat):
    shares = {name: dict.fromkeys(labels, 0.5) for name in names}
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    _draw(axes, Chart.histogram("Bars", "label", "share", shares))
    figure.draw_without_rendering()
    shown = axes.get_xticklabels()
    assert {label.get_rotation() for label in shown} == {0.0 if flat else 45.0}
    boxes = [label.get_window_extent() for label in shown]
    assert not flat or all(left.x1 + 3 < right.x0 for left, right in itertools.pairwise(boxes))


def test_no_two_bars_look_the_same():
    shares = {f"run {number}": {"short": 0.5} for number in range(3 * len(COLOURS))}
    axes = Figure().subplots()
    _draw(axes, Chart.histogram("Bars", "label", "share", shares))
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches]
    assert len(set(looks)) == len(looks) == len(shares)
    handles = axes.get_legend().legend_handles
    assert {(bar.get_facecolor(), bar.get_hatch()) for bar in handles} == set(looks)
