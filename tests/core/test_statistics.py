import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.core.figure import Figure
from bytelm.core.statistics import BPB, STATISTICS, Statistic, added, recorded, warnings

HITS = Statistic("test/hits", "share")


@pytest.fixture(autouse=True, scope="module")
def forget():
    yield
    for name in [name for name in STATISTICS if name.startswith(HITS.name)]:
        del STATISTICS[name]


def too_many(values):
    return f"{values[HITS.name]:.0%} hits" if values[HITS.name] > 0.5 else None


def test_sums_are_divided_once_at_the_end():
    total = None
    for hits, count in ((1, 1), (0, 3)):
        total = added(total, HITS(hits, count))
    assert total.figures == [Figure("test/hits", 0.25, "share")]


def test_a_ratio_crosses_jit_and_a_scan_with_what_it_means():
    @jax.jit
    def summed(numbers):
        def step(total, x):
            return jax.tree.map(jnp.add, total, HITS(x, 2, parts=(), warn=too_many)), None

        zero = HITS(jnp.zeros((), jnp.int32), 0, warn=too_many)
        return jax.lax.scan(step, zero, numbers)[0]

    ratio = summed(jnp.arange(4))
    assert ratio.statistic is HITS and ratio.warn is too_many
    assert ratio.value == 6 / 8
    assert warnings([ratio]) == {"test/hits": "75% hits"}
    assert warnings([HITS(1, 4, warn=too_many)]) == {}


def test_a_factor_weighs_sums():
    total = added(added(None, HITS(1, 4), 2.0), HITS(1, 2), 0.5)
    assert (total.total, total.count) == (2.5, 9.0)


def test_parts_are_figures_of_their_own_where_they_count_anything():
    ratio = HITS(np.array([1, 2, 0]), np.array([4, 4, 0]), parts=("a", "b", "c"))
    assert ratio.figures == [
        Figure("test/hits/a", 0.25, "share"),
        Figure("test/hits/b", 0.5, "share"),
    ]
    of_all = HITS(np.array([1, 3]), 4, parts=("a", "b"))
    assert [figure.value for figure in of_all.figures] == [0.25, 0.75]


def test_an_inner_level_has_a_name_of_its_own():
    assert HITS.at(1) is HITS
    inner = HITS.at(2)
    assert inner(1, 4).figures == [Figure("test/hits/level_2", 0.25, "share")]
    parts = inner(np.array([1, 3]), 4, parts=("a", "b")).figures
    assert [figure.name for figure in parts] == ["test/hits/level_2/a", "test/hits/level_2/b"]
    assert recorded("validation/test/hits/level_2/a", 0.25).unit == "share"
    assert HITS.at(2) == inner  # so that sums of two programs have one structure


def test_a_ratio_of_nothing():
    assert HITS(0, 0).value == 0.0
    assert math.isnan(BPB(0.0, 0).value)


def test_nats_are_recorded_as_bits():
    assert BPB(3 * math.log(2), 2).value == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("test/hits", "share"),
        ("test/hits/part", "share"),
        ("validation/test/hits", "share"),
        ("validation_bpb", "bpb"),
        ("validation_bpb/books", "bpb"),
        ("something_else", ""),
    ],
)
def test_a_recorded_number_has_its_unit_again(name, unit):
    assert recorded(name, 0.5) == Figure(name, 0.5, unit)


def test_a_recorded_null_is_not_a_number():
    assert math.isnan(recorded("bpb", None).value)
