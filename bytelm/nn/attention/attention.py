"""Attention: one function, one structured mask, the best implementation for the hardware.

Shapes: B = rows, T = positions, H = query heads, G = key heads (H a multiple of G; G < H is
grouped-query attention), K = head size, N = new positions, S = entries of a cache.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from bytelm.core.xla import backend
from bytelm.nn.attention.blockwise import FILLER, MASKED, blockwise_attention
from bytelm.nn.attention.kernels import cudnn_attention, cudnn_supports, splash_attention
from bytelm.nn.attention.mask import AttentionMask
from bytelm.nn.mesh import HEAD_AXIS, axis_sizes, on_each_device, sequence_shards
from bytelm.nn.sequence import around, filled

AttentionImplementation = Literal["auto", "reference", "xla", "cudnn", "splash"]
PartSums = tuple[jax.Array, jax.Array, jax.Array]
"""Of one part of the keys, float32 `[B G, M, .]`: each query's greatest score, the sum of its
weights, and the sum of the values times their weights `[B G, M, K]`."""


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

    On a mesh (`jax.set_mesh`), each device computes its rows and heads. Where `sequence` divides
    positions, the devices exchange the keys that a window reaches, or without a window positions
    for heads; if these are too few, each device gets all keys. The softmax is in float32.

    Args:
        q: `[B, T, H, K]`.
        k: `[B, T, G, K]`, G a divisor of H: query head h reads key head h // (H / G).
        v: `[B, T, G, K]`.
        mask: applies within each group.
        group_ids: int32 `[B, T]` in 0 to T, such as document ids; None for one group a row.
            Positions see equal ids only. Padding (id 0) sees padding, so its output and gradient
            are finite.
        implementation: "auto" takes the best for the backend: "splash" on TPU, "cudnn"
            on GPU where cuDNN supports it, "xla" otherwise. "reference" is the plain formula,
            quadratic in memory.

    Returns:
        `[B, T, H, K]` in the dtype of q.
    """
    if mask.window is not None and mask.window >= q.shape[1]:
        mask = replace(mask, window=None)
    exchanges_keys = sequence_shards() > 1 and not (mask.window is None and _divides_heads(k))
    if implementation == "auto":
        implementation = _best_implementation(q, group_ids, mask, exchanges_keys)
    attend = partial(IMPLEMENTATIONS[implementation], mask=mask)
    if exchanges_keys:
        return _with_neighbours(attend, q, k, v, mask, group_ids)
    return on_each_device(attend, (q, k, v), (group_ids,))


def _divides_heads(k: jax.Array) -> bool:
    """Whether the mesh divides heads, here those of keys, over `sequence` too."""
    return k.shape[2] % (axis_sizes().get(HEAD_AXIS, 1) * sequence_shards()) == 0


