"""Levels: a sequence of symbols with a shorter sequence of patches inside.

A level runs an encoder over its symbols, cuts them into patches, pools each patch into one vector,
runs an inner level or the backbone over these vectors, unpools the results to the symbols, and runs
a decoder. The symbols of the outermost level are bytes; those of an inner level are the patches of
the level around it.

One forward pass serves scoring and decoding. With `state` None it reads whole rows, in which
several documents may be packed. Otherwise it reads the next symbols of rows of one document each,
and returns the state after them. A patch may then continue in the next call; `OpenPatch` holds the
vector for its later symbols.

Shapes: B = rows, N = symbols, P = patches, d and D = channels of symbols and of patches.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.nn.mesh import shard_rows, whole_rows
from bytelm.nn.sequence import prepend, take
from bytelm.nn.stack import AnyStack
from bytelm.nn.stack_state import is_watched
from bytelm.patching.budget import Budget
from bytelm.patching.patches import NO_PATCH, find_patches, positions_in_run
from bytelm.patching.segmenter import Boundaries, Segmenter


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Symbols:
    """The symbols of a level: whole rows, or the next N of rows that are being decoded."""

    ids: Any  # int32 [B, N]; for patches, the symbol with which each of them opens
    document_ids: jax.Array  # int32 [B, N], 0 in padding and beyond `lengths`
    positions: Any  # int32 [B, N], the number of each symbol in its document, from 0
    lengths: Any = None
    """Int32 `[B]`, how many of the N symbols each row really has; None for whole rows."""
    keys: jax.Array | None = None
    """Uint32 `[B, 2]`, random keys as in a `Batch`; None for deterministic boundaries."""
    before: jax.Array | None = None
    """Int32 `[B, K]`, the last K symbols before these, the newest last, if the model looks back;
    None for whole rows."""
    entropies: jax.Array | None = None
    """Float32 `[B, N]`, as in a `Batch`, for a segmenter with an entropy model."""

    @classmethod
    def of_rows(
        cls,
        ids: jax.Array,
        document_ids: jax.Array,
        keys: jax.Array | None = None,
        entropies: jax.Array | None = None,
    ) -> "Symbols":
        """Whole rows of packed documents, int32 `[B, N]`."""
        positions = whole_rows(positions_in_run(document_ids))
        return cls(ids, document_ids, positions, keys=keys, entropies=entropies)

    @classmethod
    def following(
        cls,
        ids: jax.Array,
        seen: jax.Array,
        lengths: jax.Array,
        before: jax.Array | None = None,
    ) -> "Symbols":
        """The next symbols `[B, N]` of rows that have read `seen` `[B]` symbols before."""
        offsets = jnp.arange(ids.shape[1])[None, :]  # [1, N]
        document_ids = (offsets < lengths[:, None]).astype(jnp.int32)  # [B, N]
        return cls(ids, document_ids, seen[:, None] + offsets, lengths, before=before)

    @property
    def recent(self) -> jax.Array | None:
        """`before` for the symbols after these."""
        if self.before is None:
            return None
        index = self.lengths[:, None] + jnp.arange(self.before.shape[1])[None, :]  # [B, K]
        return take(jnp.concatenate([self.before, self.ids], axis=1), index)

    def inner(
        self, document_ids: jax.Array, total: jax.Array, ids: Any = None, positions: Any = None
    ) -> "Symbols":
        """Slots `[B, P]`, `total` `[B]` of them filled, as the symbols of a backbone."""
        lengths = None if self.lengths is None else total
        return Symbols(ids, document_ids, positions, lengths, self.keys)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchingState:
    """The state of cutting symbols into patches."""

    carry: Any  # of the segmenter
    opened: jax.Array  # int32 [B], patches that each row has opened
    ignored: jax.Array  # int32 [B], its boundaries that found no slot
    most: jax.Array  # int32 [B], patches that it may open in all; with 0 it opens no more
    budget: Budget = field(metadata={"static": True})

    @classmethod
    def start(
        cls, segmenter: Segmenter, rows: int, length: int, budget: Budget, dtype: jnp.dtype
    ) -> "PatchingState":
        """Before the first of at most `length` symbols."""
        carry, zeros = segmenter.init_carry(rows, length, dtype), jnp.zeros((rows,), jnp.int32)
        return cls(carry, zeros, zeros, zeros + budget.entries, budget)

    def slots_left(self, positions: jax.Array) -> jax.Array:
        """Slots that each row has left at symbols of these numbers, int32 `[B, N]`."""
        slots = jnp.minimum(self.budget.at(positions), self.most[:, None])
        return jnp.maximum(slots - self.opened[:, None], 0)

    def after(self, carry: Any, patches: Any) -> "PatchingState":
        """After symbols that opened or ended these `patches`."""
        opened, ignored = self.opened + patches.total, self.ignored + patches.ignored
        return replace(self, carry=carry, opened=opened, ignored=ignored)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpenPatch:
    """An unfinished patch, for the symbols that continue it."""

    vector: jax.Array
    """`[B, D]`, the inner level's result for the patch; 0 before a row's first patch."""
    position: jax.Array  # int32 [B], where in its document it opened

    @classmethod
    def none(cls, rows: int, width: int, dtype: jnp.dtype) -> "OpenPatch":
        """For rows that have read nothing yet."""
        return cls(jnp.zeros((rows, width), dtype), jnp.zeros((rows,), jnp.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Segmentation:
    """Symbols cut into patches."""

    symbols: Symbols
    boundaries: Boundaries  # of these symbols, from the segmenter
    patches: Any  # the patches that these symbols opened (or ended: `EndedPatches`)
    open: OpenPatch | None = None
    """The patch that was open before the first symbol; None for whole rows."""

    def spread(self, y: jax.Array) -> jax.Array:
        """Gives each symbol its patch's vector: `[B, P, D] -> [B, N, D]`; 0 where it has none.

        The first symbol of a patch already gets that patch's vector.
        """
        return take(*self.read(y))

    def read(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The patches' vectors with the open patch's in front, and the index of each symbol's.

        From `[B, P, D]`: `[B, 1 + P, D]`, the first 0 in whole rows, and int32 `[B, N]`. Raises
        ValueError in decoding if y and the stored open patch differ in width.
        """
        if self.open is not None and y.shape[-1] != self.open.vector.shape[-1]:
            raise ValueError(
                f"the patches' vectors have {y.shape[-1]} channels, and the stored open patch has "
                f"{self.open.vector.shape[-1]}: in `Level.unpool`, spread y before you project "
                "it, or project it in `finish`, whose result has `width` channels."
            )
        before = jnp.zeros_like(y[:, 0]) if self.open is None else self.open.vector
        return prepend(before, y), self.patches.index - NO_PATCH

    @property
    def offsets(self) -> jax.Array:
        """The place of each symbol in its patch, from 0, int32 `[B, N]`.

        Symbols without a patch count from their document's start.
        """
        before = jnp.zeros_like(self._opened[:, 0]) if self.open is None else self.open.position
        opened = take(prepend(before, self._opened), self.patches.index - NO_PATCH)
        return self.symbols.positions - opened  # [B, N]

    @property
    def in_patch(self) -> jax.Array:
        """The symbols that have a patch, bool `[B, N]`; in decoding all of them."""
        return (self.patches.index != NO_PATCH) | (self.open is not None)

    @property
    def inner_symbols(self) -> Symbols:
        """The patches as the symbols of the inner level, each with the id of its first symbol."""
        patches = self.patches
        ids = self.symbols.ids if self.boundaries.ids is None else self.boundaries.ids
        ids = take(ids, patches.positions)  # [B, P]
        return self.symbols.inner(patches.document_ids, patches.total, ids, patches.number)

    def after(self, y: jax.Array) -> OpenPatch | None:
        """The patch that is open after these symbols, given the patches' vectors `[B, P, D]`."""
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


