"""Blockwise attention whose scores get a bias for each distance and one for each key.

Biases of distances are equal along each diagonal of the scores. So each head has one array
`[S + T - C, C]`, and the biases of a block of C queries are a window of it. All blocks of all rows
read this array, which stays in a CPU's cache, and its gradient is summed in an array of that shape.
As in `blockwise`, the backward pass recomputes the weights, and keys come first.

Shapes: B = rows, T = queries, S = keys, H = heads, K = head size, N = blocks of queries.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bytelm.core.xla import backend
from bytelm.nn.attention.blockwise import BLOCK, score_gradient, weighted_values, zero_of
from bytelm.nn.linear import matrix_product

BLOCKS = range(BLOCK // 2, 3 * BLOCK // 2 + 1, 16)
"""Possible block sizes: whole registers of a CPU."""
MANY_SCORES = 2**17
"""On CPU, rows with more scores than this are processed one at a time, in blocks of queries."""


def query_block(queries: int, keys: int, heads: int) -> int:
    """C, the queries of a block: all of them, or on CPU as many as its caches hold scores for."""
    if queries <= BLOCK or not _in_turn(queries, keys, heads):
        return queries
    # The least padding of the last block; then the size nearest to the best.
    return min(BLOCKS, key=lambda block: (-(-queries // block) * block, abs(block - BLOCK)))


def _in_turn(queries: int, keys: int, heads: int) -> bool:
    return backend() == "cpu" and queries * keys * heads > MANY_SCORES


def distance_windows(biases: jax.Array, keys: int, block: int) -> jax.Array:
    """The array whose windows are the biases of blocks of queries, for rows that start together.

    Args:
        biases: `[H, T + S]`; at T + d the bias of a key d positions ahead of the query.
        keys: S.
        block: C, from `query_block`.

    Returns:
        `[H, S + (N - 1) C, C]`; at `[:, j, c]` the bias of the distance `j - (N - 1) C - c`.
    """
    heads, queries = len(biases), biases.shape[1] - keys
    blocks = -(-queries // block)
    biases = jnp.pad(biases, ((0, 0), (blocks * block - queries, 0)), mode="edge")
    # Query c is the window from C - c on. Rows read as one shorter shift by one each.
    count, length = keys + (blocks - 1) * block, biases.shape[1]
    rows = jnp.broadcast_to(biases[:, None], (heads, block + 1, length))
    flat = rows.reshape(heads, -1)[:, block : block + block * (length - 1)]
    return flat.reshape(heads, block, length - 1)[:, :, :count].swapaxes(1, 2)


def position_windows(bias: jax.Array, block: int) -> jax.Array:
    """Rearranges per-row biases `[B, H, T, S]` into blocks of queries `[H, B, N S, C]`.

    Also used on distances, before the lookup of biases, so that these are never transposed.
    """
    rows, heads, queries, keys = bias.shape
    bias = jnp.pad(bias, ((0, 0), (0, 0), (0, -queries % block), (0, 0)))
    blocks = bias.reshape(rows, heads, -1, block, keys).transpose(1, 0, 2, 4, 3)
    return blocks.reshape(heads, rows, -1, block)


def whole_bias(windows: jax.Array, queries: int, keys: int) -> jax.Array:
    """The inverse of `distance_windows`: the biases `[H, T, S]`."""
    _, count, block = windows.shape
    blocks = [windows[:, start : start + keys] for start in range(count - keys, -1, -block)]
    return jnp.concatenate(blocks, axis=2).swapaxes(1, 2)[:, :queries]


def biased_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    windows: jax.Array | None,
    keys_bias: jax.Array | None,
    *,
    softmax1: bool,
) -> jax.Array:
    """Attention with unscaled, biased scores; the softmax is in float32.

    Args:
        q: `[B, T, H, K]`.
        k, v: `[B, S, H, K]`.
        windows: float32, from `distance_windows` or, without a gradient, `position_windows`, with
            the block of `query_block`; None for 0.
        keys_bias: float32 `[B, S]`, added to the scores of each key, or None for 0.
        softmax1: whether weights may sum to less than 1: `exp(x) / (1 + sum exp(x))`.

    Returns:
        `[B, T, H, K]` in the dtype of q.
    """
    rows, queries, heads, size = q.shape
    block = query_block(queries, k.shape[1], heads)
    q = jnp.pad(q, ((0, 0), (0, -queries % block), (0, 0), (0, 0)))
    q = q.reshape(rows, -1, block, heads, size).transpose(3, 0, 1, 2, 4)  # [H, B, N, C, K]
    k, v = (jnp.transpose(x, (2, 0, 1, 3)) for x in (k, v))  # [H, B, S, K]
    keys_bias = jnp.zeros(k.shape[1:3]) if keys_bias is None else jnp.asarray(keys_bias)
    in_turn = _in_turn(queries, k.shape[2], heads)
    if windows is not None and windows.ndim == 4:
        out = _outputs(softmax1, in_turn, q, k, v, windows, keys_bias)[0]
    else:
        out = _attend(softmax1, in_turn, q, k, v, windows, keys_bias)
    return out.transpose(1, 2, 3, 0, 4).reshape(rows, -1, heads, size)[:, :queries]


def _outputs(
    softmax1: bool,
    in_turn: bool,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    windows: jax.Array | None,
    keys_bias: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes q `[H, B, N, C, K]`, k and v `[H, B, S, K]`, biases of keys `[B, S]`.

    Returns the outputs, as q, and the largest score and sum of weights of each query, float32
    `[H, B, N, C]`. They are not added up: if all keys are masked, the sum would be rounded away.
    """
    (heads, rows, blocks), v_t = q.shape[:3], v.swapaxes(2, 3)
    by_row = windows is not None and windows.ndim == 4
    starts = jnp.arange(blocks) * k.shape[2] + zero_of(q) if by_row else _starts(q)
    one = partial(_forward, softmax1, starts)
    if not in_turn:
        one_head = jax.vmap(one, (0 if by_row else None, 0, 0, 0, 0))
        return jax.vmap(one_head, (0, None, 0, 0, 0))(windows, keys_bias, q, k, v_t)

    def head(h: jax.Array) -> Any:
        shared = None if windows is None or by_row else windows[h]

        def row(b: jax.Array) -> Any:
            own = shared if windows is None or not by_row else windows[h, b]
            return one(own, keys_bias[b], q[h, b], k[h, b], v_t[h, b])

        return lax.map(row, jnp.arange(rows))

    return lax.map(head, jnp.arange(heads))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(softmax1: bool, in_turn: bool, *arrays: Any) -> jax.Array:
    """The outputs only, for windows that all rows share."""
    return _outputs(softmax1, in_turn, *arrays)[0]


