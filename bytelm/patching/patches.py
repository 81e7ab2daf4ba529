"""Patches: runs of bytes of one document, gathered to vectors and spread back over the bytes.

Everything is O(T): integer cumulative sums, gathers, and segment sums; no `[T, P]` one-hot.

The capacity P is static. A row that has opened P patches opens no more: the bytes that follow in
the same document stay in its last patch. That depends on the prefix alone, so it is causal, and
every byte is still read and scored. A document that begins when no patch is left has none.

Shapes: B = rows, T = symbols, P = patches, d = channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bytelm.core.statistics import Ratio, Statistic

NO_PATCH = -1
"""The patch of a symbol that is in none: before its document's first, or padding."""
LENGTHS = {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9-16": 16, "17-32": 32, "33+": math.inf}
"""Classes of patch lengths, and the longest of each."""
OVERFLOW = Statistic("overflow", "share")
"""Share of the boundaries that are ignored because the capacity is used up."""
MOST_OVERFLOW = 0.01
"""Overflow above which a user is warned."""
LEAST_SCORE = -1e30
"""Score of what is not there. Finite, so that its gradient is 0 and not NaN."""


@dataclass(frozen=True)
class TooFewSlots:
    """Warns where much overflows, and says which capacity would do.

    Attributes:
        symbols_per_slot: symbols of a row for each of its slots.
    """

    symbols_per_slot: float

    def __call__(self, values: Mapping[str, float]) -> str | None:
        overflow = values["overflow"]
        if overflow <= MOST_OVERFLOW:
            return None
        # Enough for the mean row, with a tenth to spare; or, where rows differ, more than now.
        mean = values["bytes_per_patch"] * (1 - overflow) / 1.1
        enough = min(mean, 0.8 * self.symbols_per_slot)
        return (
            f"{overflow:.1%} of the patches found no free slot in their row, and their bytes "
            f"stayed in the patch before; set model.bytes_per_slot to {max(1.0, enough):.2f} or "
            "less."
        )


def overflow_ratio(overflow: jax.Array, opened: jax.Array, symbols_per_slot: float) -> Ratio:
    """The share of boundaries that overflowed, with a warning if that is much."""
    return OVERFLOW(overflow, opened + overflow, warn=TooFewSlots(symbols_per_slot))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Patches:
    """The patches of packed rows, from the places where they open.

    Attributes:
        at: int32 `[B, P]`, the symbol at which each patch opens; 0 where there is none.
        valid: bool `[B, P]`, which patches there are: the first ones.
        document_ids: int32 `[B, P]`, the document of each; 0 where there is none.
        number: int32 `[B, P]`, its number among its document's patches in the row, from 0.
        opened: bool `[B, T]`, the symbols at which a patch opens.
        count: int32 `[B, T]`, patches of the row opened up to and including each symbol.
        of_symbol: int32 `[B, T]`, the patch each symbol is in: the last one of its document to
            open; NO_PATCH if none.
        refused: int32 scalar, places where one would have opened had there been room.
    """

    at: jax.Array
    valid: jax.Array
    document_ids: jax.Array
    number: jax.Array
    opened: jax.Array
    count: jax.Array
    of_symbol: jax.Array
    refused: jax.Array

    @property
    def total(self) -> jax.Array:
        """int32 `[B]`, patches of each row."""
        return self.valid.sum(axis=1)

    @property
    def statistics(self) -> tuple[Ratio, ...]:
        """The share of boundaries that overflowed."""
        slots = self.at.shape[1]
        return (overflow_ratio(self.refused, self.valid.sum(), self.of_symbol.shape[1] / slots),)


def find_patches(
    marks: jax.Array, document_ids: jax.Array, capacity: int, *, room: jax.Array | None = None
) -> Patches:
    """Opens patches at the marked symbols, as far as there is room.

    Args:
        marks: bool `[B, T]`, where patches are to open; False in padding.
        document_ids: int32 `[B, T]`.
        capacity: P.
        room: int32 `[B]`, how many may still open in each row; None for P.
    """
    most = capacity if room is None else jnp.minimum(room, capacity)[:, None]
    opened = marks & (jnp.cumsum(marks, axis=1) <= most)
    count = jnp.cumsum(opened, axis=1)
    at = jax.vmap(lambda row: jnp.nonzero(row, size=capacity, fill_value=0)[0])(opened)
    valid = jnp.arange(capacity)[None, :] < count[:, -1:]
    of_patch = jnp.where(valid, jnp.take_along_axis(document_ids, at, axis=1), 0)
    last = jnp.maximum(count - 1, 0)
    own = (count > 0) & (jnp.take_along_axis(of_patch, last, axis=1) == document_ids)
    return Patches(
        at=at,
        valid=valid,
        document_ids=of_patch,
        number=positions_in_segment(of_patch),
        opened=opened,
        count=count,
        of_symbol=jnp.where(own & (document_ids > 0), last, NO_PATCH),
        refused=marks.sum() - opened.sum(),
    )


def count_lengths(starts: jax.Array, document_ids: jax.Array) -> jax.Array:
    """How many patches have each length, int32 `[len(LENGTHS)]`, in the classes of `LENGTHS`.

    A patch ends where another, another document or padding begins, or with its row.

    Args:
        starts: bool `[B, T]`, the symbols with which patches start.
        document_ids: int32 `[B, T]`.
    """
    length = starts.shape[1]
    edges = starts | (jnp.diff(document_ids, axis=1, prepend=-1) != 0)
    index = jnp.where(edges, jnp.arange(length)[None, :], length)
    following = jax.lax.cummin(index, axis=1, reverse=True)
    following = jnp.pad(following[:, 1:], ((0, 0), (0, 1)), constant_values=length)
    lengths = following - jnp.arange(length)[None, :]
    longest = jnp.array(list(LENGTHS.values())[:-1])
    classes = (lengths[:, :, None] > longest[None, None, :]).sum(axis=2)
    found = (classes[:, :, None] == jnp.arange(len(LENGTHS))[None, None, :]) & starts[:, :, None]
    return found.sum(axis=(0, 1))


def positions_in_segment(document_ids: jax.Array) -> jax.Array:
    """Each position's number within its segment's run in the row, from 0: `[B, T] -> [B, T]`."""
    index = jnp.arange(document_ids.shape[1])[None, :]
    first = jnp.diff(document_ids, axis=1, prepend=-1) != 0
    return index - jax.lax.cummax(jnp.where(first, index, 0), axis=1)


@jax.custom_vjp
def gather_first(x: jax.Array, patches: Patches) -> jax.Array:
    """The vector at which each patch opens, `[B, T, d] -> [B, P, d]`; 0 where there is none."""
    picked = jnp.take_along_axis(x, patches.at[:, :, None], axis=1)
    return jnp.where(patches.valid[:, :, None], picked, 0)


@jax.custom_vjp
def spread_first(y: jax.Array, patches: Patches) -> jax.Array:
    """Puts each patch's vector where it opens, `[B, P, d] -> [B, T, d]`; 0 elsewhere."""
    index = jnp.maximum(patches.count - 1, 0)
    picked = jnp.take_along_axis(y, index[:, :, None], axis=1)
    return jnp.where(patches.opened[:, :, None], picked, 0)


# Each is the other's transpose, so that no backward pass needs a scatter.
gather_first.defvjp(
    lambda x, patches: (gather_first(x, patches), patches),
    lambda patches, gradient: (spread_first(gradient, patches), None),
)
spread_first.defvjp(
    lambda y, patches: (spread_first(y, patches), patches),
    lambda patches, gradient: (gather_first(gradient, patches), None),
)


def gather_last(x: jax.Array, patches: Patches) -> jax.Array:
    """The vector of each patch's last symbol in the row, `[B, T, d] -> [B, P, d]`."""
    length, capacity = x.shape[1], patches.at.shape[1]
    index = jnp.where(patches.of_symbol == NO_PATCH, capacity, patches.of_symbol)
    last = jax.vmap(
        lambda row: jax.ops.segment_max(
            jnp.arange(length), row, capacity + 1, indices_are_sorted=False
        )
    )(index)[:, :capacity]
    picked = jnp.take_along_axis(x, jnp.clip(last, 0, length - 1)[:, :, None], axis=1)
    return jnp.where(patches.valid[:, :, None], picked, 0)


def sum_patches(x: jax.Array, patches: Patches) -> jax.Array:
    """The sum of the vectors of each patch's symbols, `[B, T, d] -> [B, P, d]`."""
    capacity = patches.at.shape[1]
    index = jnp.where(patches.of_symbol == NO_PATCH, capacity, patches.of_symbol)
    total = jax.vmap(lambda row, i: jax.ops.segment_sum(row, i, capacity + 1))(x, index)
    return total[:, :capacity]


def mean_patches(x: jax.Array, patches: Patches) -> jax.Array:
    """The mean of the vectors of each patch's symbols, `[B, T, d] -> [B, P, d]`, in float32."""
    sizes = sum_patches(jnp.ones((*x.shape[:2], 1), jnp.float32), patches)
    return sum_patches(x.astype(jnp.float32), patches) / jnp.maximum(sizes, 1)


def spread_patches(y: jax.Array, patches: Patches, *, shift: int = 0) -> jax.Array:
    """Gives each symbol its patch's vector, `[B, P, d] -> [B, T, d]`; 0 where it has none.

    Args:
        shift: how many patches back in the same document the vector comes from. With 1, a symbol
            gets what the patches before its own say, and its own patch may hold later symbols.
    """
    index = jnp.maximum(patches.of_symbol, 0)
    number = jnp.take_along_axis(patches.number, index, axis=1)
    exists = (patches.of_symbol != NO_PATCH) & (number >= shift)
    picked = jnp.take_along_axis(y, jnp.maximum(index - shift, 0)[:, :, None], axis=1)
    return jnp.where(exists[:, :, None], picked, 0)


def attention_pool(
    scores: jax.Array, values: jax.Array, index: jax.Array, groups: int
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of one query per group over the group's members.

    Args:
        scores: `[B, N, H]`, the query's score of each member, for each of H heads.
        values: `[B, N, H, K]`.
        index: int32 `[B, N]`, the group of each member; `groups` for none.
        groups: how many there are.

    Returns:
        the mean values `[B, groups, H, K]` and the log-sum-exp of the scores `[B, groups, H]`, in
        float32. Together they stand for the group as one member of a larger one. An empty group
        has values 0 and a finite log-sum-exp that weighs nothing.
    """

    def row(scores: jax.Array, values: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        top = jax.lax.stop_gradient(jax.ops.segment_max(scores, index, groups + 1))
        top = jnp.maximum(top, LEAST_SCORE)
        weights = jnp.exp(scores - top[index])
        total = jax.ops.segment_sum(weights, index, groups + 1)
        mixed = jax.ops.segment_sum(weights[:, :, None] * values, index, groups + 1)
        total = jnp.where(total > 0, total, 1.0)
        return (mixed / total[:, :, None])[:groups], (top + jnp.log(total))[:groups]

    return jax.vmap(row)(scores.astype(jnp.float32), values.astype(jnp.float32), index)
