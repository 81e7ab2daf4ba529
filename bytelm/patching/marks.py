"""Where the patches of each level lie in the bytes of rows, and how far each byte is from them.

A level's newest vector is that of its last *boundary*: of the byte with which a patch opens, or, in
families whose patches end at boundaries (`Needs.mark`), of the byte with which one ends. The byte
after the boundary is the first one that is predicted with this vector. Its *lag* is 1, that of the
next byte 2, and so on, up to and including the byte at the next boundary.

So where patches open at boundaries, the byte of lag k is the (k+1)-th of its patch, and the last
lag is that of the next patch's first byte. Where patches end at them, it is the k-th byte of the
next patch. A document's first symbol counts as a boundary, also if the row has no slot left for it.

Shapes: B = rows, T = bytes, P = patches of a level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bytelm.core.statistics import Statistic
from bytelm.patching.ended import after_ends
from bytelm.patching.levels import Segmentation, take
from bytelm.patching.patches import Patches
from bytelm.patching.rules import Mark

BPB_AT_LAG = Statistic("bpb_at_lag", "bpb", divisor=math.log(2))
"""Bits of the text's bytes at each lag, in the classes of `LENGTHS`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchMarks:
    """A level's patches in the bytes of packed rows, all bool `[B, T]`."""

    boundaries: jax.Array  # the bytes at whose boundary a patch opened, or ended
    starts: jax.Array  # the bytes with which patches begin
    ignored: jax.Array  # the bytes at whose boundary there was no slot left


def find_marks(cuts: Sequence[Segmentation], mark: Mark) -> tuple[PatchMarks, ...]:
    """The marks of each level, from its segmentation, the outermost level first."""
    found: list[PatchMarks] = []
    for level, cut in enumerate(cuts):
        opened = _at_bytes(cut.patches.boundaries, cuts[:level])
        wanted = _at_bytes(cut.boundaries.hard, cuts[:level])
        starts = opened if mark == "start" else after_ends(opened, cuts[0].symbols.document_ids)
        found.append(PatchMarks(opened, starts, wanted & ~opened))
    return tuple(found)


def _at_bytes(flags: jax.Array, outer: Sequence[Segmentation]) -> jax.Array:
    """Flags of an inner level's symbols at the bytes where these symbols have their boundaries."""
    for cut in reversed(outer):
        patches: Patches = cut.patches
        flags = take(flags, jnp.maximum(patches.count - 1, 0)) & patches.boundaries
    return flags


def find_lags(boundaries: jax.Array, document_ids: jax.Array) -> jax.Array:
    """The lag of the byte after each symbol, from 1: bool and int32 `[B, T]` to int32 `[B, T]`."""
    index = jnp.arange(boundaries.shape[1])[None, :]
    renewed = boundaries | (jnp.diff(document_ids, axis=1, prepend=-1) != 0)
    return 1 + index - jax.lax.cummax(jnp.where(renewed, index, 0), axis=1)