def _attend_forward(
    softmax1: bool, in_turn: bool, *arrays: Any
) -> tuple[jax.Array, tuple[Any, ...]]:
    outputs = _outputs(softmax1, in_turn, *arrays)
    return outputs[0], (*arrays, *outputs)


def _attend_backward(
    softmax1: bool, in_turn: bool, residuals: tuple[Any, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    q, k, v, windows, keys_bias, *outputs = residuals
    arrays = (q, k, k.swapaxes(2, 3), v, *outputs, gradient)
    zeros = None if windows is None else jnp.zeros_like(windows[0])
    one = partial(_backward, _starts(q))
    if in_turn:

        def head(h: jax.Array) -> Any:
            own = None if windows is None else windows[h]

            def row(d_windows: jax.Array | None, b: jax.Array) -> Any:
                return one(d_windows, own, keys_bias[b], *(x[h, b] for x in arrays))

            return lax.scan(row, zeros, jnp.arange(q.shape[1]))

        d_windows, gradients = lax.map(head, jnp.arange(len(q)))
    else:
        each = tuple(0 for _ in arrays)
        one_head = jax.vmap(partial(one, zeros), (None, 0, *each))
        all_heads = jax.vmap(one_head, (0, None, *each))
        d_windows, gradients = all_heads(windows, keys_bias, *arrays)
        d_windows = jax.tree.map(lambda x: x.sum(axis=1), d_windows)
    dq_t, dk, dv, d_keys_bias = gradients
    return dq_t.swapaxes(3, 4), dk, dv, d_windows, d_keys_bias.sum(axis=0)


_attend.defvjp(_attend_forward, _attend_backward)


def _starts(q: jax.Array) -> jax.Array:
    """The start of each block's window in `distance_windows`, for q `[..., N, C, K]`."""
    blocks, block = q.shape[-3:-1]
    return jnp.arange(blocks - 1, -1, -1) * block + zero_of(q)


def _scores(
    q: jax.Array, k: jax.Array, start: jax.Array, windows: jax.Array | None, keys_bias: jax.Array
) -> jax.Array:
    """Scores `[S, C]` of a block of queries `[C, K]`, whose biases are the window at `start`."""
    bias = keys_bias[:, None]
    if windows is not None:
        bias = bias + lax.dynamic_slice_in_dim(windows, start, len(k))
    return matrix_product(k, q, (1, 1)) + bias


def _forward(
    softmax1: bool,
    starts: jax.Array,
    windows: jax.Array | None,
    keys_bias: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v_t: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One row of one head: outputs `[N, C, K]`, largest scores and sums of weights `[N, C]`."""

    def step(_: None, block: Any) -> tuple[None, Any]:
        start, q = block
        scores = _scores(q, k, start, windows, keys_bias)
        out, top, total = weighted_values(scores, v_t, softmax1=softmax1)
        return None, (out.astype(q.dtype), top, total)

    return lax.scan(step, None, (starts, q))[1]


def _backward(
    starts: jax.Array,
    d_windows: jax.Array | None,
    windows: jax.Array | None,
    keys_bias: jax.Array,
    *arrays: jax.Array,
) -> tuple[jax.Array | None, tuple[jax.Array, ...]]:
    """One row of one head: `d_windows` with its part added, and the gradients of the others.

    The gradient of q is `[N, K, C]`.
    """
    q, k, k_t, v, out, top, total, gradient = arrays

    def step(totals: Any, block: Any) -> tuple[Any, jax.Array]:
        dk, dv, d_keys_bias, d_windows = totals
        start, q, out, top, total, gradient = block
        weights = jnp.exp(_scores(q, k, start, windows, keys_bias) - top[None, :]) / total[None, :]
        d_scores = score_gradient(weights, v, out, gradient)
        if d_windows is not None:
            part = lax.dynamic_slice_in_dim(d_windows, start, len(k)) + d_scores
            d_windows = lax.dynamic_update_slice_in_dim(d_windows, part, start, axis=0)
        d_keys_bias += d_scores.sum(axis=1)
        d_scores = d_scores.astype(q.dtype)
        dk += matrix_product(d_scores, q, (1, 0))
        dv += matrix_product(weights.astype(q.dtype), gradient, (1, 0))
        dq_t = matrix_product(k_t, d_scores, (1, 0)).astype(q.dtype)
        return (dk, dv, d_keys_bias, d_windows), dq_t

    zeros = jnp.zeros(k.shape, jnp.float32)
    totals = (zeros, zeros, jnp.zeros(len(k)), d_windows)
    blocks = (starts, q, out, top, total, gradient)
    (dk, dv, d_keys_bias, d_windows), dq_t = lax.scan(step, totals, blocks)
    return d_windows, (dq_t, dk.astype(k.dtype), dv.astype(v.dtype), d_keys_bias)
