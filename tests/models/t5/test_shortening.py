"""What each kind of shortening keeps and costs, against plain restatements."""

import functools
import json
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import (
    BoundaryShortening,
    ConvolutionShortening,
    FixedShortening,
    GateShortening,
    RandomShortening,
    ShorteningConfig,
)
from bytelm.training.experiment import ExperimentConfig, as_saved, from_saved
from tests.models.t5.shortenings import (
    KINDS,
    ROWS,
    SIZE,
    WIDTH,
    WITHOUT_CHANNELS,
    built,
    inputs_of,
    random_inputs,
    random_keys,
    reading_of,
    shorten,
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_with_inputs_keeps_a_state_and_no_padding(kind, training):
    inputs = random_inputs()
    found = shorten(KINDS[kind], inputs, random_keys(0) if training else None)
    there = inputs != PAD
    np.testing.assert_array_equal(found.counts > 0, there.any(axis=1))
    assert not (found.deleted & ~there).any()
    # What a row keeps and what it deletes are its inputs.
    np.testing.assert_array_equal(found.counts + found.deleted.sum(axis=1), there.sum(axis=1))
    if kind != "convolution":
        assert not (found.kept & ~there).any()
    assert np.isfinite(found.keys_bias).all() and np.isfinite(found.states).all()
    assert all(np.isfinite(loss) for loss in found.losses.values())


def kept_by_formula(text, ratio):
    """Of each segment up to a whitespace byte or END, the first `ceil((1 - ratio) length)`."""
    kept, begin = [], 0
    for place, symbol in enumerate(text):
        if symbol == END or bytes([symbol]) in (b" ", b"\t", b"\n", b"\v", b"\f", b"\r"):
            length = place + 1 - begin
            count = math.ceil((1 - Fraction(str(ratio))) * length)
            kept += [begin + i < begin + count for i in range(length)]
            begin = place + 1
    return kept


@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.9])
def test_fixed_deletion_keeps_the_beginnings_of_segments(ratio):
    inputs = random_inputs()
    found = shorten(FixedShortening(ratio), inputs)
    for row, kept in zip(inputs, found.kept, strict=True):
        wanted = kept_by_formula([s for s in row if s != PAD], ratio)
        assert kept.tolist() == wanted + [False] * (SIZE - len(wanted))


def test_fixed_deletion_of_one_long_segment():
    found = shorten(FixedShortening(0.7), inputs_of([b"x" * 1999], 2048))
    assert found.counts.tolist() == [600]
    assert found.kept[0, :600].all()


def test_random_deletion_has_its_rate():
    config, full = KINDS["random"], inputs_of([b"x" * (SIZE - 1)] * ROWS)
    shares = [shorten(config, full, random_keys(seed)).deleted.mean() for seed in range(8)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.02)
    # In evaluation too, whatever the rows' lengths.
    rng = np.random.default_rng(3)
    texts = [rng.bytes(int(rng.integers(1, SIZE))) for _ in range(40 * ROWS)]
    found = [
        shorten(config, inputs_of(texts[first : first + ROWS]))
        for first in range(0, len(texts), ROWS)
    ]
    deleted = sum(int(each.deleted.sum()) for each in found)
    assert deleted / sum(len(text) + 1 for text in texts) == pytest.approx(0.25, abs=0.03)


def test_random_deletion_is_fixed_in_evaluation_and_new_in_each_step():
    config, inputs = KINDS["random"], random_inputs()
    first, again = (shorten(config, inputs).kept for _ in range(2))
    np.testing.assert_array_equal(first, again)
    steps = [shorten(config, inputs, random_keys(seed)).kept for seed in (0, 0, 1)]
    np.testing.assert_array_equal(steps[0], steps[1])
    assert (steps[0] != steps[2]).any() and (steps[0] != first).any()


@pytest.mark.parametrize("training", [False, True])
def test_random_deletion_of_a_row_does_not_depend_on_the_others(training):
    config, inputs = KINDS["random"], random_inputs()
    keys = random_keys(0) if training else None
    whole = shorten(config, inputs, keys).kept
    order = np.random.default_rng(5).permutation(ROWS)
    found = shorten(config, inputs[order], None if keys is None else keys[order]).kept
    np.testing.assert_array_equal(found, whole[order])


def test_random_deletion_of_everything_keeps_one():
    inputs = random_inputs()
    found = shorten(RandomShortening(0.999), inputs, random_keys(0))
    assert (found.counts[:-1] >= 1).all() and (found.counts[:-1] == 1).mean() > 0.9


@pytest.mark.parametrize("kind", WITHOUT_CHANNELS)
def test_what_the_baselines_delete_is_hidden_in_training(kind):
    found = shorten(KINDS[kind], random_inputs(), random_keys(0))
    np.testing.assert_array_equal(found.keys_bias == 0, found.kept)
    assert (found.keys_bias[~found.kept] < -1e9).all()
    assert found.losses == {}


def test_fixed_deletion_is_the_same_in_training():
    kept = [shorten(KINDS["fixed"], random_inputs(), keys).kept for keys in (None, random_keys(0))]
    np.testing.assert_array_equal(*kept)


