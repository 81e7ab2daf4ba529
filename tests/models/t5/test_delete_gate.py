"""MrT5's gate: what it keeps and costs, against plain restatements."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import PAD
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import (
    GateShortening,
)
from bytelm.nn.attention.biased import whole_bias
from tests.models.t5.shortenings import (
    KINDS,
    ROWS,
    SIZE,
    WIDTH,
    built,
    inputs_of,
    random_inputs,
    random_keys,
    reading_of,
    shorten,
)


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
