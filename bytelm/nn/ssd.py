"""A linear recurrence with decaying state, as matrix products over chunks of positions.

This is the state-space dual form (SSD) of Mamba-2 (arXiv 2405.21060, section 6). Each head has a
state S `[n, P]`, which position t changes and then reads:

    S_t = exp(dt_t A) S_(t-1) + key_t (dt_t x_t)^T        y_t = query_t S_t

Within a chunk, position i reads the positions j up to i with the weights
`(query_i key_j) exp(dt_(j+1) A + ... + dt_i A)`, as in attention without a softmax. What earlier
chunks left reaches it through the state before the chunk. States of single positions are never
stored, so memory is linear in T. Sums of exponents, decays and states are float32.

Shapes: B = rows, T = positions, H = heads, P = channels of a head, n = channels of keys,
Q = positions of a chunk, K = chunks.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bytelm.core.xla import backend
from bytelm.nn.attention.blockwise import MASKED
from bytelm.nn.mesh import on_each_device

ALIGNMENT = 8
"""Chunks of a longer row are a multiple of this, or the longest that is allowed."""

einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)


def chunks_together() -> int:
    """How many chunks are computed at a time: one on CPU, whose arrays fit into its caches."""
    return 1 if backend() == "cpu" else 16


def chunk_sizes(length: float, longest: int) -> tuple[int, int]:
    """Into how many chunks a row is divided, and how many positions each has: (K, Q)."""
    length = math.ceil(length)
    count = -(-length // longest)
    if count == 1:
        return 1, length
    size = min(longest, ALIGNMENT * -(-length // (ALIGNMENT * count)))
    return -(-length // size), size


def ssd_flops(length: float, longest: int, heads: int, width: int, state_width: int) -> float:
    """FLOPs of the matrix products of `ssd` over one row; `width` is P, `state_width` n."""
    count, size = chunk_sizes(length, longest)
    inner = heads * width
    within = 2.0 * size * (heads + state_width + inner)
    between = 4.0 * state_width * inner if count > 1 else 0.0
    return count * size * (within + between)


def ssd(
    x: jax.Array,
    dt: jax.Array,
    rates: jax.Array,
    keys: jax.Array,
    queries: jax.Array,
    runs: jax.Array,
    state: jax.Array | None = None,
    *,
    longest: int,
    together: int | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """The recurrence over whole rows, or over positions that follow a state.

    Args:
        x: `[B, T, H, P]`.
        dt: float32 `[B, T, H]`, at least 0; at a position with 0 the state stays as it is.
        rates: float32 `[H]`, A, below 0.
        keys: `[B, T, n]`, which all heads share (B in the paper).
        queries: `[B, T, n]` (C in the paper).
        runs: int32 `[B, T]`, which grows where the state begins again at 0; 0 continues `state`.
        state: float32 `[B, n, H, P]` before the first position; None for whole rows.
        longest: positions of a chunk, at most. It only changes rounding.
        together: chunks to compute at a time; None for the machine's best.

    Returns:
        y as x, and the state after the last position, None for whole rows.
    """
    arrays = (x, dt, dt * rates[None, None, :], state), (keys, queries, runs)
    if state is not None and x.shape[1] == 1:
        return on_each_device(_step, *arrays)
    return on_each_device(partial(_scan, longest, together or chunks_together()), *arrays)


def _scan(
    longest: int,
    together: int,
    x: jax.Array,
    dt: jax.Array,
    exponents: jax.Array,
    state: jax.Array | None,
    keys: jax.Array,
    queries: jax.Array,
    runs: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
    """A loop over chunks, of which `together` are computed in each turn."""
    length = x.shape[1]
    count, size = chunk_sizes(length, longest)
    turns = -(-count // together)
    together = -(-count // turns)
    filler = turns * together * size - length

    def parts(array: jax.Array, mode: str = "constant") -> jax.Array:
        padded = jnp.pad(array, [(0, 0), (0, filler)] + [(0, 0)] * (array.ndim - 2), mode)
        return padded.reshape(len(array), turns, together, size, *array.shape[2:]).swapaxes(0, 1)

    # Positions that fill the last chunk have dt 0, and leave the state as it is.
    arrays = *map(parts, (x, dt, exponents, keys, queries)), parts(runs, "edge")
    turn = jax.checkpoint(_chunks)  # of arrays [turns, B, K, Q, ...]
    if state is None and count == 1:
        _, y = turn(None, tuple(array[0] for array in arrays))
        return y.reshape(x.shape), None
    shape = (len(x), keys.shape[2], *x.shape[2:])
    start = jnp.zeros(shape, jnp.float32) if state is None else state
    carry, y = lax.scan(turn, (start, jnp.zeros_like(runs[:, 0])), arrays)
    y = y.swapaxes(0, 1).reshape(len(x), length + filler, *x.shape[2:])[:, :length]
    return y, None if state is None else carry[0]


def _chunks(
    before: tuple[jax.Array, jax.Array] | None, arrays: tuple[jax.Array, ...]
) -> tuple[Any, jax.Array]:
    """K chunks, from the state `[B, n, H, P]` and run `[B]` before them; None for no state."""
    x, dt, exponents, keys, queries, runs = arrays  # [B, K, Q, ...]
    dtype = x.dtype
    visible = runs[:, :, :, None] == runs[:, :, None, :]  # [B, K, Q, Q]
    visible &= jnp.tril(jnp.ones(visible.shape[2:], bool))[None, None]
    # Exponents from the start of the chunk or, in it, of the run on, which no other run can reach.
    total = einsum(
        "bkij,bkjh->bkih",
        visible.astype(jnp.float32),
        exponents,
        precision=lax.Precision.HIGHEST,
    )  # [B, K, Q, H]
    by_head = total.swapaxes(2, 3)  # [B, K, H, Q]
    x = (x * dt[..., None]).astype(dtype)
    decays = _decays(by_head[..., :, None] - by_head[..., None, :], visible[:, :, None])
    scores = einsum("bkin,bkjn->bkij", queries, keys)
    weights = (scores[:, :, None] * decays).astype(dtype)  # [B, K, H, Q, Q]
    y = einsum("bkhij,bkjhp->bkihp", weights, x)
    if before is None:
        return None, y.astype(dtype)

    state, run = before
    last = runs[:, :, -1]  # [B, K]
    first = jnp.concatenate([run[:, None], last[:, :-1]], axis=1)  # the run before each chunk
    to_end = _decays(total[:, :, -1:] - total, (runs == last[:, :, None])[..., None])
    added = einsum("bkjn,bkjhp->bknhp", keys, (x * to_end[..., None]).astype(dtype))
    kept = _decays(total[:, :, -1], (first == last)[..., None])  # [B, K, H]
    states, state = _states(state, kept, added)  # [B, K, n, H, P]
    from_start = _decays(total, (runs == first[:, :, None])[..., None])  # [B, K, Q, H]
    read = einsum("bkin,bknhp->bkihp", queries, states.astype(dtype))
    y = y + read * from_start[..., None]
    return (state, last[:, -1]), y.astype(dtype)


def _decays(exponents: jax.Array, visible: jax.Array) -> jax.Array:
    """`exp(exponents)`, and 0 where not visible, with a gradient that is finite there too."""
    return jnp.exp(jnp.where(visible, exponents, MASKED))


def _states(state: jax.Array, kept: jax.Array, added: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states before chunks that keep and add to it, `[B, K, ...]`, and after the last one.

    One after another: an associative scan reads and writes them more often, and libtpu 0.0.42
    crashes on its slices.
    """

    def step(state: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, added = chunk  # [B, H], [B, n, H, P]
        return kept[:, None, :, None] * state + added, state

    if added.shape[1] == 1:
        return state[:, None], step(state, (kept[:, 0], added[:, 0]))[0]
    state, states = lax.scan(step, state, (kept.swapaxes(0, 1), added.swapaxes(0, 1)))
    return states.swapaxes(0, 1), state


def _step(
    x: jax.Array,
    dt: jax.Array,
    exponents: jax.Array,
    state: jax.Array,
    keys: jax.Array,
    queries: jax.Array,
    runs: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One position after a state, by the recurrence itself."""
    kept = _decays(exponents[:, 0], runs == 0)  # [B, H]
    added = keys[:, 0, :, None, None] * (x * dt[..., None])  # [B, n, H, P]
    state = kept[:, None, :, None] * state + added
    y = einsum("bn,bnhp->bhp", queries[:, 0].astype(jnp.float32), state)
    return y[:, None].astype(x.dtype), state
