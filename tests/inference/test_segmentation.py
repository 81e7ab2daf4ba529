import math

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.data.config import DataConfig
from bytelm.inference.segmentation import (
    LevelPatches,
    Patch,
    Segmentation,
    boundary_agreement,
    length_histogram,
    whitespace_starts,
    word_starts,
)
from bytelm.models.contract import Batch, ModelConfig
from bytelm.patching.rules import find_edges
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.models.compiled import LENGTH, split_model
from tests.models.families import FAMILIES

TEXT = (
    "Some words, a naïve 日本語; and\n\tmore of them <b> to fill 5 windows".encode() + b"\xff\x00"
)


def loaded(config: ModelConfig) -> LoadedModel:
    experiment = ExperimentConfig(model=config, data=DataConfig(sequence_length=LENGTH))
    return LoadedModel(SavedModel(experiment, 7, *split_model(config), {}))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return loaded(FAMILIES["spacebyte"])


def by_hand(
    text: bytes, *starts: int, bits: float = 2.0, inner: tuple[tuple[int, ...], ...] = ()
) -> Segmentation:
    """A text whose patches start at byte 0 and at `starts`, at `bits` a byte.

    `inner` has the same of each inner level. START is a boundary too.
    """

    def level(starts: tuple[int, ...]) -> LevelPatches:
        flags = np.isin(np.arange(len(text)), [0, *starts])
        return LevelPatches(flags, np.append(True, flags), np.zeros(len(text) + 1, bool))

    nats = np.full(len(text), bits * math.log(2))
    return Segmentation(text, tuple(map(level, (starts, *inner))), nats, 5 * math.log(2))


@pytest.mark.parametrize("stride", [None, 3, LENGTH])
@pytest.mark.parametrize("text", [TEXT, b"x", TEXT[:LENGTH], TEXT[: LENGTH - 1]])
def test_bits_are_those_of_evaluation(model, text, stride):
    found = model.segment(text, stride=stride)
    scores = model.score_documents([text], stride=stride)
    assert len(found.nats) == len(found.starts) == len(text)
    np.testing.assert_allclose(found.nats.sum(), scores.byte_nats[0], rtol=1e-12)
    np.testing.assert_allclose(found.end_nats, scores.end_nats[0], rtol=1e-12)
    assert found.bits_per_byte == pytest.approx(scores.bits_per_byte(), rel=1e-12)


@pytest.mark.parametrize("stride", [None, 3])
def test_patches_start_where_the_rule_says_across_windows(model, stride):
    ids = np.array([[START, *TEXT]], np.int32)
    edges, _ = find_edges("spacelike", ids, np.ones_like(ids))
    expected = np.asarray(edges.starts)[0, 1:].copy()
    expected[0] = True
    found = model.segment(TEXT, stride=stride)
    np.testing.assert_array_equal(found.starts, expected)
    assert b"".join(found.pieces) == TEXT
    assert [len(piece) for piece in found.pieces] == found.lengths.tolist()


def test_the_bits_of_patches_add_up_to_those_of_the_text(model):
    found = model.segment(TEXT.decode("utf-8", "surrogateescape"))
    bits = (found.patch_bits_per_byte * found.lengths).sum()
    assert bits == pytest.approx(found.bits_per_byte * len(TEXT))
    first = found.lengths[0]
    assert found.patch_bits_per_byte[0] == pytest.approx(
        found.nats[:first].sum() / first / math.log(2)
    )


@pytest.fixture(scope="module")
def nested() -> LoadedModel:
    return loaded(FAMILIES["nested"])


@pytest.mark.parametrize("stride", [None, LENGTH])
def test_each_level_is_cut_across_windows(nested, stride):
    found = nested.segment(TEXT, stride=stride)
    outer, inner = found.levels
    assert outer.starts.sum() > inner.starts.sum() > 5
    for level in (outer, inner):
        assert level.starts.shape == (len(TEXT),) and level.starts[0]
        assert level.boundaries.shape == level.ignored.shape == (1 + len(TEXT),)
        assert not level.ignored.any()
    assert not (inner.starts & ~outer.starts).any()
    np.testing.assert_array_equal(found.at(2).starts, inner.starts)
    assert b"".join(found.at(2).pieces) == TEXT
    assert found.at(2).bits_per_byte == found.bits_per_byte


def test_levels_in_one_window_are_those_of_the_model(nested):
    text = TEXT[: LENGTH - 1]
    ids = np.array([[START, *text]], np.int32)
    graphdef, params = split_model(FAMILIES["nested"])
    rows = Batch(ids, ids, np.ones_like(ids))
    levels = jax.jit(lambda batch: nnx.merge(graphdef, params)(batch).levels)(rows)
    for found, expected in zip(nested.segment(text).levels, levels, strict=True):
        np.testing.assert_array_equal(found.boundaries, expected.boundaries[0])
        np.testing.assert_array_equal(found.starts[1:], expected.starts[0, 2:])


