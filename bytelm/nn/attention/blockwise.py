"""Blockwise attention in plain XLA: no [T, T] array in memory, forward or backward.

Queries are taken in blocks; each block meets only the keys it can see: a prefix (causal), or those
of its window. The backward pass recomputes the probabilities from the saved
log-sum-exp (FlashAttention-2, Dao 2023, section 3.1), so what lives between the passes is linear
in T. Shapes: B = rows, G = key heads, T = positions, K = head size, S = keys that a block meets,
C = queries of a block: its positions x the query heads that share the key head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bytelm.nn.linear import matrix_product

BLOCK = 128
"""Most positions in a block of queries."""
ALIGNMENT = 8
"""The keys behind a block, of a window, are a multiple of so many."""
MAX_RUNS = 8
"""Most loops that the blocks are divided into, which bounds compile time at long T."""
CACHED_SCORES = 2**21
"""Scores of a block of queries, over rows and heads, that a CPU's caches hold."""
FEW_ROWS = 8
"""Fewer rows at a time than this are no faster on CPU than head after head, unless they are all."""
MASKED = -1e30
"""Added to the score of a hidden key. Finite: a query that sees no key gets a mean, not NaN."""
FILLER = -1
"""Segment id of the positions added to fill the last block: no caller's position has it."""


def blockwise_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group_ids: jax.Array | None,
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
    q, k, v, group_ids = fill_last_block(block, q, k, v, group_ids, causal=causal)
    q = q.reshape(batch, blocks, block, groups, sharing, size).transpose(0, 3, 1, 2, 4, 5)
    q = q.reshape(batch, groups, blocks, block * sharing, size)
    k, v_t = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 3, 1)
    out = _attend(_Plan(blocks, block, sharing, causal, window, scale), q, k, v_t, group_ids)
    out = out.reshape(batch, groups, blocks, block, sharing, size).transpose(0, 2, 3, 1, 4, 5)
    return out.reshape(batch, blocks * block, heads, size)[:, :length]


def fill_last_block(
    block: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group_ids: jax.Array | None,
    *,
    causal: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Lengthens T to a multiple of `block`, by positions that no other position sees."""
    batch, length = q.shape[:2]
    filler = -length % block
    if filler and group_ids is None and not causal:
        group_ids = jnp.zeros((batch, length), jnp.int32)
    if group_ids is not None:
        group_ids = jnp.pad(group_ids, ((0, 0), (0, filler)), constant_values=FILLER)
    q, k, v = (jnp.pad(x, ((0, 0), (0, filler), (0, 0), (0, 0))) for x in (q, k, v))
    return q, k, v, group_ids


@dataclass(frozen=True)
class _Run:
    """The query blocks `first` to `last - 1`.

    Each meets `keys` keys, of which `behind` come before its own positions, as far as there are.
    """

    first: int
    last: int
    keys: int
    behind: int


@dataclass(frozen=True)
class _Plan:
    """The static structure of one call: which keys each block of queries meets."""

    blocks: int
    block: int
    sharing: int
    causal: bool
    window: int | None
    scale: float

    def runs(self) -> list[_Run]:
        """The blocks in order, divided into runs that each become one loop."""
        length = self.blocks * self.block
        behind = length if self.window is None else ALIGNMENT * -(-(self.window - 1) // ALIGNMENT)
        if not self.causal:
            return [_Run(0, self.blocks, min(self.block + 2 * behind, length), behind)]
        count = min(self.blocks, MAX_RUNS)
        runs: dict[int, _Run] = {}
        for run in range(count):
            first, last = self.blocks * run // count, self.blocks * (run + 1) // count
            keys = min(self.block + behind, last * self.block)
            first = runs[keys].first if keys in runs else first
            runs[keys] = _Run(first, last, keys, keys - self.block)
        return list(runs.values())

    def rows_together(self, rows: int, heads: int) -> int | None:
        """How many rows are taken at a time, with all their heads; None for head after head."""
        if jax.default_backend() != "cpu":
            return rows
        of_row = heads * self.block * max(run.keys for run in self.runs())
        for together in range(rows, 0, -1):
            if rows % together == 0 and together * of_row <= CACHED_SCORES:
                return together if together == rows or together >= FEW_ROWS else None
        return None

    def scan(
        self, step: Callable, carry: Any, zero: jax.Array, arrays: tuple[jax.Array, ...]
    ) -> tuple[Any, Any]:
        """Runs `step(carry, index, start, count, *blocks) -> carry, outputs` over all blocks.

        `index` is the block's, which meets `count` keys from key `start`; `zero` is `zero_of` q.
        """
        pieces = []
        for run in self.runs():

            def body(carry: Any, block: tuple[jax.Array, ...], run: _Run = run) -> tuple[Any, Any]:
                index, last_start = block[0] + zero, self.blocks * self.block - run.keys
                start = jnp.clip(index * self.block - run.behind, 0, last_start)
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
            pieces.append(outputs)
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)

    def scores(
        self,
        q: jax.Array,
        keys: jax.Array,
        group_ids: jax.Array | None,
        index: jax.Array,
        start: jax.Array,
    ) -> jax.Array:
        """From q `[C, K]` and keys `[S, K]` to scaled and masked scores, fp32 `[S, C]`.

        Keys come first, because XLA's CPU matrix products and reductions are then the fast ones.
        """
        positions = lax.iota(jnp.int32, q.shape[0]) // self.sharing
        offsets = lax.iota(jnp.int32, keys.shape[0])
        distance = (index * self.block - start + positions)[None, :] - offsets[:, None]
        visible = (distance >= 0) if self.causal else jnp.ones_like(distance, bool)
        if self.window is not None:
            visible &= jnp.abs(distance) < self.window
        if group_ids is not None:
            of_queries = lax.dynamic_slice_in_dim(group_ids, index * self.block, self.block)
            of_keys = lax.dynamic_slice_in_dim(group_ids, start, keys.shape[0])
            visible &= jnp.repeat(of_queries, self.sharing)[None, :] == of_keys[:, None]
        return matrix_product(keys, q, (1, 1)) * self.scale + jnp.where(visible, 0.0, MASKED)


def zero_of(q: jax.Array) -> jax.Array:
    """An int32 0 that seems to depend on the queries.

    What does not depend on a layer, as masks and biases, `jax.grad` of a scan over layers would
    make once for all layers and keep, for all blocks: arrays of [T, T].
    """
    return lax.optimization_barrier((jnp.int32(0), q.ravel()[0]))[0]


def _each_head(
    function: Callable, plan: _Plan, group_ids: jax.Array | None, *arrays: jax.Array
) -> tuple[jax.Array, ...]:
    """Maps `function(plan, zero, group_ids [T], *arrays [...])` over rows and key heads.

    These lead in the arrays. CPU takes no more at a time than its caches hold the scores of.
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
        # The mask is made once for all heads of a row; heads are read where they lie, without a
        # copy of the row before that of the head.
        ids = None if group_ids is None else group_ids[index]
        return lax.map(
            lambda head: function(ids, *(x[index, head] for x in arrays)), jnp.arange(groups)
        )

    return lax.map(row, jnp.arange(rows))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: _Plan, q: jax.Array, k: jax.Array, v_t: jax.Array, group_ids: jax.Array | None
) -> jax.Array:
    """Takes q `[B, G, blocks, C, K]`, k `[B, G, T, K]`, v `[B, G, K, T]`, ids `[B, T]`.

    Returns as q.
    """
    return _each_head(_forward, plan, group_ids, q, k, v_t)[0]


