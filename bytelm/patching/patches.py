"""Patches: runs of bytes of one document. Find them, gather their vectors, spread vectors back.

Here a patch opens at its boundary; in `bytelm.patching.ended` it ends there. Everything is O(T):
cumulative sums, gathers and sums by index, no `[T, P]` one-hot.

The capacity P is static. A row that has opened P patches opens no more, and the later bytes of the
same document stay in its last patch. That depends on the prefix alone, so it is causal, and every
byte is still read and scored. A document that begins when no slot is left has no patch.

Shapes: B = rows, T = symbols, P = patches, d = channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.core.statistics import Ratio, Statistic
from bytelm.nn.sequence import add_at, max_at, take

NO_PATCH = -1
"""The patch of symbols in padding, and of those before their document's first patch."""
LENGTHS = {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9-16": 16, "17-32": 32, "33+": math.inf}
"""Classes of patch lengths, and the longest of each."""
BYTES_PER_PATCH = Statistic("bytes_per_patch", "B/patch")
SYMBOLS_PER_PATCH = Statistic("symbols_per_patch", "symbols/patch")
"""Of an inner level, whose symbols are the patches of the level around it."""
PATCH_LENGTH = Statistic("patch_length", "share")
"""Share of the patches that have each length in bytes, in the classes of `LENGTHS`."""
OVERFLOW = Statistic("overflow", "share")
"""Share of the boundaries that are ignored because the capacity is used up."""
BYTES_PER_SLOT = "bytes_per_slot"
"""The option that sets the capacity of the outermost level."""
MOST_OVERFLOW = 0.01
"""Overflow above which a user is warned."""
LEAST_SCORE = -1e30
"""Score of a member that does not exist. Finite, so that its gradient is 0 and not NaN."""


@dataclass(frozen=True)
class TooFewSlots:
    """Warns of much overflow in a level, and suggests a value of its `option`."""

    symbols_per_slot: float
    option: str = BYTES_PER_SLOT
    level: int = 1

    def __call__(self, values: Mapping[str, float]) -> str | None:
        overflow = values[OVERFLOW.at(self.level).name]
        if overflow <= MOST_OVERFLOW:
            return None
        # Enough for the mean row and a tenth more; or, if rows differ, more than now.
        is_outermost = self.level == 1
        length = BYTES_PER_PATCH if is_outermost else SYMBOLS_PER_PATCH.at(self.level)
        enough = min(values[length.name] * (1 - overflow) / 1.1, 0.8 * self.symbols_per_slot)
        cure = f"set model.{self.option} to {max(1.0, enough):.2f} or less"
        if enough < 1:
            cure = f"most symbols are boundaries: change model.segmenter, or {cure}"
        return (
            f"{overflow:.1%} of the patches{'' if is_outermost else f' of level {self.level}'} "
            f"found no free slot in their row, and their {'bytes' if is_outermost else 'symbols'} "
            f"stayed in the patch before; {cure}."
        )


def overflow_ratio(patches: Any, option: str = BYTES_PER_SLOT, level: int = 1) -> Ratio:
    """The share of boundaries that overflowed, with a warning if that is much.

    Of a level's `Patches` or `EndedPatches`; `option` sets its capacity.
    """
    wanted = patches.total.sum() + patches.overflow
    warn = TooFewSlots(patches.index.shape[1] / patches.document_ids.shape[1], option, level)
    return OVERFLOW.at(level)(patches.overflow, wanted, warn=warn)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Patches:
    """The patches of packed rows."""

    positions: jax.Array  # int32 [B, P], the symbol at which each patch opens; 0 in an empty slot
    valid: jax.Array  # bool [B, P], the slots that hold a patch: the first ones
    document_ids: jax.Array  # int32 [B, P], the document of each; 0 in an empty slot
    number: jax.Array  # int32 [B, P], its number among its document's patches in the row, from 0
    boundaries: jax.Array  # bool [B, T], the symbols at which a patch opens
    count: jax.Array  # int32 [B, T], patches of the row opened up to and including each symbol
    index: jax.Array
    """Int32 `[B, T]`, the patch that holds each symbol: the last one of its document to open;
    NO_PATCH if none."""
    ignored: jax.Array  # int32 [B], boundaries ignored because the capacity is used up

    @property
    def overflow(self) -> jax.Array:
        """Int32 scalar, the ignored boundaries of all rows."""
        return self.ignored.sum()

    @property
    def total(self) -> jax.Array:
        """int32 `[B]`, patches of each row."""
        return self.valid.sum(axis=1)


def slots(symbols: float, symbols_per_slot: float) -> int:
    """The capacity of a level: slots for patches in a row of N symbols, at least one."""
    return max(1, math.ceil(symbols / symbols_per_slot - 1e-6))


def find_patches(
    boundaries: jax.Array,
    document_ids: jax.Array,
    capacity: int,
    *,
    slots_left: jax.Array | None = None,
) -> Patches:
    """Opens patches at the boundaries, bool `[B, T]` (False in padding), while there are slots.

    P is the capacity. `slots_left`, int32 `[B, T]`, is how many may open up to each symbol, no
    fewer than up to the one before; None for P.
    """
    wanted = jnp.cumsum(boundaries, axis=1)  # [B, T]
    if slots_left is None:
        count = jnp.minimum(wanted, capacity)
    else:
        # A boundary without a slot is lost, however many slots come later.
        lost = jnp.maximum(wanted - jnp.minimum(slots_left, capacity), 0)
        count = wanted - jax.lax.cummax(jnp.where(boundaries, lost, 0), axis=1)
    opened = jnp.diff(count, axis=1, prepend=0) > 0  # [B, T]
    positions = jax.vmap(lambda row: jnp.nonzero(row, size=capacity, fill_value=0)[0])(opened)
    valid = jnp.arange(capacity)[None, :] < count[:, -1:]  # [B, P]
    documents = jnp.where(valid, jnp.take_along_axis(document_ids, positions, axis=1), 0)
    last = jnp.maximum(count - 1, 0)  # [B, T]
    own = (count > 0) & (jnp.take_along_axis(documents, last, axis=1) == document_ids)
    return Patches(
        positions=positions,
        valid=valid,
        document_ids=documents,
        number=positions_in_run(documents),
        boundaries=opened,
        count=count,
        index=jnp.where(own & (document_ids > 0), last, NO_PATCH),
        ignored=wanted[:, -1] - count[:, -1],
    )


def count_lengths(starts: jax.Array, document_ids: jax.Array) -> jax.Array:
    """How many patches have each length, int32 `[len(LENGTHS)]`, in the classes of `LENGTHS`.

    A patch begins where `starts`, bool `[B, T]`, is True. It ends where another patch, another
    document or padding begins, or with its row.
    """
    length = starts.shape[1]
    edges = starts | (jnp.diff(document_ids, axis=1, prepend=-1) != 0)
    index = jnp.where(edges, jnp.arange(length)[None, :], length)
    following = jax.lax.cummin(index, axis=1, reverse=True)
    following = jnp.pad(following[:, 1:], ((0, 0), (0, 1)), constant_values=length)
    lengths = following - jnp.arange(length)[None, :]  # [B, T]
    return sum_by_length(starts.astype(jnp.int32), lengths)


def sum_by_length(values: jax.Array, lengths: jax.Array) -> jax.Array:
    """Sums of values `[B, T]` by the classes of their lengths, int `[B, T]`: `[len(LENGTHS)]`."""
    longest = jnp.array(list(LENGTHS.values())[:-1])
    classes = (lengths[:, :, None] > longest[None, None, :]).sum(axis=2)  # [B, T]
    found = classes[:, :, None] == jnp.arange(len(LENGTHS))[None, None, :]
    return jnp.where(found, values[:, :, None], 0).sum(axis=(0, 1))


def positions_in_run(values: jax.Array) -> jax.Array:
    """Each position's number within its run of equal values, from 0: int `[B, T] -> [B, T]`.

    Of document ids, that is the position in the document.
    """
    index = jnp.arange(values.shape[1])[None, :]
    first = jnp.diff(values, axis=1, prepend=-1) != 0
    return index - jax.lax.cummax(jnp.where(first, index, 0), axis=1)


@jax.custom_vjp
def gather_first(x: jax.Array, patches: Patches) -> jax.Array:
    """The vector at which each patch opens, `[B, T, d] -> [B, P, d]`; 0 in an empty slot."""
    picked = take(x, patches.positions)  # [B, P, d]
    return jnp.where(patches.valid[:, :, None], picked, 0)


@jax.custom_vjp
def spread_first(y: jax.Array, patches: Patches) -> jax.Array:
    """Puts each patch's vector where it opens, `[B, P, d] -> [B, T, d]`; 0 elsewhere."""
    index = jnp.maximum(patches.count - 1, 0)
    picked = take(y, index)  # [B, T, d]
    return jnp.where(patches.boundaries[:, :, None], picked, 0)


# Each is the other's transpose, so that no backward pass needs a scatter.
gather_first.defvjp(
    lambda x, patches: (gather_first(x, patches), patches),
    lambda patches, gradient: (spread_first(gradient, patches), None),
)
spread_first.defvjp(
    lambda y, patches: (spread_first(y, patches), patches),
    lambda patches, gradient: (gather_first(gradient, patches), None),
)


def attention_pool(
    scores: jax.Array, values: jax.Array, index: jax.Array, groups: int
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of one query per group over the group's members.

    Args:
        scores: `[B, N, H]`, the query's score of each member, for each of H heads.
        values: `[B, N, H, K]`.
        index: int32 `[B, N]`, the group of each member; `groups` for none.
        groups: the number of groups.

    Returns:
        the mean values `[B, groups, H, K]` and the log-sum-exp of the scores `[B, groups, H]`, in
        float32. Together they can stand for the group as one member of a larger group. An empty
        group has values 0 and a finite log-sum-exp that weighs nothing.
    """
    scores, values = scores.astype(jnp.float32), values.astype(jnp.float32)
    top = jax.lax.stop_gradient(max_at(jax.lax.stop_gradient(scores), index, groups))
    top = jnp.maximum(top, LEAST_SCORE)  # [B, groups, H]
    scores -= take(top, jnp.minimum(index, groups - 1))
    weights = jnp.exp(jnp.where((index < groups)[:, :, None], scores, LEAST_SCORE))  # [B, N, H]
    total = add_at(weights, index, groups)
    mixed = add_at(weights[..., None] * values, index, groups)
    total = jnp.where(total > 0, total, 1.0)
    return mixed / total[..., None], top + jnp.log(total)