def test_convolution_merges_strides():
    config, inputs = KINDS["convolution"], random_inputs()
    stride = config.stride
    found = shorten(config, inputs)
    lengths = (inputs != PAD).sum(axis=1)
    np.testing.assert_array_equal(found.counts, -(-lengths // stride))
    kernel = np.asarray(built(config)[1]["projection"]["kernel"])
    states = reading_of(inputs).states
    for row in range(ROWS):
        for number in range(found.counts[row]):
            taken = np.zeros((stride, WIDTH), np.float32)
            piece = states[row, number * stride : min((number + 1) * stride, lengths[row])]
            taken[: len(piece)] = piece
            wanted = taken.reshape(-1) @ kernel  # a fresh bias is 0
            np.testing.assert_allclose(found.states[row, number], wanted, atol=1e-5)
    np.testing.assert_array_equal(found.positions[0], np.arange(-(-SIZE // stride)))


def pooled(states, ends):
    """The means of the segments that end there; the last symbol ends one in any case."""
    found, begin = [], 0
    for place in range(len(states)):
        if ends[place] or place == len(states) - 1:
            found.append(states[begin : place + 1].mean(axis=0))
            begin = place + 1
    return found


@functools.cache
def predicted():
    """A predictor's parameters with which many symbols are boundaries, and those."""
    config, inputs = KINDS["boundary"], random_inputs()
    predictor = dict(built(config)[1]["predictor"])
    predictor["down"] = {**predictor["down"], "bias": jnp.full(1, 0.3)}
    model = nnx.merge(built(config)[0], {"predictor": predictor})
    ends = np.asarray(jax.jit(model.predictor)(reading_of(inputs).states)) > 0
    assert 0.1 < ends.mean() < 0.9
    return config, {"predictor": predictor}, ends


def test_boundary_pooling_takes_the_means_of_segments():
    config, params, ends = predicted()
    inputs = random_inputs()
    found = shorten(config, inputs, params=params)
    states = reading_of(inputs).states
    for row, length in enumerate((inputs != PAD).sum(axis=1)):
        wanted = pooled(states[row, :length], ends[row])
        assert found.counts[row] == len(wanted)
        assert found.kept[row, : len(wanted)].all()
        if wanted:
            np.testing.assert_allclose(found.states[row, : len(wanted)], wanted, atol=1e-5)
        starts = [True, *ends[row, : length - 1]][:length]
        assert found.deleted[row].tolist() == [not s for s in starts] + [False] * (SIZE - length)


def test_the_binomial_prior_of_boundary_pooling():
    config, params, ends = predicted()
    there = random_inputs() != PAD
    found = shorten(config, random_inputs(), params=params)
    nats = 0.0
    for n, k in zip(there.sum(axis=1), (ends & there).sum(axis=1), strict=True):
        nats -= math.log(math.comb(n, k) * 0.25**k * 0.75 ** (n - k))
    assert found.losses["boundaries"] == pytest.approx(2.0 * nats / there.sum(), rel=1e-5)


def test_boundaries_are_sampled_in_training_alone():
    config, inputs = KINDS["boundary"], random_inputs()
    in_training = [shorten(config, inputs, random_keys(seed)).counts for seed in (0, 0, 1)]
    np.testing.assert_array_equal(in_training[0], in_training[1])
    assert (in_training[0] != in_training[2]).any()
    # The authors' bias of -1: about sigmoid(-1) of the symbols, and never by the likelier value.
    lengths = (inputs != PAD).sum(axis=1)
    assert in_training[0].sum() / lengths.sum() == pytest.approx(0.27, abs=0.15)


# Configs.


def test_the_kinds():
    assert set(KINDS) == set(ShorteningConfig.variants)


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_is_saved_and_rebuilt(kind):
    config = ExperimentConfig(MrT5Config(shortening=KINDS[kind]))
    saved = json.loads(json.dumps(as_saved(config)))
    assert saved["model"]["shortening"]["kind"] == kind
    assert from_saved(saved) == config


def test_an_unknown_kind_is_named():
    saved = as_saved(ExperimentConfig(MrT5Config()))
    saved["model"]["shortening"]["kind"] = "gates"
    with pytest.raises(UserError, match=r"shortening\.kind is 'gates'.*boundary, .*gate"):
        from_saved(saved)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.5, math.nan])
def test_impossible_targets(target):
    with pytest.raises(UserError, match=r"model\.shortening\.target is .*between 0 and 1\.$"):
        GateShortening(target=target)


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (GateShortening, {"target": 0.5, "weight": 1.0}, "not both"),
        (GateShortening, {"floor": 0.0}, r"floor is 0\.0; it must be below 0"),
        (RandomShortening, {"ratio": 1.0}, r"ratio is 1\.0; it must be between 0 and 1"),
        (FixedShortening, {"ratio": 0.0}, r"ratio is 0\.0; it must be between 0 and 1"),
        (BoundaryShortening, {"rate": 1.5}, r"rate is 1\.5; it must be between 0 and 1"),
        (BoundaryShortening, {"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        (ConvolutionShortening, {"stride": 1}, "stride is 1; it must be at least 2"),
    ],
)
def test_values_out_of_range(kind, values, sentence):
    with pytest.raises(UserError, match=rf"^model\.shortening\..*{sentence}"):
        kind(**values)
