import json
import math

import numpy as np
import pytest

from bytelm.core.figure import Figure, json_values, with_prefix


@pytest.mark.parametrize(
    "figure",
    [
        Figure("bpb", 1.5, "bpb", 1.4, 1.6, bound=True),
        Figure("overflow", 0.25, "share"),
        Figure("plain", 0.0),
    ],
)
def test_a_figure_survives_json(figure: Figure):
    assert Figure.from_json(json.loads(json.dumps(figure.to_json()))) == figure


def test_a_value_that_is_not_finite_is_null_in_json():
    assert Figure("bpb", math.inf).to_json() == {"name": "bpb", "value": None}
    assert math.isnan(Figure.from_json({"name": "bpb", "value": None}).value)


def test_numbers_of_numpy_become_pythons():
    figure = Figure("bpb", np.float32(1.5), low=np.float64(1), high=np.int64(2), bound=np.True_)
    assert json.loads(json.dumps(figure.to_json())) == figure.to_json()
    details = {np.int64(1): [np.float32(0.5), (np.arange(2), "a")]}
    assert json.dumps(json_values(details)) == '{"1": [0.5, [[0, 1], "a"]]}'


def test_figures_are_written_in_their_units():
    bits = Figure("bpb", 1.23456, "bpb", 1.2, 1.3, bound=True)
    assert (bits.number, bits.interval_text) == ("\u2264 1.2346", "1.2000 to 1.3000")
    assert bits.brief == "\u2264 1.235 bpb"
    assert Figure("overflow", 0.0123, "share").brief == "overflow 1.23%"
    assert Figure("bytes_per_second", 1.94e6, "B/s").brief == "1.94 MB/s"
    assert Figure("train_flops", 2.5e17, "FLOP").number == "2.5e17"
    assert Figure("learning_rate", 1e-3, "lr").brief == "lr 1.0e-3"


def test_a_figure_of_an_unknown_unit_is_written_with_it():
    assert Figure("words", 3.25, "words/line").brief == "3.25 words/line"
    assert Figure("gradient_norm", 0.5).brief == "gradient norm 0.5"


def test_the_interval_needs_both_ends():
    assert Figure("bpb", 1.0, low=0.5).interval is None
    assert Figure("bpb", 1.0).interval_text == ""


@pytest.mark.parametrize(
    ("value", "text"), [(999.9, "1.00 kB/s"), (12.0, "12.0 B/s"), (math.inf, "inf B/s")]
)
def test_prefixes(value: float, text: str):
    assert with_prefix(value, "B/s") == text
