"""Blockwise attention in plain XLA: no [T, T] array in memory, forward or backward.

A block of queries meets only the keys that it can see: a prefix (causal) or a window. The backward
pass recomputes the weights from the stored log-sum-exp (FlashAttention-2, Dao 2023, section 3.1),
so the memory between the passes is linear in T.

Shapes: B = rows, G = key heads, T = positions, K = head size, S = keys that a block meets,
C = queries of a block: its positions x the query heads that share the key head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from bytelm.core.xla import backend
from bytelm.nn.attention.mask import AttentionMask
from bytelm.nn.linear import matrix_product

KEPT = "attention"
"""Name of the results that the backward pass need not compute again (`bytelm.nn.stack`)."""
BLOCK = 128
"""Most positions in a block of queries."""
ALIGNMENT = 8
"""With a window, the keys before a block are a multiple of this."""
MAX_RUNS = 8
"""Most loops over blocks, which bounds compile time for long rows."""
CACHED_SCORES = 2**21
"""Scores of a block of queries, over rows and heads, that fit into a CPU's caches."""
FEW_ROWS = 8
"""Fewer rows at a time than this, unless they are all, are no faster on CPU than single heads."""
MASKED = -1e30
"""Added to the score of a hidden key. Finite: a query that sees no key gets a mean, not NaN."""
FILLER = -1
"""Group id of the positions that fill the last block; no caller's position has it."""


