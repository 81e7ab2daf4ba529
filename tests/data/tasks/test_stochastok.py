"""StochasTok's rows: the same text in more tokens, in no more than T symbols."""

import dataclasses

import numpy as np

from bytelm.core.vocabulary import UNSCORED
from bytelm.data.open_data import OpenData


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