def find_boundaries(
    segmenter: Segmenter, x: jax.Array | None, symbols: Symbols, carry: Any
) -> tuple[Boundaries, Any]:
    """The boundaries of symbols, whose states are x `[B, N, d]`, and the segmenter's carry."""
    known = {} if symbols.entropies is None else {"entropies": symbols.entropies}
    found = segmenter(x, symbols.ids, symbols.document_ids, carry, symbols.keys, **known)
    return whole_rows(found[0]), found[1]


def segment(
    segmenter: Segmenter,
    x: jax.Array | None,
    symbols: Symbols,
    capacity: Callable[[int], int],
    state: PatchingState | None,
    *,
    open: OpenPatch | None = None,
    most: int | None = None,
) -> tuple[Segmentation, PatchingState | None]:
    """Cuts symbols into patches, which open at the segmenter's boundaries while there are slots.

    Args:
        x: `[B, N, d]`, the vectors that the segmenter reads; None for rules.
        capacity: gives the slots of a whole row of N symbols.
        state: after the symbols before; None for whole rows.
        open: the patch that is open before the first symbol, in decoding.
        most: of the N symbols that can start a patch, if that is known to be below N.
    """
    carry = None if state is None else state.carry
    boundaries, carry = find_boundaries(segmenter, x, symbols, carry)
    starts, length = boundaries.hard, boundaries.hard.shape[1]
    if state is None:
        patches = find_patches(starts, symbols.document_ids, capacity(length))
        return Segmentation(symbols, boundaries, whole_rows(patches)), None
    slots_left = state.slots_left(symbols.positions)
    patches = find_patches(starts, symbols.document_ids, most or length, slots_left=slots_left)
    patches = replace(patches, number=state.opened[:, None] + patches.number)
    return Segmentation(symbols, boundaries, patches, open), state.after(carry, patches)


