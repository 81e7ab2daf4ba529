"""Tokens are split at random into tokens of the same bytes, in rows of no more than T symbols."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.core.vocabulary import UNSCORED
from bytelm.data.open_data import OpenData
from bytelm.data.tasks.stochastok import Splits
from bytelm.data.windows import WindowedRows


def text_of(tokenizer, ids):
    return tokenizer.decode(symbol for symbol in ids.tolist() if 0 <= symbol < tokenizer.size)


def test_text_is_kept_and_tokens_are_split(tokenized):
    config = dataclasses.replace(
        tokenized, task=dataclasses.replace(tokenized.task, stochastok=0.5)
    )
    data = OpenData(config)
    tokenizer, (rows,) = data.tokenizer, data.training_rows(seed=0)
    shorter = dataclasses.replace(tokenized, sequence_length=16 * 2 // 3)
    (plain,) = OpenData(shorter).training_rows(seed=0)
    split, whole = rows.batch(range(len(rows))), plain.batch(range(len(plain)))
    assert split["ids"].shape == (len(rows), 16) and len(rows) == len(plain)
    for mine, theirs in zip(split["ids"], whole["ids"], strict=True):
        assert text_of(tokenizer, mine) == text_of(tokenizer, theirs)
    assert np.count_nonzero(split["document_ids"]) > np.count_nonzero(whole["document_ids"])
    assert split["byte_counts"].sum() == whole["byte_counts"].sum()


def test_targets_follow_the_ids(tokenized):
    config = dataclasses.replace(
        tokenized, task=dataclasses.replace(tokenized.task, stochastok=0.5)
    )
    data = OpenData(config)
    vocabulary, (rows,) = data.tokenizer.vocabulary, data.training_rows(seed=0)
    for ids, targets, segments in zip(
        *(rows.batch(range(len(rows)))[name] for name in ("ids", "targets", "document_ids")),
        strict=True,
    ):
        there = np.count_nonzero(segments)
        for place in range(there - 1):
            follows = ids[place + 1]
            assert targets[place] == (UNSCORED if follows == vocabulary.start else follows)
        assert (targets[there:] == UNSCORED).all() and (ids[there:] == vocabulary.pad).all()


def test_each_time_is_another_split_and_the_same_place_the_same(tokenized):
    config = dataclasses.replace(
        tokenized, task=dataclasses.replace(tokenized.task, stochastok=0.5)
    )
    (rows,) = OpenData(config).training_rows(seed=0)
    number = range(len(rows))
    first, second = (
        rows.batch(number, [n + len(rows) * epoch for n in number])["ids"] for epoch in (1, 2)
    )
    again = rows.batch(number, [n + len(rows) for n in number])["ids"]
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)


def test_rows_of_shards_are_split_as_those_of_all_text(tokenized):
    task = dataclasses.replace(tokenized.task, stochastok=0.5)
    (rows,) = OpenData(dataclasses.replace(tokenized, task=task)).training_rows(seed=0)
    task = dataclasses.replace(task, read="shards")
    data = OpenData(dataclasses.replace(tokenized, task=task))
    windows = WindowedRows(data, data.sources[0], seed=0)
    number = range(len(rows))
    found = windows.batch(number, number)["ids"].tolist()
    assert sorted(found) != sorted(windows.batch(number, [n + 1 for n in number])["ids"].tolist())
    order = [windows._find(place)[1] for place in number]
    assert sorted(order) == list(number)
    assert found == rows.batch(order, number)["ids"].tolist()


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
    """Compares with a plain list that is split draw by draw, as in the paper."""
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
