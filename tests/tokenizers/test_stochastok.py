"""Tokens are split at random into tokens of the same bytes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.tokenizers.stochastok import Splits

TOKENS = [b"", b"a", b"b", b"c", b"ab", b"bc", b"abc", b"a", b"ca"]


def written(ids, tokens=TOKENS):
    return b"".join(tokens[number] for number in ids)


def test_every_way_to_split():
    pairs = Splits(TOKENS).pairs
    assert pairs[:4] == [[], [], [], []]
    assert sorted(pairs[4]) == [(1, 2), (7, 2)]
    assert sorted(pairs[6]) == [(1, 5), (4, 3), (7, 5)]
    assert pairs[8] == [(3, 1), (3, 7)]


def test_of_a_tokenizer_by_trying_all_pairs(trained):
    tokens = trained["bpe"].token_bytes
    expected = [[] for _ in tokens]
    number_of = {token: number for number, token in enumerate(tokens)}
    for left, first in enumerate(tokens):
        for right, second in enumerate(tokens):
            if first + second in number_of:
                expected[number_of[first + second]].append((left, right))
    assert [sorted(pairs) for pairs in Splits(tokens).pairs] == expected
    assert sum(map(bool, expected)) == len(tokens) - 256


@given(
    ids=st.lists(st.integers(0, len(TOKENS) + 2), max_size=40),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_bytes_stay_and_each_token_comes_from_one(ids, share, seed):
    tokens = [*TOKENS, b"<END>", b"<START>", b"<PAD>"]
    given_ids = np.array(ids, np.int32)
    found, source = Splits(TOKENS).expand(given_ids, share, np.random.RandomState(seed))
    assert (found.dtype, source.dtype) == (np.int32, np.int64)
    assert len(ids) <= len(found) == len(source) <= len(ids) + int(len(ids) * share)
    assert written(found, tokens) == written(ids, tokens)
    assert (np.diff(source) >= 0).all()
    for place, number in enumerate(ids):
        assert written(found[source == place], tokens) == tokens[number]
    np.testing.assert_array_equal(given_ids, ids)


def test_what_cannot_be_split_is_left():
    ids = np.array([0, 1, 2, 3, 9, 10, 11], np.int32)
    found, source = Splits(TOKENS).expand(ids, 1.0, np.random.RandomState(0))
    np.testing.assert_array_equal(found, ids)
    np.testing.assert_array_equal(source, np.arange(7))


def test_the_same_seed_splits_alike():
    splits, ids = Splits(TOKENS), np.full(100, 6, np.int32)
    first = splits.expand(ids, 0.3, np.random.RandomState(1))[0]
    np.testing.assert_array_equal(first, splits.expand(ids, 0.3, np.random.RandomState(1))[0])
    other = splits.expand(ids, 0.3, np.random.RandomState(2))[0]
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_chances_are_those_of_one_draw_after_another(count):
    """Against splits of a list in place, draw by draw, as the paper describes them."""
    splits, start = Splits(TOKENS), [6, 4, 1]
    chances = {tuple(start): 1.0}
    for _ in range(count):
        after = Counter()
        for ids, chance in chances.items():
            for place, number in enumerate(ids):
                pairs = splits.pairs[number]
                for pair in pairs:
                    split = (*ids[:place], *pair, *ids[place + 1 :])
                    after[split] += chance / len(ids) / len(pairs)
                if not pairs:
                    after[ids] += chance / len(ids)
        chances = after
    random, trials = np.random.RandomState(7), 4000
    found = Counter(
        tuple(splits.expand(np.array(start, np.int32), count / 3 + 1e-9, random)[0].tolist())
        for _ in range(trials)
    )
    assert found.keys() <= chances.keys()
    for ids, chance in chances.items():
        assert abs(found[ids] / trials - chance) < 5 * np.sqrt(chance * (1 - chance) / trials)
