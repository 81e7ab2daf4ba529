"""The interface of a stack's blocks, and the Transformer block."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

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
from bytelm.nn.mesh import shard_rows
from bytelm.nn.norms import NORMS
from bytelm.nn.residual import ResidualBlock, ResidualConfig
from bytelm.nn.sequence import take
from bytelm.nn.state import KeyValueCache, NewPositions

SPARE = 16
"""Entries of a cache past the window, or the window if that is less: rejected drafts of as many
symbols can be taken back."""
NormSpan = Literal["head", "all"]
"""What a norm of queries and keys covers: each head by itself, or all heads together."""


class Block(Protocol):
    """One layer of a `Stack`, `[B, T, width] -> [B, T, width]`, with its own decoding state.

    `shared` holds inputs that all layers of a stack have in common. The block's class chooses its
    type.
    """

    def __call__(
        self, x: jax.Array, group_ids: jax.Array | None, positions: jax.Array | None, shared: Any
    ) -> jax.Array:
        """Whole rows; positions see their own group only."""

    def init_state(self, batch: int, length: int, dtype: jnp.dtype, shared: Any) -> Any:
        """The state before the first of at most `length` positions."""

    def extend(
        self, x: jax.Array, state: Any, new: NewPositions, shared: Any
    ) -> tuple[jax.Array, Any]:
        """The next N positions of each row, `[B, N, width]`; those at position -1 are ignored."""


class StackedConfig(Protocol):
    """The interface of the config of a stack's blocks."""

    @property
    def depth(self) -> int:
        """Blocks of the stack."""

    def build(self, rngs: nnx.Rngs) -> Block:
        """One block, with fresh parameters."""

    def entries(self, length: int) -> int:
        """Positions that a block must remember of rows of at most `length`, at least 1."""

    def forward_flops(self, length: float) -> float:
        """Matrix-product FLOPs of one forward pass of all `depth` blocks over one row."""


@dataclass(frozen=True, kw_only=True)
class BlockConfig(ResidualConfig):
    """Shape of the Transformer blocks of one stack, which it builds.

    Attributes:
        qk_norm_over: what `qk_norm` normalises: each "head", or "all" heads together.
        qkv_bias: whether queries, keys and values have biases.
        rotary_width: the channels of each head, from the first on, that are rotated; None for all.
        rope_scaling: as in `rotary`.
    """

    heads: int
    key_value_heads: int
    head_width: int
    qk_norm: bool
    qk_norm_over: NormSpan = "head"
    qkv_bias: bool = False
    rope_theta: float | None
    rotary_width: int | None = None
    rope_scaling: tuple[float, ...] = ()
    mask: AttentionMask
    implementation: AttentionImplementation
    condition_width: int | None = None

    def build(self, rngs: nnx.Rngs) -> Block:
        return TransformerBlock(self, rngs=rngs)

    def entries(self, length: int) -> int:
        window = self.mask.window or length
        return min(length, window + min(window, SPARE))

    def empty_cache(self, batch: int, length: int, dtype: jnp.dtype) -> KeyValueCache:
        """The keys and values of one layer before the first of at most `length` positions."""
        entries, window = self.entries(length), self.mask.window or length
        spare = entries - window + 1 if entries < length else None
        heads, size = self.key_value_heads, self.head_width
        return KeyValueCache.empty(batch, heads, entries, size, dtype, spare)

    def forward_flops(self, length: float) -> float:
        inner, shared = self.heads * self.head_width, self.key_value_heads * self.head_width
        projections = 4.0 * self.width * (inner + shared)
        attention = 4.0 * self.mask.pairs(length) * inner
        return self.depth * (length * (projections + self.mlp_flops) + attention)


def rotary(
    x: jax.Array,
    positions: jax.Array,
    theta: float = 10_000.0,
    width: int | None = None,
    scaling: tuple[float, ...] = (),
) -> jax.Array:
    """Rotary positions (RoPE, arXiv 2104.09864).

    Rotates pairs of channels of each head by an angle proportional to the position.

    Args:
        x: queries or keys `[B, T, H, K]`, K even; channel i is paired with channel i + K/2.
        positions: int32 `[B, T]` or `[1, T]`.
        theta: base of the wavelengths.
        width: the channels of each head that are rotated, from the first on, in place of K.
        scaling: Llama 3.1's, for longer texts: a factor, the fewest and the most turns, and how
            many positions the model was first trained on. Channels that made fewer turns in these
            rotate slower by the factor, those that made more as before, those in between in part.
            Empty for none.
    """
    if width is not None:
        turned = rotary(x[..., :width], positions, theta, scaling=scaling)
        return jnp.concatenate([turned, x[..., width:]], axis=-1)
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling:
        factor, fewest, most, length = scaling
        turns = length * frequencies / (2 * jnp.pi)
        kept = jnp.clip((turns - fewest) / (most - fewest), 0, 1)
        frequencies = frequencies * (kept + (1 - kept) / factor)
    angles = positions[..., None].astype(jnp.float32) * frequencies[None, None, :]  # [B, T, K/2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    cos = jnp.concatenate([cos, cos], axis=-1)[:, :, None, :]
    sin = jnp.concatenate([-sin, sin], axis=-1)[:, :, None, :]
    # Swapping whole halves is 4 times as fast on XLA:CPU as rotating each by itself.
    wide = x.astype(jnp.float32)
    return (wide * cos + jnp.roll(wide, half, axis=-1) * sin).astype(x.dtype)


