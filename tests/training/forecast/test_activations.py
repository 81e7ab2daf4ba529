"""What a forward pass keeps: each value once, weights apart, and in the form that TPUs have."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bytelm.core.xla import compiling_for
from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.forecast.activations import _kept, kept_bytes

CONFIG = ExperimentConfig(
    TransformerConfig(width=128, depth=3, head_width=64, scan=True),
    DataConfig(sequence_length=128, batch_size=8),
)


def kept_of(function, weights, x):
    closed = jax.make_jaxpr(function)(weights, x)
    return _kept(closed, [False] * len(jax.tree.leaves(weights)) + [True])


def test_equal_values_are_kept_once_and_inputs_never():
    weight, x = jnp.ones((4, 8)), jnp.ones((2, 4))

    def twice(weight, x):
        return x.astype("bfloat16"), x.astype("bfloat16"), x * 2, x, weight.astype("bfloat16")

    found = kept_of(twice, weight, x)
    assert found.activations == 8 * 2 + 8 * 4
    assert found.weights == 32 * 2
    assert found.largest == 8 * 4


def test_values_of_a_loop_are_those_of_all_turns():
    weights, x = jnp.ones((3, 4, 4)), jnp.ones((2, 4))

    def layers(weights, x):
        @jax.jit
        def product(x, weight):
            return x @ weight

        def layer(x, weight):
            y = product(x, weight.astype("bfloat16"))
            return x + y, (y, product(x, weight.astype("bfloat16")), weight, weight * 2)

        return jax.lax.scan(layer, x, weights)[1]

    found = kept_of(layers, weights, x)
    assert found.activations == 3 * 8 * 4, "y is there once, as float32"
    assert found.weights == 3 * 16 * 4, "twice the weights; they themselves are an input"
    assert found.largest == 8 * 4, "of one turn"


def kept_on(backend, head_width):
    model = dataclasses.replace(CONFIG.model, head_width=head_width)
    with compiling_for(backend):
        return kept_bytes(dataclasses.replace(CONFIG, model=model), 2)


def test_a_tpu_fills_narrow_heads_up_to_its_lanes():
    """As its compiled programs show: `f32[26,2,8192,12,64]{4,2,3,1,0:T(8,128)}`."""
    heads = CONFIG.model.depth * 2 * 128 * 128
    narrow, wide = kept_on("tpu", 64), kept_on("tpu", 128)
    # In bfloat16 queries, keys, values and the result; in float32 both halves of the rotation.
    assert narrow.activations - wide.activations >= 4 * 2 * heads
    on_gpu = [kept_on("gpu", width).activations for width in (64, 128)]
    assert on_gpu[0] == pytest.approx(on_gpu[1], rel=0.02)
