"""Levels: a sequence of symbols with a shorter sequence of patches inside.

A level runs an encoder over its symbols, cuts them into patches, pools each patch into one vector,
runs what is inside (the backbone, or another level) over these vectors, gives the results back to
the symbols (unpooling), and runs a decoder. The symbols of the outermost level are bytes; the
symbols of a level inside another one are the patches of the outer one.

One forward pass serves scoring and decoding. With `state` None it reads whole rows, in which
several documents may be packed. Otherwise it reads the next symbols of rows of one document each,
and returns the state after them. A patch may then go on from one call to the next: `OpenPatch` is
what its later symbols need to know.

Shapes: B = rows, N = symbols, P = patches, d and D = channels of symbols and of patches.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.nn.mesh import shard_rows
from bytelm.nn.stack import Stack, StackState
from bytelm.patching.patches import NO_PATCH, Patches, find_patches, positions_in_run
from bytelm.patching.segmenter import Boundaries, Segmenter


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Symbols:
    """The symbols of a level: whole rows, or the next N of rows that are being decoded.

    Attributes:
        ids: int32 `[B, N]`; for patches, the symbol with which each of them opens.
        document_ids: int32 `[B, N]`, 0 in padding and beyond `lengths`.
        positions: int32 `[B, N]`, the number of each symbol in its document, from 0.
        lengths: int32 `[B]`, how many of the N symbols each row really has; None for whole rows.
        keys: uint32 `[B, 2]`, random keys as in a `Batch`; None for deterministic boundaries.
    """

    ids: Any
    document_ids: jax.Array
    positions: Any
    lengths: Any = None
    keys: jax.Array | None = None

    @classmethod
    def of_rows(
        cls, ids: jax.Array, document_ids: jax.Array, keys: jax.Array | None = None
    ) -> "Symbols":
        """Whole rows of packed documents, int32 `[B, N]`."""
        return cls(ids, document_ids, positions_in_run(document_ids), keys=keys)

    @classmethod
    def following(cls, ids: jax.Array, seen: jax.Array, lengths: jax.Array) -> "Symbols":
        """The next symbols `[B, N]` of rows that have `seen` so many `[B]`, as in `extend`."""
        offsets = jnp.arange(ids.shape[1])[None, :]  # [1, N]
        document_ids = (offsets < lengths[:, None]).astype(jnp.int32)  # [B, N]
        return cls(ids, document_ids, seen[:, None] + offsets, lengths)

    def slots(self, document_ids: jax.Array, total: jax.Array) -> "Symbols":
        """Slots `[B, P]` made of these symbols, of which `total` `[B]` are filled."""
        lengths = None if self.lengths is None else total
        return Symbols(None, document_ids, None, lengths, self.keys)

    def patches(self, patches: Patches) -> "Symbols":
        """The patches of these symbols, as the symbols of the level inside."""
        return Symbols(
            ids=jnp.take_along_axis(self.ids, patches.positions, axis=1),  # [B, P]
            document_ids=patches.document_ids,
            positions=patches.number,
            lengths=None if self.lengths is None else patches.total,
            keys=self.keys,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchCount:
    """How many patches each row has opened, and how many more it has slots for, int32 `[B]`."""

    opened: jax.Array
    left: jax.Array

    @classmethod
    def none(cls, rows: int, capacity: int) -> "PatchCount":
        """The count of rows that have read nothing yet."""
        return cls(jnp.zeros((rows,), jnp.int32), jnp.full((rows,), capacity, jnp.int32))

    def after(self, total: jax.Array) -> "PatchCount":
        """The count after so many more patches `[B]`."""
        return PatchCount(self.opened + total, self.left - total)


def open_patches(
    boundaries: jax.Array,
    symbols: Symbols,
    capacity: Callable[[int], int],
    count: PatchCount | None = None,
    *,
    most: int | None = None,
) -> tuple[Patches, PatchCount | None]:
    """Opens patches at the boundaries for which the rows still have slots.

    Args:
        boundaries: bool `[B, N]`.
        symbols: where the boundaries were found.
        capacity: the number of patches that a whole row of so many symbols has slots for.
        count: the patches before these symbols; None for whole rows.
        most: the number of boundaries among N symbols, if it is known to be below N.
    """
    length = boundaries.shape[1]
    if count is None:
        return find_patches(boundaries, symbols.document_ids, capacity(length)), None
    patches = find_patches(boundaries, symbols.document_ids, most or length, slots_left=count.left)
    patches = replace(patches, number=count.opened[:, None] + patches.number)
    return patches, count.after(patches.total)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpenPatch:
    """What the next symbols of an unfinished patch need of it.

    Attributes:
        vector: `[B, D]`, the inner level's result for the patch; 0 before a row's first patch.
        position: int32 `[B]`, the position in its document at which it opened.
    """

    vector: jax.Array
    position: jax.Array

    @classmethod
    def none(cls, rows: int, width: int, dtype: jnp.dtype) -> "OpenPatch":
        """Of rows that have read nothing yet."""
        return cls(jnp.zeros((rows, width), dtype), jnp.zeros((rows,), jnp.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Segmentation:
    """Symbols cut into patches.

    Attributes:
        symbols: what was cut.
        boundaries: what the segmenter returned.
        patches: the patches that these symbols opened.
        open: the patch that was open before the first symbol; None for whole rows.
    """

    symbols: Symbols
    boundaries: Boundaries
    patches: Any
    open: OpenPatch | None = None

    def spread(self, y: jax.Array) -> jax.Array:
        """Gives each symbol its patch's vector: `[B, P, D] -> [B, N, D]`; 0 where it has none.

        The symbol with which a patch opens gets that patch's vector too.
        """
        return take(*self.read(y))

    def read(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The patches' vectors, that of the open patch first, and which one each symbol has.

        Returns:
            `[B, 1 + P, D]` of `[B, P, D]`, the first 0 in whole rows; and int32 `[B, N]`.
        """
        before = jnp.zeros_like(y[:, 0]) if self.open is None else self.open.vector
        return prepend(before, y), self.patches.index - NO_PATCH

    @property
    def offsets(self) -> jax.Array:
        """How many symbols after its patch opened each symbol comes, int32 `[B, N]`.

        A symbol without a patch counts from its document's start.
        """
        before = jnp.zeros_like(self._opened[:, 0]) if self.open is None else self.open.position
        opened = take(prepend(before, self._opened), self.patches.index - NO_PATCH)
        return self.symbols.positions - opened  # [B, N]

    @property
    def in_patch(self) -> jax.Array:
        """The symbols that have a patch, bool `[B, N]`; in decoding, every one that there is."""
        return (self.patches.index != NO_PATCH) | (self.open is not None)

    def after(self, y: jax.Array) -> OpenPatch | None:
        """The patch that is open after these symbols; `y` `[B, P, D]` are the patches' vectors."""
        if self.open is None:
            return None
        last = self.patches.total[:, None]  # [B, 1], 0 for the patch that was open before
        return OpenPatch(
            take(prepend(self.open.vector, y), last)[:, 0],
            take(prepend(self.open.position, self._opened), last)[:, 0],
        )

    @property
    def _opened(self) -> jax.Array:
        """The position in its document at which each patch opened, int32 `[B, P]`."""
        return take(self.symbols.positions, self.patches.positions)


