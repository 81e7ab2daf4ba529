import json
import math

from bytelm.core.chart import Chart, Point


def test_a_chart_is_made_of_lines_saved_and_read():
    lines = {
        "delete": [Point(0, 2.0), Point(0.1, 2.5, (2.4, 2.6)), Point(0.2, math.nan), Point(1, 0)],
        "none": [Point(0, math.inf)],
    }
    chart = Chart.of("Noise", "rate", "bpb", lines, log_y=True)
    (series,) = chart.series  # the other has no point that can be drawn
    assert series.paths == ((Point(0, 2.0), Point(0.1, 2.5, (2.4, 2.6))),)
    saved = json.loads(json.dumps(chart.to_json()))
    assert saved["lines"][0] == {"name": "delete", "points": [[0, 2], [0.1, 2.5, 2.4, 2.6]]}
    assert Chart.from_json(saved) == chart


def test_bars_have_the_labels_of_all_series():
    shares = {"Latin": {"1": 0.25, "2-3": 0.75}, "Greek": {"1": 0.5, "4": 0.5}}
    chart = Chart.histogram("Lengths", "bytes", "share", shares)
    assert chart.bars == ("1", "2-3", "4")
    assert [point.x for point in chart.series[1].paths[0]] == [0, 2]
    assert Chart.from_json(chart.to_json()) == chart
