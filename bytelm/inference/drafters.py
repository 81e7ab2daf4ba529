"""Drafters: what guesses the next symbols cheaply, so that the model reads several in one call.

A drafter never changes a text (`bytelm.inference.decoding`), only how many rounds it takes. It is a
pytree, whose arrays are the parameters that it needs besides the model's. Its state, like the
model's, has read all symbols of a row but the pending one.

Shapes: B = rows, N = symbols read, k = drafts, S = most symbols of a row, V = outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.models.contract import LanguageModel
from bytelm.nn.state import restore, snapshot
from bytelm.patching.stale import with_patches, without_patches

Choose = Callable[[jax.Array, Any], jax.Array]
"""(logits `[B, V]`, j) -> draft number j, from 0, as the symbol there is drawn: int32 `[B]`."""


@dataclass(frozen=True)
class Context:
    """What a drafter may look at."""

    model: LanguageModel
    state: Any  # of the model
    pending: jax.Array  # int32 [B], the symbol after which drafts are wanted
    most: jax.Array
    """Int32 `[B]`, how many symbols, the pending one included, may be read; states have room for
    these."""
    choose: Choose


@dataclass(frozen=True)
class Drafts:
    """Guesses, and the states after guessing."""

    ids: jax.Array  # int32 [B, k]
    counts: jax.Array  # int32 [B], how many of them there are
    state: Any  # of the model, as before but for entries that it takes for empty
    drafting: Any  # of the drafter


class Drafter:
    """Base of all drafters; they are registered as pytrees.

    One is hashable outside programs: what was measured of it is found again.
    """

    may_find_none: ClassVar[bool] = False
    """Whether all rows may be without drafts, so that a round is worth reading one symbol alone."""

    def init_model(self, model: LanguageModel, rows: int, length: int) -> Any:
        """The model's state before the first of at most `length` symbols."""
        return model.init_state(rows, length)

    def init_state(self, rows: int, length: int) -> Any:
        """Its own state before the first of at most `length` symbols; batch axis first."""
        return None

    def read_prompt(self, state: Any, ids: jax.Array, lengths: jax.Array) -> Any:
        """The state after symbols of prompts; arguments as in `read`."""
        return self.read(state, ids, lengths)

    def read(self, state: Any, ids: jax.Array, lengths: jax.Array) -> Any:
        """The state after the first `lengths`, int32 `[B]`, of ids, `[B, N]`."""
        return state

    def draft(self, context: Context, state: Any, count: int) -> Drafts:
        """Up to `count` symbols after the pending one of each row."""
        raise NotImplementedError


