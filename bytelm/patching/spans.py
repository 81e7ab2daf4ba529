"""Segments: patches that are known to end when they end, pooled to a mean and read afterwards.

In dynamic token pooling (arXiv 2211.09761) a boundary ends a segment with its symbol. The mean of a
finished segment is an entry of the shortened row; every document's first entry is a learned null
vector. A symbol sees the last entry of its document: the null vector, or the segment that ended
last, its own if it ends with it. So nothing is read from a segment before it is finished.

Everything is O(T), with a static capacity P of entries, null vectors included. A row that is full
ends no more segments: later symbols go on seeing the last entry.

**Gradients of boundaries.** Pooling and spreading move vectors as hard boundaries say, and hard
boundaries have no derivative. Each function takes the boundaries `b` a second time, as numbers
whose value it ignores and whose gradient it makes up. Let C be the segment around t, k its entry,
and o_k the vector that symbols read of it.

- "published": the authors' einsum, seen as a function of real boundaries, has the derivative
  `sum over l > t in C of g_k (h_l - mean_C) / |C|` in pooling and none in spreading. It is 0
  wherever `b_t` is 1, since `h_l - mean` sums to 0 over a whole segment; the predictor hardly
  learns of the loss.
- "counterfactual": an estimate of the change of the loss if `b_t` were 1 instead of 0 and all other
  boundaries stayed. With t in C and B the symbols after t in C, a boundary at t
  1. makes the mean of entry k that of B alone: `g_k (mean_B - mean_C)`;
  2. gives the symbols from t up to the next boundary the entry that t ends, in place of the one
     before, o_{k-1}. That entry has not been computed; o_k, of the same segment with the same
     history, stands for it: `sum over j of G_j (o_k - o_{k-1})`, G_j the gradient at symbol j.
  If `b_t` is 1, C is the union of the segment that ends at t, A with entry k, and the one after
  it, B with entry k+1, and both terms are those of taking the boundary out:
  `g_{k+1} (mean_B - mean_{A+B})`, and the same sum, now with the true o_k. For a loss that is
  linear in pooled vectors and a backbone without attention, that is the exact difference.
  What it leaves out: what other entries see of the entry that comes or goes; in a full row, that a
  boundary taken out would let another in; and where C never ends, o_k does not exist, so that a
  boundary which would be its first there gets 0.

Shapes: B = rows, T = symbols, P = entries, d = channels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from bytelm.core.statistics import Ratio
from bytelm.patching.patches import NO_PATCH, find_patches, overflow_ratio

BoundaryGradient = Literal["published", "counterfactual"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Segments:
    """The finished segments of packed rows.

    Attributes:
        index: int32 `[B, T]`, the entry of each symbol's segment; P if it does not end.
        seen: int32 `[B, T]`, the entry each symbol sees; NO_PATCH if its document has none.
        ends: bool `[B, T]`, the symbols with which segments end.
        starts: bool `[B, T]`, the symbols after them, and the first symbols of documents.
        null: bool `[B, P]`, the entries that are a document's null vector.
        document_ids: int32 `[B, P]`, the document of each entry; 0 where there is none.
        total: int32 `[B]`, entries of each row.
        refused: int32 scalar, entries that there would be, had there been room.
    """

    index: jax.Array
    seen: jax.Array
    ends: jax.Array
    starts: jax.Array
    null: jax.Array
    document_ids: jax.Array
    total: jax.Array
    refused: jax.Array

    @property
    def statistics(self) -> tuple[Ratio, ...]:
        """The share of boundaries that overflowed."""
        slots = self.document_ids.shape[1]
        return (overflow_ratio(self.refused, self.starts.sum(), self.index.shape[1] / slots),)


def find_segments(
    ends: jax.Array,
    document_ids: jax.Array,
    capacity: int,
    *,
    first: jax.Array | None = None,
    room: jax.Array | None = None,
) -> Segments:
    """Ends segments where they are to end, as far as there is room.

    Args:
        ends: bool `[B, T]`, the symbols with which segments are to end; False in padding.
        document_ids: int32 `[B, T]`.
        capacity: P.
        first: bool `[B, T]`, the first symbols of documents; None for where `document_ids` change.
        room: int32 `[B]`, how many entries may still be made in each row; None for P.
    """
    rows, length = ends.shape
    if first is None:
        first = (jnp.diff(document_ids, axis=1, prepend=0) != 0) & (document_ids > 0)
    # Each symbol makes up to two entries: a null vector before it, and the segment it ends.
    marks = jnp.stack([first, ends], axis=2).reshape(rows, 2 * length)
    entries = find_patches(marks, jnp.repeat(document_ids, 2, axis=1), capacity, room=room)
    ahead = entries.count[:, ::2]
    of_ahead = jnp.take_along_axis(entries.document_ids, jnp.minimum(ahead, capacity - 1), axis=1)
    finished = (ahead < capacity) & (of_ahead == document_ids) & (document_ids > 0)
    ended = entries.opened[:, 1::2]
    return Segments(
        index=jnp.where(finished, ahead, capacity),
        seen=entries.of_symbol[:, 1::2],
        ends=ended,
        starts=(jnp.pad(ended[:, :-1], ((0, 0), (1, 0))) & (document_ids > 0)) | first,
        null=entries.valid & (entries.at % 2 == 0),
        document_ids=entries.document_ids,
        total=entries.total,
        refused=entries.refused,
    )


def sum_segments(x: jax.Array, segments: Segments) -> tuple[jax.Array, jax.Array]:
    """Sums `[B, P, d]` and sizes `[B, P]` of finished segments, in float32."""
    capacity = segments.null.shape[1]

    def row(x: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        add = partial(jax.ops.segment_sum, segment_ids=index, num_segments=capacity + 1)
        return add(x)[:capacity], add(jnp.ones(len(x)))[:capacity]

    return jax.vmap(row)(x.astype(jnp.float32), segments.index)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def mean_segments(
    x: jax.Array, b: jax.Array, segments: Segments, gradient: BoundaryGradient
) -> jax.Array:
    """The mean of each finished segment, `[B, T, d] -> [B, P, d]`, in float32; 0 elsewhere.

    `b` float32 `[B, T]` are the boundaries, for the gradient alone.
    """
    sums, sizes = sum_segments(x, segments)
    return sums / jnp.maximum(sizes, 1)[:, :, None]


def _mean_forward(x, b, segments, gradient):
    means = mean_segments(x, b, segments, gradient)
    return means, (x, segments, means)


def _mean_backward(gradient, residuals, g):
    x, segments, means = residuals
    _, sizes = sum_segments(x[:, :, :1], segments)
    sizes = jnp.maximum(sizes, 1)
    own_g, own_mean = _read(g, segments.index), _read(means, segments.index)
    own_size = _read(sizes[:, :, None], segments.index)
    dx = own_g / jnp.maximum(own_size, 1)
    deviation = (own_g * (x.astype(jnp.float32) - own_mean)).sum(axis=2)
    last = _changes(segments.index)
    after = _sum_to_end(deviation, last) - deviation
    if gradient == "published":
        return dx.astype(x.dtype), after / jnp.maximum(own_size[:, :, 0], 1), None
    count_after = _sum_to_end(jnp.ones_like(deviation), last) - 1
    without = after / jnp.maximum(count_after, 1)
    following = _following(segments)
    next_g, next_mean = _read(g, following), _read(means, following)
    next_size = _read(sizes[:, :, None], following)
    share = own_size / jnp.maximum(own_size + next_size, 1)
    present = (next_g * (next_mean - own_mean) * share).sum(axis=2)
    return dx.astype(x.dtype), jnp.where(segments.ends, present, without), None


mean_segments.defvjp(_mean_forward, _mean_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def spread_segments(
    y: jax.Array, b: jax.Array, segments: Segments, gradient: BoundaryGradient
) -> jax.Array:
    """Gives each symbol the entry that it sees, `[B, P, d] -> [B, T, d]`; 0 where it sees none.

    `b` float32 `[B, T]` are the boundaries, for the gradient alone.
    """
    return _read(y, segments.seen)


def _spread_forward(y, b, segments, gradient):
    return spread_segments(y, b, segments, gradient), (y, segments)


def _spread_backward(gradient, residuals, g):
    y, segments = residuals
    entries = y.shape[1]
    index = jnp.where(segments.seen == NO_PATCH, entries, segments.seen)
    add = partial(jax.ops.segment_sum, num_segments=entries + 1)
    dy = jax.vmap(lambda g, i: add(g, segment_ids=i)[:entries])(g.astype(jnp.float32), index)
    if gradient == "published":
        return dy.astype(y.dtype), jnp.zeros(g.shape[:2], jnp.float32), None

    def change(upper: jax.Array, lower: jax.Array) -> jax.Array:
        """Sums, from each symbol up to the next boundary, of G_j (o_upper - o_lower)."""
        of_symbol = (g.astype(jnp.float32) * (_read(y, upper) - _read(y, lower))).sum(axis=2)
        of_symbol = jnp.where((upper < entries) & (lower >= 0), of_symbol, 0)
        return _sum_to_end(of_symbol, _changes(segments.seen))

    seen = segments.seen
    inserted = change(segments.index, seen)
    removed = change(seen, seen - 1)
    # Where no segment follows, its vector is not known; a symbol in none has no boundary.
    inserted = jnp.where(segments.index < entries, inserted, 0)
    return dy.astype(y.dtype), jnp.where(segments.ends, removed, inserted), None


spread_segments.defvjp(_spread_forward, _spread_backward)


def _read(vectors: jax.Array, index: jax.Array) -> jax.Array:
    """The vectors `[B, P, d]` of entries `[B, T]`; 0 where the entry is none of 0 to P - 1."""
    entries = vectors.shape[1]
    picked = jnp.take_along_axis(vectors, jnp.clip(index, 0, entries - 1)[:, :, None], axis=1)
    return jnp.where(((index >= 0) & (index < entries))[:, :, None], picked, 0)


def _following(segments: Segments) -> jax.Array:
    """The entry after each symbol's own in the same document, `[B, T]`; P if there is none."""
    entries = segments.null.shape[1]
    later = jnp.minimum(segments.index + 1, entries - 1)
    of_later = jnp.take_along_axis(segments.document_ids, later, axis=1)
    own = jnp.minimum(segments.index, entries - 1)
    of_own = jnp.take_along_axis(segments.document_ids, own, axis=1)
    exists = (segments.index + 1 < entries) & (of_later == of_own)
    return jnp.where(exists, segments.index + 1, entries)


def _changes(values: jax.Array) -> jax.Array:
    """The last symbol of each run of equal values, `[B, T]`."""
    return jnp.diff(values, axis=1, append=values[:, -1:] - 1) != 0


def _sum_to_end(values: jax.Array, last: jax.Array) -> jax.Array:
    """Sums from each symbol up to the first one that is `last`, both included: `[B, T]`."""

    def join(later, earlier):
        stop, value = earlier
        return stop | later[0], jnp.where(stop, value, value + later[1])

    return jax.lax.associative_scan(join, (last, values), reverse=True, axis=1)[1]