def _with_neighbours(
    attend: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    group_ids: jax.Array | None,
) -> jax.Array:
    """Each device's queries with its own keys and those of the neighbours that they may see."""
    rows, length = q.shape[:2]
    ids = jnp.zeros((rows, length), jnp.int32) if group_ids is None else group_ids
    q, k, v, ids = filled(q), filled(k), filled(v), filled(ids, FILLER)
    others = q.shape[1] - q.shape[1] // sequence_shards()
    before = others if mask.window is None else min(mask.window - 1, others)
    after = 0 if mask.causal else before

    def local(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        # Where the row has no neighbours, 0 becomes the id that no position has.
        ids = around(ids - FILLER, before, after) + FILLER
        return attend(q, around(k, before, after), around(v, before, after), ids, before=before)

    return on_each_device(local, (q, k, v), (ids,), by_position=True)[:, :length]


def cached_attention(
    q: jax.Array,
    keys: Sequence[jax.Array],
    values: Sequence[jax.Array],
    visible: jax.Array,
    used: jax.Array,
) -> jax.Array:
    """Attention of new positions over a cache that holds the old ones and themselves.

    Parts that begin past the entries in use are not read. To read them would change no bit.

    Args:
        q: `[B, N, H, K]`, N = 1 in the loop of generation.
        keys: the parts of the cache, `[B, G, ., K]` each and S entries together, in any floating
            dtype and any order of positions.
        values: as keys.
        visible: bool `[B, N, S]`, the entries that each query sees; the output of one that sees
            none is finite and meaningless.
        used: int32 scalar; no query sees entries from this one on.

    Returns:
        `[B, N, H, K]` in the dtype of q.
    """
    rows, new, heads, size = q.shape
    groups = keys[0].shape[1]
    queries = q.reshape(rows, new, groups, -1, size).transpose(0, 2, 3, 1, 4)
    queries = queries.reshape(rows * groups, -1, size)  # [B G, M, K], M = (H/G) N

    def read(k: jax.Array, v: jax.Array, visible: jax.Array) -> PartSums:
        return _read_part(queries, k, v, visible)

    def skip(*_: jax.Array) -> PartSums:
        zeros = jnp.zeros(queries.shape, jnp.float32)
        return zeros[..., :1] + MASKED, zeros[..., :1], zeros

    found, start = [], 0
    for k, v in zip(keys, values, strict=True):
        part = k, v, visible[:, :, start : start + k.shape[2]]
        found.append(jax.lax.cond(used > start, read, skip, *part) if start else read(*part))
        start += k.shape[2]
    tops, totals, sums = zip(*found, strict=True)
    top = functools.reduce(jnp.maximum, tops)
    shares = [jnp.exp(each - top) for each in tops]
    out, total = (
        functools.reduce(jnp.add, map(jnp.multiply, shares, parts)) for parts in (sums, totals)
    )
    return (out / total).reshape(rows, heads, new, size).swapaxes(1, 2).astype(q.dtype)


def _read_part(queries: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> PartSums:
    """Attention of queries `[B G, M, K]` over keys and values `[B, G, S, K]`, not normalised."""
    rows, new, entries = visible.shape
    k, v = (x.reshape(-1, *x.shape[2:]) for x in (k, v))  # [B G, S, K]
    if backend() == "cpu":  # it has no bf16 products accumulated in float32
        queries, k, v = (x.astype(jnp.float32) for x in (queries, k, v))
    scores = jnp.einsum("zmk,zsk->zms", queries, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(rows, -1, new, entries) * k.shape[-1] ** -0.5  # [B, H, N, S]
    scores = jnp.where(visible[:, None], scores, MASKED).reshape(*queries.shape[:2], entries)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    sums = jnp.einsum(
        "zms,zsk->zmk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return top, weights.sum(axis=-1, keepdims=True), sums


def _reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group_ids: jax.Array | None,
    mask: AttentionMask,
    before: int = 0,
) -> jax.Array:
    last = before + q.shape[1]
    distance = jnp.arange(before, last)[:, None] - jnp.arange(k.shape[1])[None, :]
    visible = mask.visible(distance)[None]  # [1, T, S]
    if group_ids is not None:
        visible &= group_ids[:, before:last, None] == group_ids[:, None, :]
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    scores = jnp.einsum("bngrk,bsgk->bgrns", grouped, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[3] ** -0.5  # [B, G, H/G, T, S]
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
"""Each may have more keys than queries: `before` of them come before the first query's own, and
`group_ids` are those of the keys."""


def _best_implementation(
    q: jax.Array, group_ids: jax.Array | None, mask: AttentionMask, exchanges_keys: bool
) -> Literal["xla", "cudnn", "splash"]:
    if backend() == "tpu":
        return "splash"
    looks_ahead = mask.window is not None and not mask.causal  # cuDNN's windows only look back
    # It takes as many queries as keys: for all keys of a row those of one device would be too few.
    has_all_keys = exchanges_keys and mask.window is None
    if backend() != "gpu" or looks_ahead or has_all_keys:
        return "xla"
    return "cudnn" if cudnn_supports(q, group_ids, exchanges_keys=exchanges_keys) else "xla"
