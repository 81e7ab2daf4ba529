"""A tiny config of every family and variant, and its functions, each compiled once for all tests.

A new family or variant is one line in FAMILIES, and all laws of `test_laws.py` hold it to account.
All functions take rows `[ROWS, LENGTH]`, so that one compilation serves every law.
"""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.layers.linear import Embedding
from bytelm.models import Batch, ModelConfig, target_nats
from bytelm.models.transformer import TransformerConfig
from bytelm.training.sharding import path_name
from bytelm.vocabulary import OUTPUT_SIZE, PAD, START, UNSCORED

LENGTH = 16
ROWS = 16

small = functools.partial(TransformerConfig, width=32, depth=2, head_width=8, mlp_width=48)

FAMILIES: dict[str, ModelConfig] = {
    "transformer": small(),
    "transformer, window": small(window=5),
    "transformer, grouped and qk-norm": small(key_value_heads=2, qk_norm=True, mlp="relu"),
    "transformer, tied and gelu": small(tied_head=True, mlp="gelu"),
    "transformer, scanned and rematerialised": small(scan=True, remat="full"),
}


@functools.cache
def split_model(config: ModelConfig) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model's graph, and parameters that are all random: none is zero, as a fresh head is."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    rng = np.random.default_rng(0)

    def noise(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path_name(path)
        mean = 1.0 if name.endswith("scale") else 0.0
        deviation = 1.0 if name.endswith("embedding") else 0.2
        return jnp.asarray(rng.normal(mean, deviation, leaf.shape), leaf.dtype)

    return graphdef, jax.tree.map_with_path(noise, nnx.to_pure_dict(state))


@functools.cache
def forward(config: ModelConfig) -> Callable[[Any, Batch], jax.Array]:
    """(params, batch) -> logits."""
    graphdef, _ = split_model(config)
    return jax.jit(lambda params, batch: nnx.merge(graphdef, params)(batch).logits)


@functools.cache
def backward(config: ModelConfig) -> Callable[[Any, Batch, jax.Array], tuple[jax.Array, Any, Any]]:
    """(params, batch, weights) -> nats, and the gradients of the sum of weights x nats.

    The gradients are those with respect to the parameters, and, `[ROWS, LENGTH]`, to a nudge that
    is added to the embedding of each position.
    """
    graphdef, _ = split_model(config)
    embed = Embedding.__call__

    def weighted(params: Any, nudge: jax.Array, batch: Batch, weights: jax.Array):
        def nudged(self: Embedding, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
            x = embed(self, ids, dtype)
            return x + nudge[..., None] * jnp.cos(jnp.arange(x.shape[-1]))[None, None, :]

        with mock.patch.object(Embedding, "__call__", nudged):
            nats = target_nats(nnx.merge(graphdef, params)(batch).logits, batch.targets)
        return (weights * nats).sum(), nats

    @jax.jit
    def run(params: Any, batch: Batch, weights: jax.Array) -> tuple[jax.Array, Any, Any]:
        gradient = jax.grad(weighted, argnums=(0, 1), has_aux=True)
        (of_params, of_nudge), nats = gradient(params, jnp.zeros_like(weights), batch, weights)
        return nats, of_params, of_nudge

    return run


@functools.cache
def decoder(config: ModelConfig) -> tuple[Any, Callable]:
    """Parameters in the form for decoding, and (params, ids, cache, lengths) -> logits, cache."""
    model = nnx.merge(*split_model(config)).for_decoding()
    graphdef, params = nnx.split(model)
    return params, jax.jit(
        lambda params, ids, cache, lengths: nnx.merge(graphdef, params).extend(ids, cache, lengths)
    )


def random_rows(seed: int, rows: int = ROWS, length: int = LENGTH) -> Batch:
    """One document in each row, from its START on, with every position scored."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, OUTPUT_SIZE, (rows, length + 1), dtype=np.int32)
    symbols[:, 0] = START
    return Batch(symbols[:, :-1], symbols[:, 1:], np.ones((rows, length), np.int32))


def padded(*documents: np.ndarray, rows: int = ROWS, length: int = LENGTH) -> Batch:
    """Each document (symbols) in a row of its own, then rows of nothing but padding."""
    ids = np.full((rows, length), PAD, np.int32)
    targets, segment_ids = np.full_like(ids, UNSCORED), np.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
        targets[row, : len(document) - 1] = document[1:]
        segment_ids[row, : len(document)] = 1
    return Batch(ids, targets, segment_ids)