def test_patches_of_inner_levels_hold_those_of_the_level_around():
    found = by_hand(b"abcdefg", 2, 3, 5, bits=1 / math.log(2), inner=((3, 5), (5,)))
    assert found.depths.tolist() == [3, 1, 2, 3]
    ab, c, de, fg = (Patch(*bounds, 2.0) for bounds in ((0, 2), (2, 3), (3, 5), (5, 7)))
    c = c._replace(nats=1.0)
    inner = Patch(0, 3, 3.0, (ab, c)), Patch(3, 5, 2.0, (de,)), Patch(5, 7, 2.0, (fg,))
    assert found.at(1).nested == [Patch(0, 5, 5.0, inner[:2]), Patch(5, 7, 2.0, inner[2:])]
    assert found.at(3).nested == [Patch(0, 5, 5.0), Patch(5, 7, 2.0)]


def test_the_byte_after_a_boundary_has_lag_1():
    # Boundaries: START, and the bytes 0, 2 and 5, each of which predicts the next byte.
    assert by_hand(b"abcdefg", 2, 5).lags.tolist() == [1, 1, 2, 1, 2, 3, 1]
    assert by_hand(b"abcdefg", 2, 5, inner=((5,),)).at(2).lags.tolist() == [1, 1, 2, 3, 4, 5, 1]


@pytest.mark.parametrize(
    ("family", "first"),
    [("spacebyte", 1), ("hat", 0), ("dynamic_pooling, whitespace", 0)],
)
def test_lag_1_is_the_first_or_the_second_byte_of_a_patch(family, first):
    """The first where patches end at boundaries, since then its vector is known before it."""
    found = loaded(FAMILIES[family]).segment(b"ab cde f ghij")
    at_boundary, starts = np.flatnonzero(found.lags == 1), np.flatnonzero(found.starts)
    assert len(starts) >= 4
    expected = starts[1:] + first
    np.testing.assert_array_equal(at_boundary[at_boundary > first], expected)


def test_a_flat_model_and_an_empty_text_are_refused(model):
    with pytest.raises(UserError, match="flat"):
        loaded(FAMILIES["transformer"]).segment("text")
    with pytest.raises(UserError, match="empty"):
        model.segment("")
    with pytest.raises(UserError, match="stride"):
        model.segment("text", stride=LENGTH + 1)


def test_words_start_after_whitespace():
    text = b"ab  cd\tef\n"
    assert np.flatnonzero(word_starts(text)).tolist() == [0, 4, 7]
    assert np.flatnonzero(word_starts("a\u3000b".encode())).tolist() == [0, 4]
    assert word_starts(b" a").tolist() == [False, True]
    assert word_starts(b"").tolist() == []
    assert np.flatnonzero(word_starts(b"if x:\n    return y")).tolist() == [0, 3, 10, 17]

    agreement = by_hand(text, 2, 4, 8).word_agreement
    assert (agreement.found, agreement.expected, agreement.hits) == (3, 2, 1)
    assert (agreement.precision, agreement.recall) == pytest.approx((1 / 3, 1 / 2))
    assert agreement.f1 == pytest.approx(2 / 5)

    agreement = by_hand(text, 2, 4, 5, 8).word_agreement
    assert agreement.f1 == pytest.approx(1 / 3)


def test_patches_of_spacebyte_start_at_the_whitespace():
    text = b"one two  three\n four"
    spacelike = by_hand(text, 3, 7, 14)
    assert spacelike.word_agreement.f1 == 0  # at the yardstick of rules that start after it
    assert spacelike.space_agreement.f1 == 1


def test_both_yardsticks_know_the_same_whitespace():
    text = "".join(f"a{chr(code)}" for code in range(0x3100)).encode() + b"a"
    first, after = (np.flatnonzero(of(text))[1:] for of in (whitespace_starts, word_starts))
    assert len(first) == len(after) == 25  # characters with the property White_Space
    assert all(text[a:b].decode().isspace() for a, b in zip(first, after, strict=True))


def test_no_boundaries_have_no_precision_or_recall():
    none = boundary_agreement(np.array([True, False]), np.array([True, False]))
    assert math.isnan(none.precision) and math.isnan(none.recall) and math.isnan(none.f1)
    missed = boundary_agreement(np.array([True, False]), np.array([True, True]))
    assert math.isnan(missed.precision) and (missed.recall, missed.f1) == (0, 0)


def test_length_histogram():
    histogram = length_histogram(np.array([1, 1, 2, 3, 4, 9, 16]))
    none = {"17-32": 0, "33+": 0}
    assert histogram == {"1": 2, "2": 1, "3-4": 2, "5-8": 0, "9-16": 2, **none}
    assert length_histogram(np.array([32, 33, 900]))["33+"] == 2
    assert sum(length_histogram(np.array([], int)).values()) == 0
