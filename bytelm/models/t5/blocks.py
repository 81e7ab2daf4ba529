"""The blocks of T5 v1.1 (arXiv 1910.10683, 2002.05202), used by ByT5 and MrT5.

Pre-norm attention without the factor 1/sqrt(K), with a learned bias of the scores for each head and
bucket of distances; in a decoder, then attention to the encoder's outputs; then a gated MLP. All
layers of a stack share one table of biases. No linear layer has a bias.

Shapes: B = rows, T = queries, S = keys, H = heads, K = head size, d = width.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.nn.attention.biased import (
    biased_attention,
    distance_windows,
    position_windows,
    query_block,
    whole_bias,
)
from bytelm.nn.attention.blockwise import MASKED
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense
from bytelm.nn.mesh import shard_rows
from bytelm.nn.mlp import MLP, MLPKind
from bytelm.nn.norms import RMSNorm
from bytelm.nn.state import Fixed, KeyValueCache, NewPositions

BUCKETS = 32
"""Buckets of distances; in an encoder, half of them for each direction."""
FARTHEST = 128
"""This distance and all larger ones share a bucket."""


@dataclass(frozen=True, kw_only=True)
class T5BlockConfig(BlockConfig):
    """Shape of T5's blocks."""

    mlp: MLPKind
    cross: bool = False
    """Whether the blocks attend to an encoder's states."""
    softmax1: bool = False
    """Whether the weights of attention may sum to less than 1: `exp(x) / (1 + sum exp(x))`."""

    def build(self, rngs: nnx.Rngs) -> "T5Block":
        return T5Block(self, rngs=rngs)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class T5Context:
    """The inputs that all layers of a stack share."""

    windows: jax.Array  # biases of the scores of self-attention, as `biased_attention` takes them
    keys_bias: jax.Array | None = None
    """Float32 `[B, S]`, added to the scores of each key; None for 0."""
    states: jax.Array | None = None
    """`[B, S', d]`, the encoder's outputs. None in an encoder, and in decoding, where the state has
    their keys and values."""
    states_bias: jax.Array | None = None
    """Float32 `[B, S']`, added to the scores of `states`, MASKED for padding."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossCache(Fixed):
    """A decoder layer's keys and values `[B, S', H, K]` of the encoder's outputs."""

    keys: jax.Array
    values: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class T5State:
    """A decoder layer's keys and values of its own positions and of the encoder's outputs."""

    own: KeyValueCache
    cross: CrossCache


class RelativeBias(nnx.Module):
    """A stack's table of biases, `[BUCKETS, H]`.

    Args:
        bidirectional: whether half of the buckets are for keys after the query. Otherwise the
            biases of such keys are MASKED.
    """

    def __init__(self, heads: int, *, bidirectional: bool, scale: float, rngs: nnx.Rngs):
        self.bidirectional = bidirectional
        self.table = nnx.Param(
            jax.random.normal(rngs.params(), (BUCKETS, heads)) * scale, role="positions"
        )

    def whole_rows(self, length: int) -> jax.Array:
        """The biases between positions 0 to T - 1, as `distance_windows` of T keys."""
        distances = jnp.arange(-length, length)
        biases = self._lookup(distances)  # [2 T, H]
        if not self.bidirectional:
            biases = jnp.where(distances[:, None] > 0, MASKED, biases)
        return distance_windows(biases.T, length, query_block(length, length, biases.shape[1]))

    def between(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """The biases of positions, int32 queries `[B, T]` and keys `[B, S]`: `position_windows`.

        Unless the table is bidirectional, those of keys at position -1 are MASKED.
        """
        block = query_block(queries.shape[1], keys.shape[1], self.table.shape[1])
        # Distances have the layout of the biases in attention; beyond FARTHEST all are equal.
        distances = keys[:, None, None, :] - queries[:, None, :, None]  # [B, 1, T, S]
        distances = position_windows(distances, block)[0]
        table = self._lookup(jnp.arange(-FARTHEST, FARTHEST + 1)).T  # [H, 2 FARTHEST + 1]
        nearest = jnp.clip(distances, -FARTHEST, FARTHEST)
        biases = jnp.take(table, nearest + FARTHEST, axis=1)
        if not self.bidirectional:
            blocks = distances.shape[1] // keys.shape[1]
            visible = (distances <= 0) & (jnp.tile(keys, (1, blocks)) >= 0)[..., None]
            biases = jnp.where(visible, biases, MASKED)
        return biases

    def _lookup(self, distances: jax.Array) -> jax.Array:
        buckets = distance_bucket(distances, bidirectional=self.bidirectional)
        return jnp.take(self.table[...].astype(jnp.float32), buckets, axis=0)


def distance_bucket(distances: jax.Array, *, bidirectional: bool) -> jax.Array:
    """The bucket of each distance, key minus query, int32: exact at first, then logarithmic."""
    count = BUCKETS // 2 if bidirectional else BUCKETS
    back = jnp.abs(distances) if bidirectional else jnp.maximum(-distances, 0)
    exact = count // 2
    # The first distance of each logarithmic bucket, found by counting: logarithms would round.
    edges = [
        min(d for d in range(exact, FARTHEST + 1) if _logarithmic(d, exact, count) >= number)
        for number in range(exact + 1, count)
    ]
    far = exact + (back[..., None] >= jnp.asarray(edges)[(None,) * back.ndim]).sum(axis=-1)
    ahead = count * (distances > 0) if bidirectional else 0
    return jnp.where(back < exact, back, far) + ahead


def _logarithmic(distance: int, exact: int, count: int) -> int:
    # In float32 as in the published code: its rounding decides at the edges.
    ratio = np.log(np.float32(distance) / np.float32(exact)) / math.log(FARTHEST / exact)
    return min(exact + int(np.float32(ratio) * (count - exact)), count - 1)


class T5Attention(nnx.Module):
    """Multi-head attention of queries `[B, T, d]` over `[B, S, d]`."""

    def __init__(self, config: T5BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, inner = config.width, config.heads * config.head_width
        # Small queries make up for the missing factor 1/sqrt(K).
        gain = config.head_width**-0.5
        self.query = Dense(width, inner, rngs=rngs, gain=gain, tensor_axis=-1)
        self.key = Dense(width, inner, rngs=rngs, tensor_axis=-1)
        self.value = Dense(width, inner, rngs=rngs, tensor_axis=-1)
        self.output = Dense(inner, width, rngs=rngs, tensor_axis=-2)

    def heads(self, x: jax.Array) -> jax.Array:
        """`[B, T, inner] -> [B, T, H, K]`."""
        return x.reshape(*x.shape[:-1], self.config.heads, self.config.head_width)

    def keys_and_values(self, states: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values `[B, S, H, K]` of states `[B, S, d]`."""
        return self.heads(self.key(states)), self.heads(self.value(states))

    def __call__(
        self,
        x: jax.Array,
        k: jax.Array,
        v: jax.Array,
        windows: jax.Array | None,
        keys_bias: jax.Array | None,
    ) -> jax.Array:
        q = self.heads(self.query(x))
        mixed = biased_attention(q, k, v, windows, keys_bias, softmax1=self.config.softmax1)
        return self.output(mixed.reshape(*x.shape[:2], -1))

    def excess(self, x: jax.Array, context: T5Context, limit: float) -> jax.Array:
        """The mean of `max(score, limit) - limit` over all queries, and all keys but padding.

        Takes the windows of whole rows.
        """
        q, k = self.heads(self.query(x)), self.heads(self.key(x))
        scores = jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=jnp.float32)
        bias = whole_bias(context.windows, x.shape[1], x.shape[1])
        over = jnp.maximum(scores + bias[None] - limit, 0.0)
        if context.keys_bias is None:
            return over.mean()
        real = (context.keys_bias > MASKED / 2)[:, None, None, :]  # [B, 1, 1, S]
        by_key = (over * real).mean(axis=(1, 2))  # [B, S]
        return by_key.sum() / jnp.maximum(real.sum(), 1)


class T5Block(nnx.Module):
    """One layer of an encoder, or with `cross` of a decoder: `[B, T, d] -> [B, T, d]`."""

    def __init__(self, config: T5BlockConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width)
        self.attention = T5Attention(config, rngs=rngs)
        if config.cross:
            self.cross_norm = RMSNorm(config.width)
            self.cross = T5Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = MLP(config.mlp, config.width, config.hidden, rngs=rngs, output_gain=1.0)

    def __call__(
        self,
        x: jax.Array,
        group_ids: jax.Array | None,
        positions: jax.Array | None,
        shared: T5Context,
    ) -> jax.Array:
        """Rows of one group; positions are in the windows of `shared`."""
        normed = self.attention_norm(shard_rows(x))
        k, v = self.attention.keys_and_values(normed)
        x = x + self.attention(normed, k, v, shared.windows, shared.keys_bias)
        if shared.states is not None:
            x = self._read_encoder(x, *self.cross.keys_and_values(shared.states), shared)
        return x + self.mlp(self.mlp_norm(x))

    def excess(self, x: jax.Array, shared: T5Context, limit: float) -> jax.Array:
        """`T5Attention.excess` for the layer's input, which MrT5 trains with as a penalty."""
        return self.attention.excess(self.attention_norm(x), shared, limit)

    def _read_encoder(
        self, x: jax.Array, k: jax.Array, v: jax.Array, shared: T5Context
    ) -> jax.Array:
        return x + self.cross(self.cross_norm(x), k, v, None, shared.states_bias)

    def init_state(self, batch: int, length: int, dtype: jnp.dtype, shared: jax.Array) -> T5State:
        """A decoder's state; `shared` are the encoder's outputs `[B, S', d]`."""
        own = self.attention.config.empty_cache(batch, length, dtype)
        return T5State(own, CrossCache(*self.cross.keys_and_values(shared)))

    def extend(
        self, x: jax.Array, state: T5State, new: NewPositions, shared: T5Context
    ) -> tuple[jax.Array, T5State]:
        """A decoder's new positions; `shared.windows` are those of `new.key_positions`."""
        normed = self.attention_norm(x)
        own, *keys_and_values = new.extend(state.own, *self.attention.keys_and_values(normed))
        k, v = (
            jnp.concatenate(parts, axis=2).swapaxes(1, 2).astype(x.dtype)
            for parts in keys_and_values
        )  # [B, S, H, K]
        x = x + self.attention(normed, k, v, shared.windows, shared.keys_bias)
        x = self._read_encoder(x, state.cross.keys, state.cross.values, shared)
        return x + self.mlp(self.mlp_norm(x)), T5State(own, state.cross)
