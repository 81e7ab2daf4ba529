import numpy as np
import pytest

from bytelm.core import intervals
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import (
    LEAST_DOCUMENTS,
    bootstrap,
    bootstrap_interval,
    ratio,
    share_interval,
)


def make_documents(count, seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(100, 2000, count).astype(float)
    return sizes * generator.normal(2.0, 0.3, count), sizes


def test_few_documents_have_no_interval():
    bits, sizes = make_documents(LEAST_DOCUMENTS, seed=0)
    low, high = bootstrap_interval(bits, sizes)
    assert low < bits.sum() / sizes.sum() < high
    for count in range(1, LEAST_DOCUMENTS):
        assert bootstrap_interval(bits[:count], sizes[:count]) is None
        assert (
            bootstrap_interval(np.pad(bits[:count], (0, 50)), np.pad(sizes[:count], (0, 50)))
            is None
        )


def test_a_share_of_all_or_none_is_uncertain_too():
    low, high = share_interval(0, 20)
    assert (low, high) == pytest.approx((0, 0.1611), abs=1e-4)
    assert share_interval(20, 20) == pytest.approx((1 - high, 1))
    # Newcombe 1998, method 3.
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert share_interval(1, 1)[0] < 0.3


def test_width_agrees_with_the_delta_method():
    bits, sizes = make_documents(400, seed=1)
    ratio = bits.sum() / sizes.sum()
    standard_error = np.sqrt(np.sum((bits - ratio * sizes) ** 2)) / sizes.sum()
    low, high = bootstrap_interval(bits, sizes)
    assert low == pytest.approx(ratio - 1.96 * standard_error, abs=0.2 * standard_error)
    assert high == pytest.approx(ratio + 1.96 * standard_error, abs=0.2 * standard_error)


def test_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(intervals, "SAMPLES", 300)
    monkeypatch.setattr(intervals, "CONFIDENCE", 0.8)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(*make_documents(60, seed))
        covered += low <= 2.0 <= high
    assert 68 <= covered <= 92


def test_less_confidence_is_a_narrower_interval(monkeypatch):
    bits, sizes = make_documents(50, seed=3)
    low, high = bootstrap_interval(bits, sizes)
    assert (low, high) == bootstrap_interval(bits, sizes)
    monkeypatch.setattr(intervals, "CONFIDENCE", 0.5)
    narrow_low, narrow_high = bootstrap_interval(bits, sizes)
    assert low < narrow_low < narrow_high < high


def test_chunks_do_not_change_the_interval(monkeypatch):
    bits, sizes = make_documents(50, seed=3)
    whole = bootstrap_interval(bits, sizes)
    for chunk in (1, 50 * 7):
        monkeypatch.setattr(intervals, "_CHUNK", chunk)
        assert bootstrap_interval(bits, sizes) == whole


def test_paired_differences_may_be_negative():
    bits, sizes = make_documents(200, seed=4)
    low, high = bootstrap_interval(bits - (bits + 0.1 * sizes), sizes)
    assert (low, high) == pytest.approx((-0.1, -0.1))


def test_a_ratio_has_its_interval():
    bits, sizes = make_documents(50, seed=3)
    figure = intervals.ratio("mine", bits, sizes, "bpb")
    assert figure.value == pytest.approx(bits.sum() / sizes.sum()) and figure.unit == "bpb"
    assert figure.interval == bootstrap_interval(bits, sizes)
    assert intervals.ratio("few", [1, 2], [2, 4]) == Figure("few", 0.5)
    with pytest.raises(UserError, match="no bytes that count for mine"):
        intervals.ratio("mine", [0.0], [0])


@pytest.mark.parametrize(
    ("numerators", "denominators", "message"),
    [
        ([1.0], [1.0, 2.0], "one length"),
        ([[1.0]], [[1.0]], "1-D"),
        ([], [], "more than zero"),
        ([1.0], [0.0], "more than zero"),
    ],
)
def test_bad_input(numerators, denominators, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(numerators, denominators)


def test_any_function_of_sums_has_an_interval():
    bits, sizes = make_documents(40, seed=5)
    other = bits[::-1]
    assert bootstrap(lambda sums: sums[0] / sums[1], bits, sizes) == bootstrap_interval(bits, sizes)
    low, high = bootstrap(lambda sums: (sums[0] - 3 * sums[1]) / sums[2], bits, other, sizes)
    assert (low, high) == pytest.approx(bootstrap_interval(bits - 3 * other, sizes))
    assert bootstrap(lambda sums: sums[0], sizes[:3]) is None


def test_a_ratio_of_nothing_may_have_a_value():
    assert ratio("none", [0, 0], [0, 0], "share", empty=1.0) == Figure("none", 1.0, "share")
