"""Blockwise attention in plain XLA: no [T, T] array in memory, forward or backward.

Queries are taken in blocks; each block meets only the keys it can see: a prefix (causal), or the
blocks just behind it (window). The backward pass recomputes the probabilities from the saved
log-sum-exp (FlashAttention-2, Dao 2023, section 3.1), so what lives between the passes is linear
in T. Shapes: N = batch x key heads, T = positions, K = head size, S = keys that a block meets,
C = rows of a block: its positions x the query heads that share the key head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 128
"""Most positions in a block of queries."""
MAX_RUNS = 8
"""Most loops that the blocks are divided into, which bounds compile time at long T."""
MASKED = -1e30
"""Score of a hidden key. Finite: a query that sees no key gets an average, not NaN."""
FILLER = -1
"""Segment id of the positions added to fill the last block: no caller's position has it."""


def blockwise_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    *,
    causal: bool,
    window: int | None,
    scale: float,
) -> jax.Array:
    """Attention with memory linear in T. Arguments and result as in `attention`."""
    batch, length, heads, size = q.shape
    groups, sharing = k.shape[2], heads // k.shape[2]
    blocks = -(-length // BLOCK)
    block = length if blocks == 1 else 8 * -(-length // (8 * blocks))
    filler = blocks * block - length
    if filler and segment_ids is None and not causal:
        segment_ids = jnp.zeros((batch, length), jnp.int32)
    if segment_ids is not None:
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, filler)), constant_values=FILLER)
        segment_ids = jnp.repeat(segment_ids, groups, axis=0)
    q, k, v = (jnp.pad(x, ((0, 0), (0, filler), (0, 0), (0, 0))) for x in (q, k, v))
    q = q.reshape(batch, blocks, block, groups, sharing, size).transpose(0, 3, 1, 2, 4, 5)
    q = q.reshape(batch * groups, blocks, block * sharing, size)
    k, v = (x.transpose(0, 2, 1, 3).reshape(batch * groups, -1, size) for x in (k, v))
    out = _attend(_Plan(blocks, block, causal, window, scale), q, k, v, segment_ids)
    out = out.reshape(batch, groups, blocks, block, sharing, size).transpose(0, 2, 3, 1, 4, 5)
    return out.reshape(batch, blocks * block, heads, size)[:, :length]


@dataclass(frozen=True)
class _Run:
    """The query blocks `first` to `last - 1`, each of which meets `keys` blocks of keys."""

    first: int
    last: int
    keys: int