def _attend_forward(
    plan: _Plan, q: jax.Array, k: jax.Array, v_t: jax.Array, group_ids: jax.Array | None
) -> tuple[jax.Array, tuple[Any, ...]]:
    out, log_sum = _each_head(_forward, plan, group_ids, q, k, v_t)
    return out, (group_ids, q, k, v_t, out, log_sum)


def _attend_backward(
    plan: _Plan, residuals: tuple[Any, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    group_ids, q, k, v_t, *others = residuals
    k_t, v = k.swapaxes(2, 3), v_t.swapaxes(2, 3)
    dq_t, dk, dv = _each_head(_backward, plan, group_ids, q, k, k_t, v, *others, gradient)
    return dq_t.swapaxes(3, 4), dk, dv.swapaxes(2, 3), None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(
    plan: _Plan,
    zero: jax.Array,
    group_ids: jax.Array | None,
    q: jax.Array,
    k: jax.Array,
    v_t: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One key head: the output, as q, and the log-sum-exp of the scores, fp32 `[blocks, C]`.

    A transposed operand `[., S]` (`v_t`, in the backward pass `k_t`) makes the product with it
    twice as fast on CPU.
    """

    def step(
        _: None, index: jax.Array, start: jax.Array, count: int, q: jax.Array
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        keys = lax.dynamic_slice_in_dim(k, start, count)
        values_t = lax.dynamic_slice_in_dim(v_t, start, count, axis=1)
        scores = plan.scores(q, keys, group_ids, index, start)
        top = scores.max(axis=0)
        weights = jnp.exp(scores - top[None, :])
        total = weights.sum(axis=0)
        out = matrix_product(values_t, weights.astype(v_t.dtype), (1, 0)) / total[None, :]
        return None, (out.T.astype(q.dtype), top + jnp.log(total))

    return plan.scan(step, None, zero, (q,))[1]


def _backward(
    plan: _Plan,
    zero: jax.Array,
    group_ids: jax.Array | None,
    q: jax.Array,
    k: jax.Array,
    k_t: jax.Array,
    v: jax.Array,
    out: jax.Array,
    log_sum: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One key head: the gradients of q (`[blocks, K, C]`), k and v from that of the output."""

    def step(
        totals: tuple[jax.Array, jax.Array],
        index: jax.Array,
        start: jax.Array,
        count: int,
        q: jax.Array,
        out: jax.Array,
        log_sum: jax.Array,
        gradient: jax.Array,
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        keys, values = (lax.dynamic_slice_in_dim(x, start, count) for x in (k, v))
        keys_t = lax.dynamic_slice_in_dim(k_t, start, count, axis=1)
        weights = jnp.exp(plan.scores(q, keys, group_ids, index, start) - log_sum[None, :])
        shift = (out.astype(jnp.float32) * gradient).sum(axis=-1)
        d_weights = matrix_product(values, gradient, (1, 1))
        d_scores = (weights * (d_weights - shift[None, :]) * plan.scale).astype(q.dtype)
        d_keys = _add_at(totals[0], start, matrix_product(d_scores, q, (1, 0)))
        d_values = _add_at(
            totals[1], start, matrix_product(weights.astype(q.dtype), gradient, (1, 0))
        )
        return (d_keys, d_values), matrix_product(keys_t, d_scores, (1, 0)).astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    (dk, dv), dq_t = plan.scan(step, (zeros, zeros), zero, (q, out, log_sum, gradient))
    return dq_t, dk.astype(k.dtype), dv.astype(v.dtype)


def _add_at(total: jax.Array, start: jax.Array, part: jax.Array) -> jax.Array:
    before = lax.dynamic_slice_in_dim(total, start, part.shape[0])
    return lax.dynamic_update_slice_in_dim(total, before + part, start, axis=0)
