"""The unfinished patch of rows that are being decoded: what patches read of their symbols.

A patch that is read once it has ended (`bytelm.patching.ended`) may be pooled from its symbols, and
may attend to them (`bytelm.patching.cross_attention`). In decoding, its symbols come in several
calls. Until it ends, the result of pooling is one more member of it, and the symbols' keys and
values stay in caches, each with the number of its patch.

Shapes: B = rows, N = symbols, P = patches, S = entries of a cache, d = channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.nn.state import KeyValueCache, NewPositions
from bytelm.patching.cross_attention import Members, PoolingKind, pool
from bytelm.patching.levels import Segmentation, prepend, take

KeysValues = tuple[jax.Array, jax.Array]
"""Of symbols, `[B, N, H, K]` each."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UnfinishedPatch:
    """The unfinished patch, and the symbols that a later one may read."""

    pooled: tuple[jax.Array, ...]  # [B, d] each, by each kind of pooling
    size: jax.Array  # float32 [B], its symbols
    numbers: Any
    """Int32 `[B, S]`, the patch of the row to which each entry of the caches belongs, or -1; None
    without caches."""
    caches: tuple[KeyValueCache, ...]  # keys and values, for each cross-attention

    @classmethod
    def none(cls, pooled: tuple[jax.Array, ...], caches: tuple[KeyValueCache, ...]) -> Any:
        """For rows that have read nothing yet; `pooled` and caches are zeros."""
        numbers = None
        if caches:
            entries = sum(part.shape[2] for part in caches[0].keys)
            numbers = jnp.full((len(pooled[0]), entries), -1, jnp.int32)
        return cls(pooled, jnp.zeros((len(pooled[0]),)), numbers, caches)

    def after(
        self, places: jax.Array, cut: Segmentation, opened: Any, new: Sequence[KeysValues]
    ) -> "UnfinishedPatch":
        """With the new symbols' keys and values, in the cache of each cross-attention.

        Args:
            places: from `places_of`.
            opened: int32 `[B]`, patches before these symbols.
        """
        if self.numbers is None:
            return self
        size, symbols = self.numbers.shape[1], cut.symbols
        number = opened[:, None] + jnp.minimum(places, cut.patches.total[:, None])  # [B, N]
        length = symbols.positions[:, :1] + symbols.lengths[:, None]  # [B, 1]
        kept = (symbols.document_ids > 0) & (symbols.positions >= length - size)
        entries = jnp.where(kept, symbols.positions % size, size)
        rows = jnp.arange(len(places))[:, None]
        numbers = self.numbers.at[rows, entries].set(number, mode="drop")
        where = NewPositions(
            entries, symbols.positions, number, self.numbers, self.numbers, jnp.int32(size)
        )
        written = (
            where.extend(cache, *pair)[0] for cache, pair in zip(self.caches, new, strict=True)
        )
        return replace(self, numbers=numbers, caches=tuple(written))


def places_of(cut: Segmentation) -> jax.Array:
    """Where each symbol belongs, int32 `[B, N]`.

    The patch of these that ends, 0 to P - 1; P for an unfinished patch, P + 1 for padding.
    """
    slots = cut.patches.null.shape[1]
    return jnp.where(cut.symbols.document_ids > 0, cut.patches.index, slots + 1)


def pool_patches(
    kinds: Sequence[PoolingKind],
    x: jax.Array,
    places: jax.Array,
    cut: Segmentation,
    before: UnfinishedPatch | None,
) -> tuple[list[jax.Array], UnfinishedPatch | None]:
    """Pools symbols `[B, N, d]` by each kind: `[B, P, d]` each, and the unfinished patch."""
    slots = cut.patches.null.shape[1]
    counts, parts = (places <= slots).astype(jnp.float32), [x] * len(kinds)
    if before is not None:  # what was read of the first patch is one of its members
        counts = prepend(before.size, counts)
        places = prepend(jnp.where(cut.patches.total > 0, 0, slots), places)
        parts = [prepend(each, x) for each in before.pooled]
    found = [
        pool(kind, part, counts, places, slots + 1) for kind, part in zip(kinds, parts, strict=True)
    ]
    if before is not None:
        size = (counts * (places == slots)).sum(axis=1)
        before = replace(before, pooled=tuple(each[:, slots] for each in found), size=size)
    return [each[:, :slots] for each in found], before


def members_of(
    places: jax.Array,
    cut: Segmentation,
    window: int,
    before: UnfinishedPatch | None,
    opened: Any,
) -> Members:
    """Which symbols each patch reads: its own, and those of the window - 1 patches before it.

    In decoding `before` is the unfinished patch, and `opened`, int32 `[B]`, counts the patches
    before these symbols. A patch then reads as many symbols as the caches have entries: where slots
    were used up, it has more than its greatest length.
    """
    documents = cut.patches.document_ids
    slots = documents.shape[1]
    groups = []
    for ahead in range(window):
        group = jnp.minimum(places + ahead, slots)
        here, there = (take(documents, jnp.minimum(i, slots - 1)) for i in (places, group))
        groups.append(jnp.where((places < slots) & (here == there), group, slots))
    stacked = jnp.stack(groups, axis=1)  # [B, W, N]
    if before is None or before.numbers is None:
        return Members(stacked)
    size, positions = before.numbers.shape[1], cut.symbols.positions
    ends = _ends(cut)
    of_group = take(ends, jnp.minimum(stacked, slots - 1).reshape(len(ends), -1))
    is_kept = positions[:, None, :] > of_group.reshape(stacked.shape) - size
    stacked = jnp.where(is_kept, stacked, slots)
    patch = opened[:, None, None] + jnp.arange(min(window, slots))[None, :, None]  # [B, J, 1]
    number = before.numbers[:, None, :]  # [B, 1, S]
    last = positions[:, :1] - 1  # [B, 1]
    entries = last - (last - jnp.arange(size)[None, :]) % size  # [B, S], their positions
    is_kept = entries[:, None, :] > ends[:, : patch.shape[1], None] - size
    return Members(stacked, is_kept & (number >= 0) & (number <= patch) & (number > patch - window))


def _ends(cut: Segmentation) -> jax.Array:
    """The position of each patch's last symbol, int32 `[B, P]`; 0 in an empty slot."""
    slots = cut.patches.null.shape[1]
    index = jnp.where(cut.patches.boundaries, cut.patches.index, slots)

    def row(positions: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.zeros((slots,), jnp.int32).at[index].set(positions, mode="drop")

    return jax.vmap(row)(cut.symbols.positions, index)
