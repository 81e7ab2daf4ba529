"""What each kind of shortening keeps and costs, against plain restatements."""

import dataclasses
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
from bytelm.models.encoder_decoder import Reading
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import (
    BoundaryShortening,
    ConvolutionShortening,
    FixedShortening,
    GateShortening,
    RandomShortening,
    ShorteningConfig,
)
from bytelm.nn.attention.biased import whole_bias
from bytelm.training.experiment import ExperimentConfig, as_saved, from_saved

WIDTH, ROWS, SIZE = 4, 32, 24
KINDS = {
    "gate": GateShortening(target=0.5, noise=True, score_weight=0.5, integral=5e-5),
    "random": RandomShortening(ratio=0.25),
    "fixed": FixedShortening(ratio=0.75),
    "boundary": BoundaryShortening(rate=0.25, temperature=1.0, weight=2.0),
    "convolution": ConvolutionShortening(stride=5),
}
WITHOUT_CHANNELS = ("random", "fixed")


def inputs_of(texts, size=SIZE):
    """The texts with END, and PAD behind; None is a row without any input."""
    inputs = np.full((len(texts), size), PAD, np.int32)
    for row, text in zip(inputs, texts, strict=True):
        if text is not None:
            row[: len(text) + 1] = [*text, END]
    return inputs