class SelfAttention(nnx.Module):
    """Multi-head attention with grouped queries, rotary positions and optional q/k norms.

    `[B, T, width] -> [B, T, width]`. With `qk_norm`, each head of q and k is normalised before
    the rotation (arXiv 2302.05442), or all heads together (arXiv 2501.00656). Positions count from
    the row's start unless they are given.
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        inner = config.heads * config.head_width
        shared = config.key_value_heads * config.head_width
        gain, output_gain = config.gain(config.width), config.gain(inner) * config.output_gain

        def projection(outputs: int) -> Dense:
            options: dict[str, Any] = {"gain": gain, "bias": config.qkv_bias, "tensor_axis": -1}
            return Dense(config.width, outputs, rngs=rngs, **options)

        self.query, self.key, self.value = map(projection, (inner, shared, shared))
        self.output = Dense(inner, config.width, rngs=rngs, gain=output_gain, tensor_axis=-2)
        if config.qk_norm:
            widths = (inner, shared) if config.qk_norm_over == "all" else (config.head_width,) * 2
            self.query_norm, self.key_norm = (
                NORMS[config.norm](width, epsilon=config.norm_epsilon) for width in widths
            )

    def _heads(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        config = self.config
        q, k, v = self.query(x), self.key(x), self.value(x)
        together = config.qk_norm_over == "all"
        if config.qk_norm and together:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (each.reshape(*x.shape[:2], -1, config.head_width) for each in (q, k, v))
        if config.qk_norm and not together:
            q, k = self.query_norm(q), self.key_norm(k)
        if config.rope_theta is not None:
            options = (config.rope_theta, config.rotary_width, config.rope_scaling)
            q, k = (rotary(each, positions, *options) for each in (q, k))
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
        self, x: jax.Array, cache: KeyValueCache, new: NewPositions
    ) -> tuple[jax.Array, KeyValueCache]:
        """Attention of N new positions `[B, N, width]` over the cache and over themselves."""
        q, k, v = self._heads(x, new.positions)  # [B, N, H, K], [B, N, G, K]
        cache, keys, values = new.extend(cache, k, v)
        mixed = cached_attention(q, keys, values, new.visible(self.config.mask), new.used)
        return self.output(mixed.reshape(*x.shape[:2], -1)), cache


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """Vectors for the input of every layer, each shared by many positions."""

    vectors: jax.Array  # [B, P, condition_width]
    index: jax.Array  # int32 [B, T], the vector of each position


class TransformerBlock(ResidualBlock):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))` unless it has no MLP.

    With `norm_after` the norms are after attention and MLP, as in OLMo 2 (arXiv 2501.00656).

    With a `condition_width`, a projection of each position's condition is first added to x
    (arXiv 2603.15953).
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.attention_norm = config.build_norm()
        self.attention = SelfAttention(config, rngs=rngs)
        self.build_mlp(config, rngs)
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
        shared: Condition | None = None,
    ) -> jax.Array:
        x = self._conditioned(shard_rows(x), shared)
        mixed = self.attention(self.before(self.attention_norm, x), group_ids, positions)
        return self.add_mlp(x + self.after(self.attention_norm, mixed))

    def _conditioned(self, x: jax.Array, condition: Condition | None) -> jax.Array:
        if condition is None:
            return x
        added = self.condition_output(self.condition_value(condition.vectors))
        return x + take(added, condition.index)

    def init_state(
        self, batch: int, length: int, dtype: jnp.dtype, shared: Condition | None = None
    ) -> KeyValueCache:
        return self.attention.config.empty_cache(batch, length, dtype)

    def extend(
        self, x: jax.Array, state: KeyValueCache, new: NewPositions, shared: Condition | None = None
    ) -> tuple[jax.Array, KeyValueCache]:
        x = self._conditioned(x, shared)
        mixed, state = self.attention.extend(self.before(self.attention_norm, x), state, new)
        return self.add_mlp(x + self.after(self.attention_norm, mixed)), state
