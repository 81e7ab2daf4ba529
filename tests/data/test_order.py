"""The order of rows: each once an epoch, the same for any number of processes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.data import order
from bytelm.data.corpus.packing import ConcatenatedRows, Rows, pack
from bytelm.data.order import EndlessShuffle, ShuffledRows, source_seed


def numbered_rows(*counts):
    """Sources with rows of 4 symbols: START, source, index of the row, END."""
    return ConcatenatedRows(
        [
            Rows(pack([bytes([source, row]) for row in range(count)]), 4)
            for source, count in enumerate(counts)
        ]
    )


def names(batch):
    return [tuple(ids[1:3]) for ids in batch["ids"].tolist()]


@pytest.mark.parametrize("small", [0, order.SMALL])
def test_each_number_once_an_epoch_in_a_new_order(small, monkeypatch):
    monkeypatch.setattr(order, "SMALL", small)
    shuffle = EndlessShuffle(100, 30, seed=5)
    epochs = [[shuffle[epoch * 30 + place] for place in range(30)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(100, 130))
        assert epoch != sorted(epoch)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [EndlessShuffle(100, 30, seed=6)[place] for place in range(30)] != epochs[0]


@given(
    first=st.integers(0, 10**6),
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    sources=st.sampled_from([(17,), (5, 40)]),
)
@settings(max_examples=30, deadline=None)
def test_a_row_depends_on_seed_and_place_alone(first, counts, sources):
    def shuffled():
        return ShuffledRows(numbered_rows(*sources), [2.0, 1.0][: len(sources)], seed=3)

    whole = names(shuffled().batch(first, sum(counts)))
    begins = itertools.accumulate(counts[:-1], initial=first)
    parts = [names(shuffled().batch(*part)) for part in zip(begins, counts, strict=True)]
    assert list(itertools.chain(*parts)) == whole


def test_a_mixture_has_the_proportions_of_its_weights():
    rows = numbered_rows(7, 100, 30)
    drawn = names(ShuffledRows(rows, [0.5, 0.3, 0.2], seed=0).batch(0, 1000))
    counts = np.bincount([source for source, _ in drawn])
    np.testing.assert_allclose(counts, [500, 300, 200], atol=10)
    assert {row for source, row in drawn if source == 1} == set(range(100))
    repeats = np.bincount([row for source, row in drawn if source == 0])
    assert repeats.max() - repeats.min() <= 1


def test_sources_of_a_run_have_seeds_of_their_own():
    seeds = {source_seed(seed, number) for seed in range(10) for number in range(10)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**32 for seed in seeds)