def take(values: jax.Array, index: jax.Array) -> jax.Array:
    """`values[b, index[b, i]]`: `[B, N, ...]` and int `[B, M]` to `[B, M, ...]`."""
    return jax.vmap(lambda row, i: row[i])(values, index)


def prepend(first: jax.Array, values: jax.Array) -> jax.Array:
    """`[B, ...]` before `[B, P, ...]`: `[B, 1 + P, ...]`."""
    return jnp.concatenate([first[:, None].astype(values.dtype), values], axis=1)


def run(
    stack: Stack, x: jax.Array, symbols: Symbols, state: StackState | None, **options: Any
) -> tuple[jax.Array, StackState | None]:
    """Runs a stack over the symbols' vectors `[B, N, d]`, with the options of `Stack`."""
    if state is None:
        return stack(x, options.pop("group_ids", symbols.document_ids), **options), None
    return stack.extend(x, state, symbols.lengths, **options)


def run_patches(
    backbone: Stack, y: jax.Array, symbols: Symbols, state: StackState | None, **options: Any
) -> tuple[jax.Array, StackState | None]:
    """`run` over patches `[B, P, D]`; in decoding, only if any row has opened one."""
    return run_if_any(symbols, lambda: run(backbone, y, symbols, state, **options), y, state)


def run_if_any(
    symbols: Symbols, run: Callable[[], Any], y: jax.Array, state: Any
) -> tuple[jax.Array, Any]:
    """`run()` if any row has one of the symbols, else zeros of the shape of y and the state."""
    if symbols.lengths is None:
        return run()
    return jax.lax.cond((symbols.lengths > 0).any(), run, lambda: (jnp.zeros_like(y), state))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LevelState:
    """What a level remembers of the symbols before.

    Attributes:
        encoder, inner, decoder: the states of its parts.
        carry: of the segmenter.
        count: patches opened, and slots left.
        open: the unfinished patch.
    """

    encoder: Any = None
    carry: Any = None
    count: Any = None
    inner: Any = None
    open: Any = None
    decoder: Any = None