def blockwise_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group_ids: jax.Array | None,
    mask: AttentionMask,
    before: int = 0,
) -> jax.Array:
    """Attention with memory linear in T. Arguments and result as in `attention`.

    There may be more keys than queries: `before` of them come before the first query's own.
    """
    batch, length, heads, size = q.shape
    groups, sharing = k.shape[2], heads // k.shape[2]
    blocks = -(-length // BLOCK)
    block = length if blocks == 1 else 8 * -(-length // (8 * blocks))
    q, k, v, group_ids = fill_last_block(block, q, k, v, group_ids, mask, before)
    q = q.reshape(batch, blocks, block, groups, sharing, size).transpose(0, 3, 1, 2, 4, 5)
    q = q.reshape(batch, groups, blocks, block * sharing, size)  # [B, G, blocks, C, K]
    k, v_t = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 3, 1)  # [B, G, S, K], [B, G, K, S]
    plan = _Plan(blocks, block, sharing, mask, size**-0.5, before, k.shape[2])
    out = _attend(plan, group_ids, q, k, v_t)
    out = out.reshape(batch, groups, blocks, block, sharing, size).transpose(0, 2, 3, 1, 4, 5)
    return out.reshape(batch, blocks * block, heads, size)[:, :length]


def fill_last_block(
    block: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group_ids: jax.Array | None,
    mask: AttentionMask,
    before: int = 0,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Pads T to a multiple of `block` with positions that no other position sees."""
    batch, length = q.shape[:2]
    filler = -length % block
    more = max(0, before + length + filler - k.shape[1])  # keys, of which some come after T
    if more and group_ids is None and not mask.causal:
        group_ids = jnp.zeros((batch, k.shape[1]), jnp.int32)
    if group_ids is not None:
        group_ids = jnp.pad(group_ids, ((0, 0), (0, more)), constant_values=FILLER)
    q = jnp.pad(q, ((0, 0), (0, filler), (0, 0), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (k, v))
    return q, k, v, group_ids


@dataclass(frozen=True)
class _Run:
    """The query blocks `first` to `last - 1`, which share one loop."""

    first: int
    last: int
    keys: int  # that each block meets
    before: int  # most of these before the block's own positions


@dataclass(frozen=True)
class _Plan:
    """The static structure of one call: which keys each block of queries meets."""

    blocks: int
    block: int
    sharing: int
    mask: AttentionMask
    scale: float
    before: int  # keys before the first query's own
    keys: int  # in all

    def runs(self) -> list[_Run]:
        """The blocks in order, divided into runs."""
        length, window = self.keys, self.mask.window
        before = length if window is None else ALIGNMENT * -(-(window - 1) // ALIGNMENT)
        if not self.mask.causal:
            return [_Run(0, self.blocks, min(self.block + 2 * before, length), before)]
        # Fewer, where most keys come before all queries and blocks hardly differ.
        count = max(1, min(self.blocks, MAX_RUNS * self.blocks * self.block // length))
        runs: dict[int, _Run] = {}
        for run in range(count):
            first, last = self.blocks * run // count, self.blocks * (run + 1) // count
            keys = min(self.block + before, self.before + last * self.block)
            first = runs[keys].first if keys in runs else first
            runs[keys] = _Run(first, last, keys, keys - self.block)
        return list(runs.values())

    def rows_together(self, rows: int, heads: int) -> int | None:
        """How many rows to take at a time, with all their heads; None for one head at a time."""
        if backend() != "cpu":
            return rows
        row_scores = heads * self.block * max(run.keys for run in self.runs())
        for together in range(rows, 0, -1):
            if rows % together == 0 and together * row_scores <= CACHED_SCORES:
                return together if together == rows or together >= FEW_ROWS else None
        return None

    def scan(
        self, step: Callable, carry: Any, zero: jax.Array, arrays: tuple[jax.Array, ...]
    ) -> tuple[Any, Any]:
        """Runs `step(carry, index, start, count, *blocks) -> carry, outputs` over all blocks.

        Block `index` meets `count` keys from key `start` on; `zero` is from `zero_of`.
        """
        outputs_of_runs = []
        for run in self.runs():

            def body(carry: Any, block: tuple[jax.Array, ...], run: _Run = run) -> tuple[Any, Any]:
                index, last_start = block[0] + zero, self.keys - run.keys
                own = self.before + index * self.block
                start = jnp.clip(own - run.before, 0, last_start)
                return step(carry, index, start, run.keys, *block[1:])

            if run.last == run.first + 1:  # without a loop: faster to trace and to compile
                carry, outputs = body(
                    carry, (jnp.int32(run.first), *(x[run.first] for x in arrays))
                )
                outputs = jax.tree.map(lambda x: x[None], outputs)
            else:
                indices = jnp.arange(run.first, run.last)
                blocks = (indices, *(x[run.first : run.last] for x in arrays))
                carry, outputs = lax.scan(body, carry, blocks)
            outputs_of_runs.append(outputs)
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs_of_runs)

    def scores(
        self,
        q: jax.Array,
        keys: jax.Array,
        group_ids: jax.Array | None,
        index: jax.Array,
        start: jax.Array,
    ) -> jax.Array:
        """Scaled and masked scores float32 `[S, C]` of q `[C, K]` and keys `[S, K]`.

        Keys come first because XLA:CPU's products and reductions are faster that way.
        """
        positions = lax.iota(jnp.int32, q.shape[0]) // self.sharing  # [C]
        offsets = lax.iota(jnp.int32, keys.shape[0])  # [S]
        own = self.before + index * self.block
        distance = (own - start + positions)[None, :] - offsets[:, None]  # [S, C]
        visible = self.mask.visible(distance)
        if group_ids is not None:
            query_groups = lax.dynamic_slice_in_dim(group_ids, own, self.block)
            key_groups = lax.dynamic_slice_in_dim(group_ids, start, keys.shape[0])
            visible &= jnp.repeat(query_groups, self.sharing)[None, :] == key_groups[:, None]
        return matrix_product(keys, q, (1, 1)) * self.scale + jnp.where(visible, 0.0, MASKED)


def zero_of(q: jax.Array) -> jax.Array:
    """Returns an int32 0 that appears to depend on the queries.

    `jax.grad` of a scan over layers hoists everything that does not depend on the layer, such as
    masks and biases, and stores it for all blocks: [T, T]. This false dependency keeps it inside.
    """
    return lax.optimization_barrier((jnp.int32(0), q.ravel()[0]))[0]


def _each_head(
    function: Callable, plan: _Plan, group_ids: jax.Array | None, *arrays: jax.Array
) -> tuple[jax.Array, ...]:
    """Maps `function(plan, zero, group_ids [S], *arrays [...])` over rows and key heads.

    These are the first two axes of the arrays. On CPU, only as many are taken at a time as its
    caches hold scores for.
    """
    rows, groups = arrays[0].shape[:2]
    function = partial(function, plan, zero_of(arrays[0]))
    heads = jax.vmap(function, (None, *(0 for _ in arrays)))
    together = plan.rows_together(rows, groups * plan.sharing)
    if together == rows:
        return jax.vmap(heads)(group_ids, *arrays)
    if together:
        return lax.map(lambda x: heads(x[0], *x[1]), (group_ids, arrays), batch_size=together)

    def row(index: jax.Array) -> tuple[jax.Array, ...]:
        # The mask is computed once for all heads of a row. Heads are indexed directly: taking the
        # row first would copy it.
        ids = None if group_ids is None else group_ids[index]
        return lax.map(
            lambda head: function(ids, *(x[index, head] for x in arrays)), jnp.arange(groups)
        )

    return lax.map(row, jnp.arange(rows))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Plan, group_ids: jax.Array | None, *arrays: jax.Array) -> jax.Array:
    """Output as q; ids `[B, S]`, q `[B, G, blocks, C, K]`, k `[B, G, S, K]`, v_t `[B, G, K, S]`."""
    return _each_head(_forward, plan, group_ids, *arrays)[0]


def _attend_forward(
    plan: _Plan, group_ids: jax.Array | None, *arrays: jax.Array
) -> tuple[jax.Array, tuple[Any, ...]]:
    outputs = _each_head(_forward, plan, group_ids, *arrays)
    outputs = tuple(checkpoint_name(x, KEPT) for x in outputs)
    return outputs[0], (group_ids, *arrays, *outputs)


def _attend_backward(
    plan: _Plan, residuals: tuple[Any, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    group_ids, q, k, v_t, *others = residuals
    k_t, v = k.swapaxes(2, 3), v_t.swapaxes(2, 3)
    dq_t, dk, dv = _each_head(_backward, plan, group_ids, q, k, k_t, v, *others, gradient)
    return None, dq_t.swapaxes(3, 4), dk, dv.swapaxes(2, 3)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(
    plan: _Plan,
    zero: jax.Array,
    group_ids: jax.Array | None,
    q: jax.Array,
    k: jax.Array,
    v_t: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One key head: the output, as q, and the log-sum-exp of the scores, float32 `[blocks, C]`."""

    def step(
        _: None, index: jax.Array, start: jax.Array, count: int, q: jax.Array
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        keys = lax.dynamic_slice_in_dim(k, start, count)
        values_t = lax.dynamic_slice_in_dim(v_t, start, count, axis=1)
        scores = plan.scores(q, keys, group_ids, index, start)
        out, top, total = weighted_values(scores, values_t)
        return None, (out.astype(q.dtype), top + jnp.log(total))

    return plan.scan(step, None, zero, (q,))[1]


def _backward(
    plan: _Plan, zero: jax.Array, group_ids: jax.Array | None, *arrays: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One key head: the gradients of q (`[blocks, K, C]`), k and v from that of the output."""
    q, k, k_t, v, out, log_sum, gradient = arrays

    def step(
        totals: Any, index: jax.Array, start: jax.Array, count: int, *block: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        q, out, log_sum, gradient = block
        keys, values = (lax.dynamic_slice_in_dim(x, start, count) for x in (k, v))
        keys_t = lax.dynamic_slice_in_dim(k_t, start, count, axis=1)
        weights = jnp.exp(plan.scores(q, keys, group_ids, index, start) - log_sum[None, :])
        d_scores = score_gradient(weights, values, out, gradient)
        d_scores = (d_scores * plan.scale).astype(q.dtype)
        d_keys = matrix_product(d_scores, q, (1, 0))
        d_values = matrix_product(weights.astype(q.dtype), gradient, (1, 0))
        totals = _add_at(totals[0], start, d_keys), _add_at(totals[1], start, d_values)
        return totals, matrix_product(keys_t, d_scores, (1, 0)).astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    (dk, dv), dq_t = plan.scan(step, (zeros, zeros), zero, (q, out, log_sum, gradient))
    return dq_t, dk.astype(k.dtype), dv.astype(v.dtype)


def weighted_values(
    scores: jax.Array, v_t: jax.Array, *, softmax1: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Softmax over keys, and the values' weighted means, for one block of queries.

    The product with transposed values is twice as fast on CPU.

    Args:
        scores: float32 `[S, C]`.
        v_t: `[K, S]`.
        softmax1: whether weights may sum to less than 1: `exp(x) / (1 + sum exp(x))`.

    Returns:
        float32 means `[C, K]`, and each query's largest score and sum of weights, `[C]`.
    """
    top = scores.max(axis=0)
    top = jnp.maximum(top, 0.0) if softmax1 else top
    weights = jnp.exp(scores - top[None, :])
    total = weights.sum(axis=0)
    total = total + jnp.exp(-top) if softmax1 else total
    out = matrix_product(v_t, weights.astype(v_t.dtype), (1, 0)) / total[None, :]
    return out.T, top, total


def score_gradient(
    weights: jax.Array, v: jax.Array, out: jax.Array, gradient: jax.Array
) -> jax.Array:
    """The gradient of the scores `[S, C]`, from that of the output `[C, K]`, float32."""
    shift = (out.astype(jnp.float32) * gradient).sum(axis=-1)
    return weights * (matrix_product(v, gradient, (1, 1)) - shift[None, :])


def _add_at(total: jax.Array, start: jax.Array, part: jax.Array) -> jax.Array:
    before = lax.dynamic_slice_in_dim(total, start, part.shape[0])
    return lax.dynamic_update_slice_in_dim(total, before + part, start, axis=0)