@dataclass(frozen=True)
class _Plan:
    """The static structure of one call: which keys each block of queries meets."""

    blocks: int
    block: int
    causal: bool
    window: int | None
    scale: float

    def runs(self) -> list[_Run]:
        if not self.causal:
            return [_Run(0, self.blocks, self.blocks)]
        reach = self.blocks if self.window is None else 1 + -(-(self.window - 1) // self.block)
        count = min(self.blocks, MAX_RUNS)
        runs: dict[int, _Run] = {}
        for run in range(count):
            first, last = self.blocks * run // count, self.blocks * (run + 1) // count
            keys = min(reach, last)
            runs[keys] = _Run(runs[keys].first if keys in runs else first, last, keys)
        return list(runs.values())

    def visible(
        self, index: jax.Array, start: jax.Array, count: int, segment_ids: jax.Array | None
    ) -> jax.Array:
        """Which of `count` keys from `start` block `index` sees: bool `[block, 1, count]`."""
        shape = (self.block, 1, count)
        distance = index * self.block - start
        distance += lax.broadcasted_iota(jnp.int32, shape, 0)
        distance -= lax.broadcasted_iota(jnp.int32, shape, 2)
        visible = (distance >= 0) if self.causal else jnp.ones(shape, bool)
        if self.window is not None:
            visible &= distance < self.window
        if segment_ids is not None:
            of_queries = lax.dynamic_slice_in_dim(segment_ids, index * self.block, self.block)
            of_keys = lax.dynamic_slice_in_dim(segment_ids, start, count)
            visible &= of_queries[:, None, None] == of_keys[None, None, :]
        return visible

    def scores(self, q: jax.Array, k: jax.Array, visible: jax.Array) -> jax.Array:
        """q `[C, K]`, k `[S, K]` -> scaled scores, fp32 `[C, S]`."""
        scores = _dot(q, k, (1, 1)) * self.scale
        shape = (visible.shape[0], -1, visible.shape[2])
        return jnp.where(visible, scores.reshape(shape), MASKED).reshape(scores.shape)

    def scan(self, step: Callable, carry: Any, arrays: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        """Runs `step(carry, index, start, count, *blocks) -> carry, outputs` over all blocks."""
        pieces = []
        for run in self.runs():

            def body(carry: Any, block: tuple[jax.Array, ...], run: _Run = run) -> tuple[Any, Any]:
                start = jnp.maximum(block[0] + 1 - run.keys, 0) * self.block
                return step(carry, block[0], start, run.keys * self.block, *block[1:])

            indices = jnp.arange(run.first, run.last)
            carry, outputs = lax.scan(
                body, carry, (indices, *(x[run.first : run.last] for x in arrays))
            )
            pieces.append(outputs)
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)


def _each_head(function: Callable, *arrays: jax.Array | None) -> tuple[jax.Array, ...]:
    """Maps over the leading axis: in turn on CPU, whose caches hold one head's block of scores."""
    if jax.default_backend() == "cpu":
        return lax.map(lambda slices: function(*slices), arrays)
    return jax.vmap(function)(*arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None
) -> jax.Array:
    """q `[N, blocks, C, K]`, k and v `[N, T, K]`, segment_ids int32 `[N, T]` -> as q."""
    return _each_head(partial(_forward, plan), q, k, v, segment_ids)[0]


def _attend_forward(
    plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    out, log_sum = _each_head(partial(_forward, plan), q, k, v, segment_ids)
    return out, (q, k, v, segment_ids, out, log_sum)


def _attend_backward(
    plan: _Plan, residuals: tuple[jax.Array | None, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    return *_each_head(partial(_backward, plan), *residuals, gradient), None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(
    plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """One head: the output, as q, and the log-sum-exp of the scores, fp32 `[blocks, C, 1]`."""

    def step(_: None, index: jax.Array, start: jax.Array, count: int, q: jax.Array):
        keys, values = (lax.dynamic_slice_in_dim(x, start, count) for x in (k, v))
        scores = plan.scores(q, keys, plan.visible(index, start, count, segment_ids))
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        out = _dot(weights.astype(v.dtype), values, (1, 0)) / total
        return None, (out.astype(q.dtype), top + jnp.log(total))

    return plan.scan(step, None, (q,))[1]


def _backward(
    plan: _Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    out: jax.Array,
    log_sum: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One head: the gradients of q, k and v from that of the output."""

    def step(totals, index, start, count, q, out, log_sum, gradient):
        keys, values = (lax.dynamic_slice_in_dim(x, start, count) for x in (k, v))
        scores = plan.scores(q, keys, plan.visible(index, start, count, segment_ids))
        weights = jnp.exp(scores - log_sum)
        shift = (out.astype(jnp.float32) * gradient).sum(axis=-1, keepdims=True)
        d_scores = weights * (_dot(gradient, values, (1, 1)) - shift) * plan.scale
        d_scores = d_scores.astype(q.dtype)
        parts = _dot(d_scores, q, (0, 0)), _dot(weights.astype(q.dtype), gradient, (0, 0))
        totals = tuple(_add_at(t, part, start) for t, part in zip(totals, parts, strict=True))
        return totals, _dot(d_scores, keys, (1, 0)).astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (dk, dv), dq = plan.scan(step, zeros, (q, out, log_sum, gradient))
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)


def _add_at(total: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    before = lax.dynamic_slice_in_dim(total, start, part.shape[0])
    return lax.dynamic_update_slice_in_dim(total, before + part, start, axis=0)


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Matrix product over one axis of each, accumulated in fp32."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
