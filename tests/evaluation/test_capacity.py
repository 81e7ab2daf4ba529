import math
from types import SimpleNamespace

import pytest

from bytelm.core.errors import UserError
from bytelm.evaluation.capacity import Capacity
from bytelm.evaluation.flops import reading_flops
from bytelm.models.parameters import count_parameters
from tests.evaluation.table_models import run, values
from tests.evaluation.test_segmentation import load
from tests.models.compiled import LENGTH
from tests.models.families import FAMILIES

TEXTS = [b"one two three", b"", b"some more words here", "naïve  日本".encode()] * 4


@pytest.fixture(scope="module")
def model():
    return load("spacebyte")


def test_capacity_by_hand(model):
    texts = [text for text in TEXTS if text]
    size, inputs = sum(map(len, texts)), sum(len(text) + 1 for text in texts)
    patches = sum(found.levels[0].boundaries.sum() for found in model.segment_all(texts))
    row = model.config.model.forward_flops(LENGTH, patches * LENGTH / inputs)
    flops = row / LENGTH * inputs / size
    saved = 8 - model.bits_per_byte(TEXTS)
    every, inner = count_parameters(FAMILIES["spacebyte"])
    result = run(Capacity(), model, TEXTS)
    assert values(result) == pytest.approx(
        {
            "saved_bits_per_byte": saved,
            "forward_flops_per_byte": flops,
            "forward_flops_per_byte_at_capacity": model.config.model.forward_flops(LENGTH)
            / LENGTH
            * inputs
            / size,
            "saved_bits_per_gflop": saved / flops * 1e9,
            "information_capacity": saved / math.log2(flops),
            "parameters": every,
            "parameters_without_embeddings": inner,
        },
        rel=1e-5,
    )
    biased = values(run(Capacity(bias=-2), model, TEXTS))
    assert biased["information_capacity"] == pytest.approx((saved - 2) / math.log2(flops), rel=1e-5)
    assert biased["saved_bits_per_byte"] == values(result)["saved_bits_per_byte"]
    bits, capacity = (
        figure
        for figure in result.figures
        if figure.name in ("saved_bits_per_byte", "information_capacity")
    )
    assert capacity.high - capacity.low == pytest.approx((bits.high - bits.low) / math.log2(flops))


def test_longer_texts_take_several_windows():
    def flops(length, patches=None):
        return length**2 + 100 * (length if patches is None else patches)

    config = SimpleNamespace(model=SimpleNamespace(forward_flops=flops))
    model = SimpleNamespace(config=config, context=8)
    assert reading_flops(model, 5, 2) == 25 + 200
    assert reading_flops(model, 20, 5) == 2.5 * (64 + 200)
    assert reading_flops(model, 20, None) == 2.5 * (64 + 800)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_families_count_flops_of_any_length(family):
    config = FAMILIES[family]
    model = SimpleNamespace(config=SimpleNamespace(model=config), context=64)
    flops = [reading_flops(model, inputs, 2.0) for inputs in (3, 7, 64, 100)]
    assert 0 < flops[0] < flops[1] < flops[2] < flops[3]


def test_a_family_that_counts_no_flops_has_no_capacity(model, monkeypatch):
    monkeypatch.setattr(type(model.config.model), "forward_flops", lambda *_: 0.0)
    with pytest.raises(UserError, match="leave capacity out"):
        run(Capacity(), model, TEXTS)