def run(
    stack: AnyStack, x: jax.Array, symbols: Symbols, state: Any, **options: Any
) -> tuple[jax.Array, Any]:
    """Runs a stack over the symbols' vectors `[B, N, d]`, with the options of `Stack`."""
    if state is None:
        return stack(x, options.pop("group_ids", symbols.document_ids), **options), None
    return stack.extend(x, state, symbols.lengths, **options)


def run_patches(
    backbone: AnyStack, y: jax.Array, symbols: Symbols, state: Any, **options: Any
) -> tuple[jax.Array, Any]:
    """`run` over patches `[B, P, D]`; in a step of decoding, only if any row has opened one."""
    return run_if_any(symbols, lambda: run(backbone, y, symbols, state, **options), y, state)


def run_if_any(
    symbols: Symbols, run: Callable[[], Any], y: jax.Array, state: Any
) -> tuple[jax.Array, Any]:
    """`run()`; in a step of decoding, if no row has the symbol, zeros like y and the old state."""
    if isinstance(state, Idle):
        return jnp.zeros_like(y), state
    # Among several symbols one is nearly always there, and XLA would copy caches at the branch.
    if symbols.lengths is None or y.shape[1] > 1 or is_watched(state):
        return run()
    return jax.lax.cond((symbols.lengths > 0).any(), run, lambda: (jnp.zeros_like(y), state))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LevelState:
    """Decoding state of a level."""

    encoder: Any = None  # of the stack that runs before symbols are cut; None without one
    patching: Any = None  # a `PatchingState`
    inner: Any = None  # of the backbone or the inner level
    open: Any = None  # what the family remembers of the unfinished patch, such as an `OpenPatch`
    decoder: Any = None  # of the stack that runs last

    @property
    def full_rows(self) -> jax.Array:
        """The rows in which patches of the level, or of one inside, found no slot, bool `[B]`."""
        full = self.patching.ignored > 0
        return full | self.inner.full_rows if isinstance(self.inner, LevelState) else full


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Idle:
    """In place of the state of an inner level that does not run."""


Result = tuple[Any, LevelState | None, tuple[Segmentation, ...]]
"""New vectors `[B, N, d]`; the state after the symbols, None for whole rows; and for whole rows the
segmentations, from this level inwards."""