def draft_step_by_step(
    extend: Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]],
    context: Context,
    state: Any,
    count: int,
) -> tuple[jax.Array, Any]:
    """`count` symbols int32 `[B, k]`, each drawn from the logits after the one before.

    `extend` is that of a model whose state has read all but the pending symbol; also that state, as
    before but for entries that it takes for empty.
    """
    then = snapshot(state, count)

    def step(carry: tuple[jax.Array, Any], place: jax.Array) -> tuple[Any, jax.Array]:
        symbol, state = carry
        reading = (place < context.most).astype(jnp.int32)
        logits, state = extend(symbol[:, None], state, reading)
        symbol = context.choose(logits[:, 0], place)
        return (symbol, state), symbol

    (_, state), drafted = jax.lax.scan(step, (context.pending, state), jnp.arange(count))
    return drafted.T, restore(state, then)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stale(Drafter):
    """The model itself without its backbone, for every family with patches; no training.

    All drafted symbols go on in the patch that is open: the local blocks read on with the last
    vector of the backbone, also past a boundary.
    """

    def draft(self, context: Context, state: Any, count: int) -> Drafts:
        closed = without_patches(context.state)
        ids, after = draft_step_by_step(context.model.extend, context, closed, count)
        found = jnp.full_like(context.most, count)
        return Drafts(ids, found, with_patches(after, context.state), state)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Heads(Drafter):
    """The model's own draft heads; a round has at most as many drafts as heads after the first."""

    def init_model(self, model: Any, rows: int, length: int) -> Any:
        return model.init_drafting(rows, length)

    def draft(self, context: Context, state: None, count: int) -> Drafts:
        model: Any = context.model
        ids = model.draft_symbols(context.state, context.pending, count, context.choose)
        return Drafts(ids, jnp.full_like(context.most, count), context.state, None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class History:
    """The symbols that rows have read."""

    ids: jax.Array  # int32 [B, S]
    length: jax.Array  # int32 [B]

    @classmethod
    def empty(cls, rows: int, length: int) -> "History":
        """Of rows of at most `length` symbols."""
        return cls(jnp.zeros((rows, length), jnp.int32), jnp.zeros((rows,), jnp.int32))

    def extend(self, ids: jax.Array, lengths: jax.Array) -> "History":
        """After the first `lengths` of ids, `[B, N]`."""
        rows, offsets = jnp.arange(len(ids))[:, None], jnp.arange(ids.shape[1])[None, :]
        columns = self.length[:, None] + offsets
        columns = jnp.where(offsets < lengths[:, None], columns, self.ids.shape[1])
        written = self.ids.at[rows, columns].set(ids, mode="drop")
        return History(written, self.length + lengths)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lookup(Drafter):
    """What followed the last symbols where they occurred before (prompt lookup).

    Of the earlier places with the longest match, at most `longest` symbols, the last one counts;
    without a match of `shortest` symbols there are no drafts.
    """

    may_find_none: ClassVar[bool] = True

    shortest: int = field(default=4, metadata={"static": True})
    longest: int = field(default=8, metadata={"static": True})

    def init_state(self, rows: int, length: int) -> History:
        return History.empty(rows, length)

    def read(self, state: History, ids: jax.Array, lengths: jax.Array) -> History:
        return state.extend(ids, lengths)

    def draft(self, context: Context, state: History, count: int) -> Drafts:
        ones = jnp.ones_like(state.length)
        known = state.extend(context.pending[:, None], ones)
        ids, last = known.ids, state.length  # [B, S], and the place of the pending symbol [B]
        places = jnp.arange(ids.shape[1])[None, :]
        match, going = jnp.zeros_like(ids), places < last[:, None]  # [B, S]
        for back in range(self.longest):
            wanted = jnp.take_along_axis(ids, jnp.maximum(last - back, 0)[:, None], axis=1)
            there = jnp.pad(ids, ((0, 0), (back, 0)))[:, : ids.shape[1]]
            going &= (there == wanted) & (places >= back)
            match += going
        place = jnp.argmax(match * ids.shape[1] + places * (match > 0), axis=1)  # [B]
        found = jnp.take_along_axis(match, place[:, None], axis=1)[:, 0] >= self.shortest
        # A match that reaches the end of the text goes on in a circle.
        period = jnp.maximum(last - place, 1)[:, None]
        following = place[:, None] + 1 + jnp.arange(count)[None, :] % period
        drafted = jnp.take_along_axis(ids, following, axis=1, mode="clip")
        return Drafts(drafted, jnp.where(found, count, 0), context.state, state)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SmallState:
    """A small model's memory of rows; it may have read fewer symbols than the large one."""

    history: History
    read: jax.Array  # int32 [B], the symbols of the history that it has read
    model: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # its parameters cannot be compared
class Small(Drafter):
    """Another model of the same vocabulary; it is equal to itself alone."""

    graphdef: nnx.GraphDef = field(metadata={"static": True})
    params: Any

    @property
    def _model(self) -> LanguageModel:
        return nnx.merge(self.graphdef, self.params)

    def init_state(self, rows: int, length: int) -> SmallState:
        none = jnp.zeros((rows,), jnp.int32)
        own = self._model.init_state(rows, length)
        return SmallState(History.empty(rows, length), none, own)

    def read_prompt(self, state: SmallState, ids: jax.Array, lengths: jax.Array) -> SmallState:
        _, own = self._model.extend(ids, state.model, lengths)
        return SmallState(state.history.extend(ids, lengths), state.read + lengths, own)

    def read(self, state: SmallState, ids: jax.Array, lengths: jax.Array) -> SmallState:
        # It reads them before it drafts again, so that it costs nothing while it does not draft.
        return replace(state, history=state.history.extend(ids, lengths))

    def draft(self, context: Context, state: SmallState, count: int) -> Drafts:
        model = self._model
        state = self._catch_up(model, state, count)
        ids, own = draft_step_by_step(model.extend, context, state.model, count)
        found = jnp.full_like(context.most, count)
        return Drafts(ids, found, context.state, replace(state, model=own))

    def _catch_up(self, model: LanguageModel, state: SmallState, count: int) -> SmallState:
        """Reads the rest of the history, 1 + k symbols at a time: those of a round in one call."""
        history, size = state.history, 1 + count

        def has_unread(state: SmallState) -> jax.Array:
            return (state.read < history.length).any()

        def read(state: SmallState) -> SmallState:
            lengths = jnp.minimum(history.length - state.read, size)
            places = state.read[:, None] + jnp.arange(size)[None, :]
            ids = jnp.take_along_axis(history.ids, places, axis=1, mode="clip")
            _, own = model.extend(ids, state.model, lengths)
            return replace(state, read=state.read + lengths, model=own)

        return jax.lax.while_loop(has_unread, read, state)