@functools.cache
def random_inputs():
    """Rows of all lengths, with all whitespace bytes and bytes like them; the last is empty."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdef\x08\x0e\x00\xa0\xff \t\n\v\f\r", np.uint8)
    texts = [rng.choice(letters, rng.integers(SIZE)).tobytes() for _ in range(ROWS - 2)]
    return inputs_of([*texts, rng.choice(letters, SIZE - 1).tobytes(), None])


def random_keys(seed, rows=ROWS):
    return np.random.default_rng(seed).integers(0, 2**32, (rows, 2), np.uint32)


def reading_of(inputs):
    valid = inputs != PAD
    states = np.random.default_rng(1).normal(size=(*inputs.shape, WIDTH)).astype(np.float32)
    positions = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    return Reading(states, positions, valid, valid, np.zeros(inputs.shape, np.float32))


@functools.partial(jax.jit, static_argnames="graphdef")
def _shorten(graphdef, params, reading, inputs, keys):
    return nnx.merge(graphdef, params)(reading, inputs, keys)


@functools.cache
def built(config):
    graphdef, params = nnx.split(config.build(WIDTH, nnx.Rngs(0)))
    return graphdef, nnx.to_pure_dict(params)


def shorten(config, inputs, keys=None, params=None):
    graphdef, fresh = built(config)
    params = {**fresh, **(params or {})}
    return jax.device_get(_shorten(graphdef, params, reading_of(inputs), inputs, keys))


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


def gate_parameters(bias, scale=1.0):
    """A gate whose logits are those of a random kernel and this bias."""
    kernel = np.random.default_rng(2).normal(size=WIDTH).astype(np.float32)
    return {"kernel": jnp.asarray(scale * kernel), "bias": jnp.asarray(bias, jnp.float32)}


def logits_of(inputs, params):
    states = reading_of(inputs).states.astype(np.float64)
    normed = states / np.sqrt((states**2).mean(axis=2, keepdims=True) + 1e-6)
    return normed @ np.asarray(params["kernel"], np.float64) + float(params["bias"])


def test_a_fresh_gate():
    _, params = built(GateShortening())
    assert float(params["bias"]) == 1
    kernels = np.abs([nnx.split(GateShortening().build(95, nnx.Rngs(0)))[1]["kernel"][...]])
    assert 0.9 * 0.25 < kernels.max() <= 0.25  # Xavier: sqrt(6 / (95 + 1))


PLAIN_GATE = GateShortening(weight=0.5)


@pytest.mark.parametrize("config", [PLAIN_GATE, KINDS["gate"]])
def test_the_gate_deletes_what_has_a_negative_logit(config):
    inputs, params = random_inputs(), gate_parameters(0.2)
    logits, there = logits_of(inputs, params), inputs != PAD
    found = shorten(config, inputs, params=params)
    gate = -30 / (1 + np.exp(logits))
    np.testing.assert_allclose(found.gate[there], gate[there], rtol=1e-4, atol=1e-5)
    assert (found.gate[~there] == -30).all()
    kept = (logits > 0) & there
    some = kept.any(axis=1)
    assert some.sum() > 20
    np.testing.assert_array_equal(found.kept[some], kept[some])
    weight = 1 if config.target else 0.5
    np.testing.assert_allclose(found.losses["gate"], weight * gate[there].mean(), rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bias", [-6.0, -100.0])
def test_a_gate_that_deletes_everything_keeps_the_most_open_state(bias, training):
    inputs, params = random_inputs(), gate_parameters(bias)
    found = shorten(PLAIN_GATE, inputs, random_keys(0) if training else None, params)
    there = inputs != PAD
    assert (found.counts[:-1] == 1).all() and found.counts[-1] == 0
    assert np.isfinite(found.gate).all() and np.isfinite(found.keys_bias).all()
    logits = np.where(there, logits_of(inputs, params), -np.inf)
    most_open = logits[:-1].argmax(axis=1)
    np.testing.assert_array_equal(found.kept[:-1].argmax(axis=1), most_open)


def test_a_gate_that_is_open_deletes_nothing():
    inputs = random_inputs()
    found = shorten(PLAIN_GATE, inputs, params=gate_parameters(50.0))
    np.testing.assert_array_equal(found.kept, inputs != PAD)
    assert not found.deleted.any()
    assert abs(found.losses["gate"]) < 1e-9


def test_gumbel_noise_is_for_training_alone():
    inputs, params = random_inputs(), gate_parameters(0.0)
    plain = shorten(PLAIN_GATE, inputs, params=params).gate
    noisy = KINDS["gate"]
    np.testing.assert_array_equal(shorten(noisy, inputs, params=params).gate, plain)
    without = shorten(PLAIN_GATE, inputs, random_keys(0), params).gate
    np.testing.assert_array_equal(without, plain)

    full = inputs_of([b"x" * (SIZE - 1)] * ROWS)
    flat = gate_parameters(0.3, scale=0.0)
    gates = np.array(
        [shorten(noisy, full, random_keys(seed), flat).gate for seed in (0, 0, 1, 2, 3, 4)],
        np.float64,
    )
    np.testing.assert_array_equal(gates[0], gates[1])
    assert (gates[1] != gates[2]).mean() > 0.99
    noise = np.log(-30 / gates[1:] - 1) - 0.3  # a Gumbel variable: mean 0.577, variance pi^2 / 6
    assert noise.mean() == pytest.approx(0.577, abs=0.1)
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.15)


# The penalty on attention scores, in a whole encoder.

PENALISED = MrT5Config(
    width=8,
    encoder_depth=3,
    decoder_depth=1,
    heads=2,
    head_width=4,
    mlp_width=8,
    gate_depth=1,
    shortening=GateShortening(score_weight=0.5),
)


def normed(x, scale):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def plain_penalty(params, reading, bias):
    """0.5 x the mean over blocks 1 and 2 of `mean(max(s, 5) - 5)`, s the scores before the gate."""
    blocks = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"]["blocks"])
    x, there = np.asarray(reading.states, np.float64), np.asarray(reading.valid)
    losses = []
    for depth in (1, 2):
        block = jax.tree.map(lambda leaf, depth=depth: leaf[depth], blocks)
        attention, mlp = block["attention"], block["mlp"]
        h = normed(x, block["attention_norm"]["scale"])
        q, k, v = (
            (h @ attention[name]["kernel"]).reshape(*h.shape[:2], 2, 4)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bthk,bshk->bhts", q, k) + np.asarray(bias, np.float64)
        over = np.maximum(scores, 5) - 5
        of_keys = np.broadcast_to(there[:, None, None, :], over.shape)
        losses.append(over[of_keys].mean())
        gated = scores + np.asarray(reading.keys_bias, np.float64)[:, None, None, :]
        weights = np.exp(gated - gated.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("bhts,bshk->bthk", weights, v).reshape(*x.shape[:2], -1)
        x = x + mixed @ attention["output"]["kernel"]
        h = normed(x, block["mlp_norm"]["scale"])
        g = h @ mlp["gate"]["kernel"]
        gelu = 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))
        x = x + (gelu * (h @ mlp["up"]["kernel"])) @ mlp["down"]["kernel"]
    return 0.5 * np.mean(losses)


@functools.cache
def penalised():
    graphdef, params = nnx.split(PENALISED.build(nnx.Rngs(0)))

    @jax.jit
    def run(params, inputs):
        model = nnx.merge(graphdef, params)
        reading = model.read(inputs, jnp.zeros((len(inputs), 2), jnp.uint32))
        length = inputs.shape[1]
        bias = whole_bias(model.encoder_bias.whole_rows(length), length, length)[None]
        return reading, bias, model.encode(reading).losses

    return graphdef, run, nnx.to_pure_dict(params)


@pytest.mark.parametrize("gain", [1e-3, 12.0])
def test_the_penalty_on_scores(gain):
    _, run, params = penalised()
    query = params["encoder"]["blocks"]["attention"]["query"]
    stretched = jax.tree.map(lambda leaf: leaf, params)
    stretched["encoder"]["blocks"]["attention"]["query"] = {"kernel": gain * query["kernel"]}
    inputs = inputs_of([b"some", b"a longer row", b""], 13)
    reading, bias, soft = run(stretched, inputs)
    wanted = plain_penalty(stretched, reading, bias)
    assert set(soft) == {"scores"}
    if gain < 1:
        assert wanted == 0 and soft["scores"] == 0
    else:
        assert wanted > 0.1
        np.testing.assert_allclose(soft["scores"], wanted, rtol=1e-4)


def test_scores_are_not_penalised_where_states_are_removed():
    graphdef, _, params = penalised()

    def losses(params):
        model = nnx.merge(graphdef, params)
        return model.encode(model.read(inputs_of([b"some"], 5)), 5).losses

    assert jax.eval_shape(losses, params) == {}


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


@pytest.mark.parametrize("depth", [-1, 12])
def test_a_gate_that_stands_behind_the_encoder(depth):
    with pytest.raises(UserError, match=rf"model\.gate_depth is {depth}; .*encoder_depth \(12\)"):
        MrT5Config(gate_depth=depth)


def test_only_a_gate_with_a_target_has_a_controller():
    for config in KINDS.values():
        assert set(config.controllers) == ({"gate"} if config == KINDS["gate"] else set())
    controller = MrT5Config(shortening=KINDS["gate"]).controllers["gate"]
    assert dataclasses.astuple(controller) == (0.5, 0.5, 5e-5)
    assert GateShortening().controllers == {} and GateShortening().score_penalty is None