@dataclass(frozen=True)
class Level:
    """An encoder and a decoder around an inner level: `[B, N, d] -> [B, N, d]`.

    The parts are modules and methods of a model, which names and stores them as it likes.

    Attributes:
        encoder: the stack that runs over the symbols before they are cut.
        segmenter: finds where patches start.
        pool: (x `[B, N, d]`, segmentation) -> the vectors `[B, P, D]` that the inner level reads;
            of a patch it may use the symbols up to its first.
        inner: the backbone, or another level.
        unpool: (x, y `[B, P, D]`, segmentation) -> the vectors `[B, N, d]` that the decoder reads.
            `y` reaches later symbols through `cut.spread`. Spread first, then project, because the
            open patch is stored as `y`; to project once per patch, do it in `finish`.
        decoder: the stack that runs over the symbols last.
        capacity: gives the slots of a row of N symbols.
        width: D, the channels of y in `unpool`, as `finish` returns it. None if `unpool` gives y
            to the first symbols of patches alone: no open patch is then remembered.
        stored: dtype of y in `unpool`, and of the open patch's vector; None for that of `pool`.
        finish: (y, segmentation) -> y, applied to the inner level's result before unpooling; in a
            step of decoding, only if any row has opened a patch.
    """

    encoder: AnyStack
    segmenter: Segmenter
    pool: Callable[[jax.Array, Segmentation], jax.Array]
    inner: "AnyStack | Level"
    unpool: Callable[[jax.Array, jax.Array, Segmentation], jax.Array]
    decoder: AnyStack
    capacity: Callable[[int], int]
    width: int | None = None
    stored: jnp.dtype | None = None
    finish: Callable[[jax.Array, Segmentation], jax.Array] = lambda y, cut: y

    def __call__(self, x: jax.Array, symbols: Symbols, state: LevelState | None = None) -> Result:
        """Runs the level over the symbols' vectors `[B, N, d]`."""
        before = state or LevelState()
        x, encoder = run(self.encoder, x, symbols, before.encoder)
        cut, patching = segment(
            self.segmenter, x, symbols, self.capacity, before.patching, open=before.open
        )
        y, inner, inside = self._run_inner(self.pool(x, cut), cut, before.inner)
        x = self.unpool(x, y, cut)
        x, decoder = run(self.decoder, x, symbols, before.decoder)
        if state is None:
            return x, None, (cut, *inside)
        return x, LevelState(encoder, patching, inner, cut.after(y), decoder), ()

    def _run_inner(
        self, y: jax.Array, cut: Segmentation, state: Any
    ) -> tuple[jax.Array, Any, tuple[Segmentation, ...]]:
        """The finished result for the patches' vectors `[B, P, D]`, as `unpool` reads it."""
        inner, y, symbols = self.inner, shard_rows(y), cut.inner_symbols
        dtype = self.stored or y.dtype

        def finished() -> tuple[jax.Array, tuple[Any, tuple[Segmentation, ...]]]:
            inside: tuple[Segmentation, ...] = ()
            if isinstance(inner, Level):
                result, after, inside = inner(y, symbols, state)
            else:
                result, after = run(inner, y, symbols, state)
            return self.finish(result, cut).astype(dtype), (after, inside)

        nothing = jnp.zeros((*y.shape[:2], self.width or y.shape[-1]), dtype)
        if isinstance(state, Idle):
            return nothing, state, ()
        result, (after, inside) = run_if_any(symbols, finished, nothing, (state, ()))
        return result, after, inside

    def init_state(self, rows: int, length: int, dtype: jnp.dtype) -> LevelState:
        """The state before the first symbol of rows of at most `length` symbols."""
        return self._init_state(rows, length, Budget.of(self.capacity, length), dtype)

    def _init_state(self, rows: int, length: int, budget: Budget, dtype: jnp.dtype) -> LevelState:
        stored, entries = self.stored or dtype, budget.entries
        if isinstance(self.inner, Level):
            inside = budget.inside(self.inner.capacity)
            inner: Any = self.inner._init_state(rows, entries, inside, dtype)
        else:
            inner = self.inner.init_state(rows, entries, dtype)
        open = None if self.width is None else OpenPatch.none(rows, self.width, stored)
        return LevelState(
            encoder=self.encoder.init_state(rows, length, dtype),
            patching=PatchingState.start(self.segmenter, rows, length, budget, dtype),
            inner=inner,
            open=open,
            decoder=self.decoder.init_state(rows, length, dtype),
        )
