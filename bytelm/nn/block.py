"""The pre-norm Transformer block: self-attention, then an MLP, each on a residual branch."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.nn.attention.attention import (
    AttentionImplementation,
    AttentionMask,
    attention,
    cached_attention,
)
from bytelm.nn.linear import Dense
from bytelm.nn.mlp import GATED, MLP, MLPKind, default_mlp_width
from bytelm.nn.norms import NORMS, NormKind
from bytelm.nn.partitioning import shard_rows
from bytelm.nn.rope import rotary


@dataclass(frozen=True)
class BlockConfig:
    """Shape of the blocks of one stack. Built by a model family from its own config."""

    width: int
    depth: int
    heads: int
    key_value_heads: int
    head_width: int
    mlp: MLPKind
    mlp_width: int | None
    qk_norm: bool
    rope_theta: float | None
    mask: AttentionMask
    implementation: AttentionImplementation
    norm: NormKind = "rms"
    scaled_init: bool = True
    condition_width: int | None = None

    @property
    def output_gain(self) -> float:
        """Initial gain of the kernels that end a residual branch."""
        return (2 * self.depth) ** -0.5 if self.scaled_init else 1.0

    @property
    def hidden(self) -> int:
        """Channels inside the MLP."""
        return self.mlp_width or default_mlp_width(self.mlp, self.width)

    def forward_flops(self, length: float) -> float:
        """Matrix-product FLOPs of one forward pass of all blocks over one row of `length`."""
        inner, shared = self.heads * self.head_width, self.key_value_heads * self.head_width
        projections = self.width * (2 * inner + 2 * shared)
        mlp = self.width * self.hidden * (3 if self.mlp in GATED else 2)
        window = min(self.mask.window or length, length)
        pairs = window * (window + 1) / 2 + (length - window) * window
        if not self.mask.causal:
            pairs = 2 * pairs - length
        return self.depth * 2.0 * (length * (projections + mlp) + 2 * pairs * inner)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """Keys and values `[B * G, S, K]` of the positions that one layer has seen."""

    keys: jax.Array
    values: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CacheSlots:
    """Where a piece of N new positions goes in a cache of S slots, the same for every layer.

    Attributes:
        slots: int32 `[B, N]`, the slot each new position is written to; S (dropped) for none.
        positions: int32 `[B, N]`, the new positions, -1 where a row has fewer than N.
        segments: int32 `[B, N]`, the segments of the new positions.
        key_positions: int32 `[B, S]` for N = 1, the position of each slot once the piece is
            written, -1 if empty; `[B, S + N]` otherwise, those before it and the new ones.
        key_segments: int32, the segments of `key_positions`.
    """

    slots: jax.Array
    positions: jax.Array
    segments: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array

    def write(self, cache: jax.Array, new: jax.Array) -> jax.Array:
        """Puts new keys or values `[B * G, N, K]` into a cache `[B * G, S, K]`."""
        heads = jnp.arange(len(cache))[:, None]
        slots = jnp.repeat(self.slots, len(cache) // len(self.slots), axis=0)
        return cache.at[heads, slots].set(new, mode="drop")

    def extend(
        self, cache: LayerCache, k: jax.Array, v: jax.Array
    ) -> tuple[LayerCache, jax.Array, jax.Array]:
        """Writes new keys and values `[B, N, G, K]` into a cache.

        Returns:
            the cache, and the keys and values `[B * G, ., K]` that the new positions may see, at
            `key_positions`.
        """
        k, v = (_by_head(new).astype(cache.keys.dtype) for new in (k, v))
        written = LayerCache(self.write(cache.keys, k), self.write(cache.values, v))
        if k.shape[1] == 1:
            return written, written.keys, written.values
        # A ring of slots may already have lost keys that the first new positions still see.
        keys = jnp.concatenate([cache.keys, k], axis=1)
        return written, keys, jnp.concatenate([cache.values, v], axis=1)


class SelfAttention(nnx.Module):
    """Multi-head attention with grouped queries, rotary positions and optional q/k norms.

    `[B, T, width] -> [B, T, width]`. With `qk_norm`, each head of q and k is normalised before
    the rotation (arXiv 2302.05442). Positions count from the row's start unless they are given.
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        inner = config.heads * config.head_width
        shared = config.key_value_heads * config.head_width
        self.query = Dense(config.width, inner, rngs=rngs, tensor_axis=-1)
        self.key = Dense(config.width, shared, rngs=rngs, tensor_axis=-1)
        self.value = Dense(config.width, shared, rngs=rngs, tensor_axis=-1)
        self.output = Dense(inner, config.width, rngs=rngs, gain=config.output_gain, tensor_axis=-2)
        if config.qk_norm:
            self.query_norm = NORMS[config.norm](config.head_width)
            self.key_norm = NORMS[config.norm](config.head_width)

    def _heads(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        config, shape = self.config, x.shape[:2]
        q = self.query(x).reshape(*shape, config.heads, config.head_width)
        k = self.key(x).reshape(*shape, config.key_value_heads, config.head_width)
        v = self.value(x).reshape(*shape, config.key_value_heads, config.head_width)
        if config.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if config.rope_theta is not None:
            q, k = (rotary(each, positions, config.rope_theta) for each in (q, k))
        return q, k, v

    def __call__(
        self, x: jax.Array, group_ids: jax.Array | None, positions: jax.Array | None = None
    ) -> jax.Array:
        positions = jnp.arange(x.shape[1])[None, :] if positions is None else positions
        q, k, v = self._heads(x, positions)
        config = self.config
        mixed = attention(q, k, v, config.mask, group_ids, implementation=config.implementation)
        return self.output(mixed.reshape(*x.shape[:2], -1))

    def extend(
        self, x: jax.Array, cache: LayerCache, slots: CacheSlots
    ) -> tuple[jax.Array, LayerCache]:
        """Attention of N new positions `[B, N, width]` over the cache and over themselves."""
        q, k, v = self._heads(x, slots.positions)
        written, keys, values = slots.extend(cache, k, v)
        mixed = cached_attention(
            q,
            keys,
            values,
            slots.positions,
            slots.key_positions,
            self.config.mask,
            query_segments=slots.segments,
            key_segments=slots.key_segments,
        )
        return self.output(mixed.reshape(*x.shape[:2], -1)), written


def _by_head(x: jax.Array) -> jax.Array:
    """`[B, N, G, K] -> [B * G, N, K]`."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def by_position(x: jax.Array, rows: int) -> jax.Array:
    """`[B * G, N, K] -> [B, N, G, K]`."""
    return x.reshape(rows, -1, *x.shape[1:]).swapaxes(1, 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """Vectors that are added to every layer's input, given once and shared by many positions.

    Attributes:
        vectors: `[B, P, condition_width]`.
        index: int32 `[B, T]`, which of them each position gets.
    """

    vectors: jax.Array
    index: jax.Array


class TransformerBlock(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    With a `condition_width`, a projection of each position's condition is added to x before
    (arXiv 2603.15953).
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.attention_norm = NORMS[config.norm](config.width)
        self.attention = SelfAttention(config, rngs=rngs)
        self.mlp_norm = NORMS[config.norm](config.width)
        self.mlp = MLP(
            config.mlp,
            config.width,
            config.hidden,
            rngs=rngs,
            output_gain=config.output_gain,
        )
        if config.condition_width is not None:
            inner = config.heads * config.head_width
            self.condition_value = Dense(config.condition_width, inner, rngs=rngs, tensor_axis=-1)
            self.condition_output = Dense(
                inner, config.width, rngs=rngs, gain=config.output_gain, tensor_axis=-2
            )

    def __call__(
        self,
        x: jax.Array,
        group_ids: jax.Array | None,
        positions: jax.Array | None = None,
        condition: Condition | None = None,
    ) -> jax.Array:
        x = self._conditioned(shard_rows(x), condition)
        x = x + self.attention(self.attention_norm(x), group_ids, positions)
        return x + self.mlp(self.mlp_norm(x))

    def _conditioned(self, x: jax.Array, condition: Condition | None) -> jax.Array:
        if condition is None:
            return x
        added = self.condition_output(self.condition_value(condition.vectors))
        return x + jnp.take_along_axis(added, condition.index[:, :, None], axis=1)

    def extend(
        self,
        x: jax.Array,
        cache: LayerCache,
        slots: CacheSlots,
        condition: Condition | None = None,
    ) -> tuple[jax.Array, LayerCache]:
        x = self._conditioned(x, condition)
        mixed, cache = self.attention.extend(self.attention_norm(x), cache, slots)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), cache
