"""Ended patches: pooled to a mean once they have ended, and read by the symbols after that.

In dynamic token pooling (arXiv 2211.09761, where patches are called segments) a patch ends with the
symbol at its boundary. The mean of an ended patch takes a slot of the backbone; the first slot of
every document holds a learned null vector. A symbol reads the last slot of its document: the null
vector, or the patch that ended last, its own if it ends with this symbol. So nothing is read from a
patch before it has ended.

Everything is O(T), with a static capacity of P slots, null vectors included. A full row ends no
more patches: later symbols go on reading the last slot.

**Gradients of boundaries.** Pooling and spreading follow hard boundaries, which have no derivative.
So each function also takes the boundaries as numbers `b`; it ignores their values and defines their
gradient. Let C be the patch around t, k its slot, and o_k the vector that symbols read from it.

- "published": the authors' einsum, as a function of real boundaries, has the derivative
  `sum over l > t in C of g_k (h_l - mean_C) / |C|` in pooling and none in spreading. It is 0
  wherever `b_t` is 1, since `h_l - mean` sums to 0 over a whole patch; the predictor hardly learns
  from the loss.
- "counterfactual": an estimate of the change of the loss if `b_t` were 1 instead of 0 and all other
  boundaries stayed. With t in C and B the symbols after t in C, a boundary at t
  1. makes the mean of slot k that of B only: `g_k (mean_B - mean_C)`;
  2. gives the symbols from t up to the next boundary the slot that ends with t, in place of the
     one before, o_{k-1}. That vector has not been computed; o_k, of the same patch with the same
     history, stands for it: `sum over j of G_j (o_k - o_{k-1})`, G_j the gradient at symbol j.
  If `b_t` is 1, let A be the patch that ends at t, with slot k, and B the patch after it, with slot
  k+1. C is their union, and both terms are those of removing the boundary:
  `g_{k+1} (mean_B - mean_{A+B})`, and the same sum, now with the true o_k. For a loss that is
  linear in pooled vectors and a backbone without attention, that is the exact difference.
  The estimate leaves out three effects. Other slots see the slot that comes or goes. In a full row,
  removing a boundary lets another one in. Where C never ends, o_k does not exist, so a boundary
  that would be the first there gets 0.

Shapes: B = rows, T = symbols, P = slots, d = channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from bytelm.nn.mesh import whole_rows
from bytelm.nn.sequence import add_at, take
from bytelm.patching.levels import PatchingState, Segmentation, Symbols, find_boundaries
from bytelm.patching.patches import NO_PATCH, find_patches
from bytelm.patching.segmenter import Segmenter

BoundaryGradient = Literal["published", "counterfactual"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EndedPatches:
    """The ended patches of packed rows."""

    index: jax.Array  # int32 [B, T], the slot of each symbol's patch; P if the patch does not end
    read: jax.Array  # int32 [B, T], the slot each symbol reads; NO_PATCH if its document has none
    boundaries: jax.Array  # bool [B, T], the symbols with which patches end
    null: jax.Array  # bool [B, P], the slots that hold a document's null vector
    document_ids: jax.Array  # int32 [B, P], the document of each slot; 0 in an empty one
    total: jax.Array  # int32 [B], filled slots of each row
    ignored: jax.Array  # int32 [B], slots needed after the capacity was used up

    @property
    def overflow(self) -> jax.Array:
        """Int32 scalar, those of all rows."""
        return self.ignored.sum()


def find_ended(
    ends: jax.Array,
    document_ids: jax.Array,
    capacity: int,
    *,
    first: jax.Array | None = None,
    slots_left: jax.Array | None = None,
) -> EndedPatches:
    """Ends patches where `ends`, bool `[B, T]`, is True, as long as there are slots.

    Args:
        capacity: P.
        first: bool `[B, T]`, the first symbols of documents, which need a null vector; None for
            where `document_ids` change.
        slots_left: int32 `[B, T]`, how many may be filled up to each symbol; None for P.
    """
    rows, length = ends.shape
    if first is None:
        first = (jnp.diff(document_ids, axis=1, prepend=0) != 0) & (document_ids > 0)
    # Each symbol fills up to two slots: a null vector before it, and the patch that it ends.
    wanted = jnp.stack([first, ends], axis=2).reshape(rows, 2 * length)  # [B, 2T]
    doubled = jnp.repeat(document_ids, 2, axis=1)  # [B, 2T]
    if slots_left is not None:
        slots_left = jnp.repeat(slots_left, 2, axis=1)  # [B, 2T]
    slots = find_patches(wanted, doubled, capacity, slots_left=slots_left)
    following = slots.count[:, ::2]  # [B, T], the slot that is filled next
    document = jnp.take_along_axis(slots.document_ids, jnp.minimum(following, capacity - 1), axis=1)
    does_end = (following < capacity) & (document == document_ids) & (document_ids > 0)
    return EndedPatches(
        index=jnp.where(does_end, following, capacity),
        read=slots.index[:, 1::2],
        boundaries=slots.boundaries[:, 1::2],
        null=slots.valid & (slots.positions % 2 == 0),
        document_ids=slots.document_ids,
        total=slots.total,
        ignored=slots.ignored,
    )


def segment_ended(
    segmenter: Segmenter,
    x: jax.Array | None,
    symbols: Symbols,
    capacity: Callable[[int], int],
    state: PatchingState | None,
    *,
    null: bool,
) -> tuple[Segmentation, PatchingState | None]:
    """Cuts symbols into patches that are read once they have ended, like `levels.segment`.

    With `null` the slot of a null vector comes before a document's first symbol; without, this
    symbol is a patch of its own, so that every symbol has one to read.
    """
    carry = None if state is None else state.carry
    boundaries, carry = find_boundaries(segmenter, x, symbols, carry)
    first = (symbols.positions == 0) & (symbols.document_ids > 0)
    if not null:
        boundaries = boundaries._replace(hard=boundaries.hard | first)
        first = jnp.zeros_like(first)
    ends, length = boundaries.hard, boundaries.hard.shape[1]
    if state is None:
        patches = find_ended(ends, symbols.document_ids, capacity(length), first=first)
        return Segmentation(symbols, boundaries, whole_rows(patches)), None
    slots_left = state.slots_left(symbols.positions)
    patches = find_ended(
        ends, symbols.document_ids, length + null, first=first, slots_left=slots_left
    )
    return Segmentation(symbols, boundaries, patches), state.after(carry, patches)


def after_ends(ends: jax.Array, document_ids: jax.Array) -> jax.Array:
    """The first symbols of documents and those after `ends`, all bool `[B, T]`.

    `document_ids` `[B, T]` are 0 or False in padding.
    """
    first = jnp.diff(document_ids.astype(jnp.int32), axis=1, prepend=0) != 0
    return (first | jnp.pad(ends[:, :-1], ((0, 0), (1, 0)))) & (document_ids > 0)


def gather_sum(x: jax.Array, patches: EndedPatches) -> tuple[jax.Array, jax.Array]:
    """Sums `[B, P, d]` of the vectors of each ended patch, and sizes `[B, P]`, in float32."""
    add = partial(add_at, index=patches.index, groups=patches.null.shape[1])
    return add(x.astype(jnp.float32)), add(jnp.ones(x.shape[:2]))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def gather_mean(
    x: jax.Array, b: jax.Array, patches: EndedPatches, gradient: BoundaryGradient
) -> jax.Array:
    """The mean of each ended patch, `[B, T, d] -> [B, P, d]`, in float32; 0 in other slots.

    `b` float32 `[B, T]` are the boundaries, for the gradient alone.
    """
    sums, sizes = gather_sum(x, patches)
    return sums / jnp.maximum(sizes, 1)[:, :, None]


def _mean_forward(x, b, patches, gradient):
    means = gather_mean(x, b, patches, gradient)
    return means, (x, patches, means)


def _mean_backward(gradient, residuals, g):
    x, patches, means = residuals
    _, sizes = gather_sum(x[:, :, :1], patches)
    sizes = jnp.maximum(sizes, 1)
    own_g, own_mean = _take(g, patches.index), _take(means, patches.index)  # [B, T, d]
    own_size = _take(sizes[:, :, None], patches.index)  # [B, T, 1]
    dx = own_g / jnp.maximum(own_size, 1)
    deviation = (own_g * (x.astype(jnp.float32) - own_mean)).sum(axis=2)  # [B, T]
    last = _changes(patches.index)
    after = _sum_to_end(deviation, last) - deviation
    if gradient == "published":
        return dx.astype(x.dtype), after / jnp.maximum(own_size[:, :, 0], 1), None
    count_after = _sum_to_end(jnp.ones_like(deviation), last) - 1
    without = after / jnp.maximum(count_after, 1)
    following = _following(patches)
    next_g, next_mean = _take(g, following), _take(means, following)  # [B, T, d]
    next_size = _take(sizes[:, :, None], following)  # [B, T, 1]
    share = own_size / jnp.maximum(own_size + next_size, 1)
    present = (next_g * (next_mean - own_mean) * share).sum(axis=2)  # [B, T]
    return dx.astype(x.dtype), jnp.where(patches.boundaries, present, without), None


gather_mean.defvjp(_mean_forward, _mean_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def spread_ended(
    y: jax.Array, b: jax.Array, patches: EndedPatches, gradient: BoundaryGradient
) -> jax.Array:
    """Gives each symbol the slot that it reads, `[B, P, d] -> [B, T, d]`; 0 where it reads none.

    `b` float32 `[B, T]` are the boundaries, for the gradient alone.
    """
    return _take(y, patches.read)


def _spread_forward(y, b, patches, gradient):
    return spread_ended(y, b, patches, gradient), (y, patches)


def _spread_backward(gradient, residuals, g):
    y, patches = residuals
    slots = y.shape[1]
    index = jnp.where(patches.read == NO_PATCH, slots, patches.read)
    dy = add_at(g.astype(jnp.float32), index, slots)
    if gradient == "published":
        return dy.astype(y.dtype), jnp.zeros(g.shape[:2], jnp.float32), None

    def change(upper: jax.Array, lower: jax.Array) -> jax.Array:
        """Sums, from each symbol up to the next boundary, of G_j (o_upper - o_lower)."""
        products = (g.astype(jnp.float32) * (_take(y, upper) - _take(y, lower))).sum(axis=2)
        products = jnp.where((upper < slots) & (lower >= 0), products, 0)  # [B, T]
        return _sum_to_end(products, _changes(patches.read))

    inserted = change(patches.index, patches.read)
    removed = change(patches.read, patches.read - 1)
    # Where no patch ends any more, the vector of the one that would end is not known.
    inserted = jnp.where(patches.index < slots, inserted, 0)
    return dy.astype(y.dtype), jnp.where(patches.boundaries, removed, inserted), None


spread_ended.defvjp(_spread_forward, _spread_backward)


def _take(vectors: jax.Array, index: jax.Array) -> jax.Array:
    """`vectors[b, index[b, t]]`, `[B, P, d] -> [B, T, d]`; 0 where the index is not in 0..P-1."""
    slots = vectors.shape[1]
    picked = take(vectors, jnp.clip(index, 0, slots - 1))
    return jnp.where(((index >= 0) & (index < slots))[:, :, None], picked, 0)


def _following(patches: EndedPatches) -> jax.Array:
    """The slot after that of each symbol's patch, `[B, T]`; P if its document has no more."""
    slots = patches.null.shape[1]

    def document(index: jax.Array) -> jax.Array:
        return jnp.take_along_axis(patches.document_ids, jnp.minimum(index, slots - 1), axis=1)

    is_same = document(patches.index + 1) == document(patches.index)
    exists = (patches.index + 1 < slots) & is_same
    return jnp.where(exists, patches.index + 1, slots)


def _changes(values: jax.Array) -> jax.Array:
    """The last symbol of each run of equal values, `[B, T]`."""
    return jnp.diff(values, axis=1, append=values[:, -1:] - 1) != 0


def _sum_to_end(values: jax.Array, last: jax.Array) -> jax.Array:
    """Sums from each symbol up to the first one that is `last`, both included: `[B, T]`."""

    def join(later, earlier):
        stop, value = earlier
        return stop | later[0], jnp.where(stop, value, value + later[1])

    return jax.lax.associative_scan(join, (last, values), reverse=True, axis=1)[1]
