"""Attention: one function, one structured mask, and the fastest implementation for the hardware.

Shapes: B = rows, T = positions, H = query heads, G = key heads (H a multiple of G; G < H is
grouped-query attention), K = head size, N = new positions, S = slots of a cache.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from bytelm.errors import UserError
from bytelm.layers.attention_xla import MASKED, blockwise_attention

AttentionImplementation = Literal["auto", "reference", "xla", "cudnn", "triton", "splash"]


@dataclass(frozen=True)
class AttentionMask:
    """What a position may see, apart from documents. Static and hashable."""

    causal: bool = True
    """Whether a position sees only itself and what comes before it."""
    window: int | None = None
    """How many positions a position sees, itself the last of them; None for all."""

    def __post_init__(self) -> None:
        if self.window is not None and (self.window < 1 or not self.causal):
            raise UserError(
                f"the attention window is {self.window} with causal={self.causal}: "
                "set at least 1, and only with causal attention"
            )


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    segment_ids: jax.Array | None = None,
    *,
    implementation: AttentionImplementation = "auto",
    scale: float | None = None,
) -> jax.Array:
    """Softmax attention of each position over the positions that it may see."""
    batch, length, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale
    window = None if mask.window is None or mask.window >= length else mask.window
    if implementation == "auto":
        implementation = "xla"
    if implementation == "reference":
        return _reference(q, k, v, segment_ids, causal=mask.causal, window=window, scale=scale)
    return blockwise_attention(
        q, k, v, segment_ids, causal=mask.causal, window=window, scale=scale
    )


def _reference(q, k, v, segment_ids, *, causal, window, scale):
    length = q.shape[1]
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    visible = (distance >= 0) if causal else jnp.ones_like(distance, bool)
    if window is not None:
        visible &= distance < window
    visible = visible[None]
    if segment_ids is not None:
        visible &= segment_ids[:, :, None] == segment_ids[:, None, :]
    return _masked_attention(q, k, v, visible, scale)


def cached_attention(
    q: jax.Array,
    k_cache: jax.Array,
    v_cache: jax.Array,
    query_positions: jax.Array,
    key_positions: jax.Array,
    mask: AttentionMask,
    *,
    scale: float | None = None,
) -> jax.Array:
    """Attention of new positions over a cache that already holds them."""
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    visible = (distance >= 0) & (key_positions >= 0)[:, None, :]
    if mask.window is not None:
        visible &= distance < mask.window
    return _masked_attention(q, k_cache, v_cache, visible, scale or q.shape[-1] ** -0.5)


def _masked_attention(q, k, v, visible, scale):
    """q `[B, N, H, K]`, k and v `[B, S, G, K]`, visible bool `[B or 1, N, S]` -> as q."""
    batch, new, heads, size = q.shape
    q = q.reshape(batch, new, k.shape[2], -1, size)
    scores = jnp.einsum("bngrk,bsgk->bgrns", q, k, preferred_element_type=jnp.float32) * scale
    scores = jnp.where(visible[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgrns,bsgk->bngrk", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(batch, new, heads, size).astype(q.dtype)
