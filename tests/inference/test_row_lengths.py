import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.inference.row_lengths import SHORTEST, by_length, shortest_row
from bytelm.inference.scoring import Scorer, nats_and_marks, score_documents
from bytelm.inference.segmentation import segment_all
from tests.models.compiled import split_model, with_slots
from tests.models.families import FAMILIES

LENGTH = 128
TEXTS = [bytes(range(97, 120)) * 2, b"words of this text " * 9, b"a b c d " * 7, b"\xff" * 63, b""]


OVERFLOWING = (
    "spacebyte, published block, fixed patches, overflow",
    "megabyte, published block, n-grams, overflow",
    "hat, overflow",
    "hnet, two stages, Mamba-2, overflow",
    "blt, all layers, several patches, mean, grouped, overflow, scanned and rematerialised",
    "nested, overflow",
)
"""One for each way to count slots and to read patches; each compiles three programs."""


def test_rows_are_parts_of_the_whole_length():
    assert [shortest_row(n, 256) for n in (1, 64, 65, 128, 129, 256)] == [
        64,
        64,
        128,
        128,
        256,
        256,
    ]
    assert [shortest_row(n, 1000) for n in (1, 125, 126, 501)] == [125, 125, 250, 1000]
    assert shortest_row(191, 100_000) == 196
    assert shortest_row(1, 65) == 65 and shortest_row(1, SHORTEST) == SHORTEST


@given(st.lists(st.integers(1, 512)), st.integers(1, 4))
def test_every_item_is_in_one_group_whose_rows_hold_it(items, batch_size):
    groups = list(by_length(enumerate(items), lambda item: item[1], 512, batch_size))
    assert sorted(item for group, _ in groups for item in group) == list(enumerate(items))
    for group, rows in groups:
        assert 1 <= len(group) <= rows
        longest = max(shortest_row(size, 512) for _, size in group)
        assert rows * longest <= batch_size * 512


def test_few_short_texts_in_a_long_context_cost_little():
    """A batch of a long context would hold thousands of them, nearly all of it padding."""
    [(group, rows)] = by_length([190] * 300, lambda size: size, 100_000, 16)
    assert len(group) == 300 and rows == 512


@pytest.mark.parametrize("name", ["transformer, window, grouped and qk-norm", *OVERFLOWING])
def test_short_rows_give_the_scores_of_full_ones(name):
    """Also where patches overflow: a short row has less room for them."""
    assert (with_slots(FAMILIES[name]) != FAMILIES[name]) == (name in OVERFLOWING)
    scorer = Scorer(*split_model(FAMILIES[name]))
    whole = score_documents(
        lambda batch: scorer._run(nats_and_marks, batch, LENGTH)[0][0],
        TEXTS,
        sequence_length=LENGTH,
        batch_size=1,
    )
    seen = []

    def watched(batch):
        used = int((batch.document_ids > 0).any(axis=0).sum())
        seen.append((len(batch.ids), shortest_row(used, LENGTH)))
        return scorer(batch)

    short = score_documents(watched, TEXTS, sequence_length=LENGTH, batch_size=1)
    assert set(seen) == {(2, LENGTH // 2), (1, LENGTH)}
    np.testing.assert_allclose(short.byte_nats, whole.byte_nats, rtol=1e-5)
    np.testing.assert_allclose(short.end_nats, whole.end_nats, rtol=1e-5)


def test_patches_of_texts_of_many_lengths_are_those_of_each_alone():
    scorer = Scorer(*split_model(FAMILIES["spacebyte"]))
    texts = [text for text in TEXTS if text]
    for text, found in zip(texts, segment_all(scorer, texts, sequence_length=64), strict=True):
        (alone,) = segment_all(scorer, [text], sequence_length=64, batch_size=1)
        assert found.text == text
        assert (found.starts == alone.starts).all()
        np.testing.assert_allclose(found.nats, alone.nats, rtol=1e-5)


def test_rows_without_room_for_patches_are_lengthened_as_far_as_they_need():
    """Not to the whole context, which is thousands of times a short text."""
    lengths = []

    class Counting(Scorer):
        def _run(self, function, batch, length):
            lengths.append(batch.ids.shape)
            enough = batch.ids.shape[1] >= 256
            return np.zeros((len(batch.ids), length), np.float32), np.int32(not enough)

    scorer = Counting.__new__(Counting)
    score_documents(
        lambda batch: scorer.run(lambda *_: None, batch),
        [b"a" * 40] * 100,
        sequence_length=4096,
        batch_size=2,
    )
    assert lengths == [(128, 64), (64, 128), (32, 256), (32, 256), (64, 128), (32, 256), (32, 256)]