@dataclass(frozen=True)
class Level:
    """An encoder and a decoder around an inner level: `[B, N, d] -> [B, N, d]`.

    The parts belong to a model, which keeps them where it likes.

    Attributes:
        encoder: run over the symbols before they are cut.
        segmenter: says where patches start.
        pool: (x `[B, N, d]`, segmentation) -> what the inner level reads, `[B, P, D]`. It may use
            the symbols up to the one with which a patch opens.
        inner: the backbone, or another level.
        unpool: (x, y `[B, P, D]`, segmentation) -> what the decoder reads, `[B, N, d]`.
        decoder: run over the symbols at last.
        capacity: how many patches a row of so many symbols has slots for.
        width: D, channels of y.
        finish: (y, segmentation) -> y, applied to the inner level's result; `segmentation.open`
            then holds the finished vector of the patch before.
    """

    encoder: Stack
    segmenter: Segmenter
    pool: Callable[[jax.Array, Segmentation], jax.Array]
    inner: "Stack | Level"
    unpool: Callable[[jax.Array, jax.Array, Segmentation], jax.Array]
    decoder: Stack
    capacity: Callable[[int], int]
    width: int
    finish: Callable[[jax.Array, Segmentation], jax.Array] = lambda y, segmentation: y

    def __call__(
        self, x: jax.Array, symbols: Symbols, state: LevelState | None = None
    ) -> tuple[jax.Array, LevelState | None, tuple[Segmentation, ...]]:
        """Runs the level, and what is inside, over the symbols' vectors `[B, N, d]`.

        Returns:
            the vectors `[B, N, d]`, the state after the symbols, and the segmentations of this
            level and of those inside, which are not returned in decoding.
        """
        before = state or LevelState()
        x, encoder = run(self.encoder, x, symbols, before.encoder)
        boundaries, carry = self.segmenter(
            x, symbols.ids, symbols.document_ids, before.carry, symbols.keys
        )
        patches, count = open_patches(boundaries.hard, symbols, self.capacity, before.count)
        segmentation = Segmentation(symbols, boundaries, patches, before.open)
        y, inner, inside = self._run_inner(
            self.pool(x, segmentation), symbols.patches(patches), before.inner
        )
        y = self.finish(y, segmentation)
        x = self.unpool(x, y, segmentation)
        x, decoder = run(self.decoder, x, symbols, before.decoder)
        if state is None:
            return x, None, (segmentation, *inside)
        return x, LevelState(encoder, carry, count, inner, segmentation.after(y), decoder), ()

    def _run_inner(
        self, y: jax.Array, symbols: Symbols, state: Any
    ) -> tuple[jax.Array, Any, tuple[Segmentation, ...]]:
        inner, y = self.inner, shard_rows(y)
        if not isinstance(inner, Level):
            return *run_patches(inner, y, symbols, state), ()
        if state is None:
            return inner(y, symbols)
        return *run_if_any(symbols, lambda: inner(y, symbols, state)[:2], y, state), ()

    def init_state(self, rows: int, length: int, dtype: jnp.dtype) -> LevelState:
        """The state before the first symbol of rows of at most `length` symbols."""
        capacity = self.capacity(length)
        return LevelState(
            encoder=self.encoder.init_state(rows, length, dtype),
            carry=self.segmenter.init_carry(rows, length, dtype),
            count=PatchCount.none(rows, capacity),
            inner=self.inner.init_state(rows, capacity, dtype),
            open=OpenPatch.none(rows, self.width, dtype),
            decoder=self.decoder.init_state(rows, length, dtype),
        )
