"""Attention: one function, one structured mask, the best implementation for the hardware.

Shapes: B = rows, T = positions, H = query heads, G = key heads (H a multiple of G; G < H is
grouped-query attention), K = head size, N = new positions, S = entries of a cache.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from bytelm.nn.attention.blockwise import MASKED, blockwise_attention
from bytelm.nn.attention.kernels import cudnn_attention, cudnn_supports, splash_attention
from bytelm.nn.attention.mask import AttentionMask
from bytelm.nn.mesh import on_each_device

AttentionImplementation = Literal["auto", "reference", "xla", "cudnn", "splash"]


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    group_ids: jax.Array | None = None,
    *,
    implementation: AttentionImplementation = "auto",
) -> jax.Array:
    """Softmax attention of every position over those that it may see; scores are q k / sqrt(K).

    On a mesh (`jax.set_mesh`), each device computes its rows and heads. The softmax is in float32.

    Args:
        q: `[B, T, H, K]`.
        k: `[B, T, G, K]`, G a divisor of H: query head h reads key head h // (H / G).
        v: `[B, T, G, K]`.
        mask: applies within each group.
        group_ids: int32 `[B, T]` in 0 to T, such as document ids; None for one group a row.
            Positions see equal ids only. Padding (id 0) sees padding, so its output and gradient
            are finite.
        implementation: "auto" takes the best for `jax.default_backend()`: "splash" on TPU, "cudnn"
            on GPU where cuDNN supports it, "xla" otherwise. Name one to compile for another
            backend than this host's. "reference" is the plain formula, quadratic in memory.

    Returns:
        `[B, T, H, K]` in the dtype of q.
    """
    if implementation == "auto":
        implementation = _best_implementation(q, group_ids, mask)
    if mask.window is not None and mask.window >= q.shape[1]:
        mask = replace(mask, window=None)
    attend = partial(IMPLEMENTATIONS[implementation], mask=mask)
    return on_each_device(attend, (q, k, v), (group_ids,))


def cached_attention(
    q: jax.Array, k_cache: jax.Array, v_cache: jax.Array, visible: jax.Array
) -> jax.Array:
    """Attention of new positions over a cache that holds the old ones and themselves.

    Args:
        q: `[B, N, H, K]`, N = 1 in the loop of generation.
        k_cache: `[B, G, S, K]` in any floating dtype, in any order of positions.
        v_cache: `[B, G, S, K]`.
        visible: bool `[B, N, S]`, the entries that each query sees; the output of one that sees
            none is finite and meaningless.

    Returns:
        `[B, N, H, K]` in the dtype of q.
    """
    rows, new, heads, size = q.shape
    groups, entries = k_cache.shape[1:3]
    dtype = q.dtype
    if jax.default_backend() == "cpu":  # it has no bf16 products accumulated in float32
        q, k_cache, v_cache = (x.astype(jnp.float32) for x in (q, k_cache, v_cache))
    queries = q.reshape(rows, new, groups, -1, size).transpose(0, 2, 4, 3, 1)
    queries = queries.reshape(rows * groups, size, -1)  # [B G, K, (H/G) N]
    k_cache, v_cache = (x.reshape(rows * groups, entries, size) for x in (k_cache, v_cache))
    scores = jnp.einsum("zsk,zkm->zsm", k_cache, queries, preferred_element_type=jnp.float32)
    scores = scores.swapaxes(1, 2).reshape(rows, -1, new, entries)  # [B, H, N, S]
    scores = jnp.where(visible[:, None], scores * size**-0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1)
    weights = weights.astype(v_cache.dtype).reshape(rows * groups, -1, entries)
    out = jnp.einsum("zms,zsk->zmk", weights, v_cache, preferred_element_type=jnp.float32)
    out = out.reshape(rows, heads, new, size).swapaxes(1, 2)
    return out.astype(dtype)


def _reference(
    q: jax.Array, k: jax.Array, v: jax.Array, group_ids: jax.Array | None, mask: AttentionMask
) -> jax.Array:
    positions = jnp.arange(q.shape[1])
    visible = mask.visible(positions[:, None] - positions[None, :])[None]  # [1, T, T]
    if group_ids is not None:
        visible &= group_ids[:, :, None] == group_ids[:, None, :]
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    scores = jnp.einsum("bngrk,bsgk->bgrns", grouped, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[3] ** -0.5  # [B, G, H/G, T, T]
    scores = jnp.where(visible[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgrns,bsgk->bngrk", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(q.shape).astype(q.dtype)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "reference": _reference,
    "xla": blockwise_attention,
    "cudnn": cudnn_attention,
    "splash": splash_attention,
}


def _best_implementation(
    q: jax.Array, group_ids: jax.Array | None, mask: AttentionMask
) -> Literal["xla", "cudnn", "splash"]:
    backend = jax.default_backend()
    if backend == "tpu":
        return "splash"
    looks_ahead = mask.window is not None and not mask.causal  # cuDNN's windows only look back
    supported = backend == "gpu" and not looks_ahead and cudnn_supports(q, group_ids)
    return "cudnn" if supported else "xla"
