"""The compiled side of generation: reading prompts, and the loop that writes symbols.

`Rows` holds what is known of each row. A row's state has read all its symbols but the last one, the
pending symbol, which the next call of the model reads. The random key of symbol i of a row depends
only on the row's key and i, so neither other rows nor the sizes of chunks change a text.

A round reads the pending symbol and k drafted ones in one call (`bytelm.inference.drafters`). It
draws the symbol after each of them as it would without drafts, with the same key; a draft is
accepted if it is the symbol drawn in its place and all drafts before it were accepted. So drafts
change no text, sampled or not (drafter-invariant speculative decoding, arXiv 2408.07978), and rows
accept different numbers of them.

Shapes: B = rows, N = symbols read, V = outputs, k = drafts of a round.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import Vocabulary
from bytelm.inference.drafters import Context, Drafter
from bytelm.inference.sampling import Sampling, sample
from bytelm.models.contract import LanguageModel
from bytelm.patching.budget import whole_rows

SHORTEST = 256
"""States hold this many symbols times a power of two, so that few shapes are compiled."""
MOST = 2**31 - 1
"""More are not counted: numbers of symbols are int32."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Texts that are being written."""

    state: Any  # of the model, after all symbols but the pending one
    pending: jax.Array  # int32 [B], the last symbol; END if the row has ended
    keys: jax.Array  # random key of each row [B]
    made: jax.Array  # int32 [B], symbols written, the pending one included
    running: jax.Array  # bool [B], the rows that go on
    drafting: Any = None  # the drafter's state, after the same symbols as `state`

    def select(self, running: jax.Array) -> "Rows":
        """Only these of the running rows go on, bool `[B]`."""
        return replace(self, running=self.running & running)


@jax.jit
def row_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """A random key for each row, from `key` and the row's number, integer `[B]`, only."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def state_length(symbols: int) -> int:
    """The length of the state for rows of at most so many symbols."""
    length = SHORTEST
    while length < symbols:
        length *= 2
    return min(length, MOST)


# With unused arguments the result is committed to the parameters' device, as all later states are:
# otherwise what reads them would be compiled twice.
@functools.partial(
    jax.jit, static_argnames=("graphdef", "rows", "length", "whole"), keep_unused=True
)
def empty_state(
    graphdef: nnx.GraphDef,
    params: Any,
    rows: int,
    length: int,
    drafter: Drafter | None = None,
    whole: bool = False,
) -> tuple[Any, Any]:
    """`LanguageModel.init_state` and that of the drafter, compiled.

    With `whole` patches find slots as in scored rows of `length` symbols.
    """
    model: LanguageModel = nnx.merge(graphdef, params)
    with whole_rows(whole):
        if drafter is None:
            return model.init_state(rows, length), None
        return drafter.init_model(model, rows, length), drafter.init_state(rows, length)


def read_rows(
    graphdef: nnx.GraphDef,
    params: Any,
    ids: np.ndarray,
    lengths: np.ndarray,
    state: Any,
    outputs: int,
    chunk: int,
    drafter: Drafter | None = None,
    drafting: Any = None,
) -> tuple[jax.Array, Any, Any]:
    """Reads `lengths` symbols of each row `[B, N]`, `chunk` of them at a time.

    Returns:
        the logits after each row, `[B, V]`, the state, and that of the drafter.
    """
    logits = _no_logits(state, len(ids), outputs)
    for first in range(0, ids.shape[1], chunk):
        present = np.clip(lengths - first, 0, chunk)
        piece = ids[:, first : first + chunk]
        logits, state, drafting = read_chunk(
            graphdef, params, piece, present, logits, state, drafter, drafting
        )
    return logits, state, drafting


@functools.partial(jax.jit, static_argnames=("rows", "outputs"), keep_unused=True)
def _no_logits(state: Any, rows: int, outputs: int) -> jax.Array:
    return jnp.zeros((rows, outputs), jnp.float32)


@functools.partial(
    jax.jit, static_argnames="graphdef", donate_argnames=("logits", "state", "drafting")
)
def read_chunk(
    graphdef: nnx.GraphDef,
    params: Any,
    ids: jax.Array,
    lengths: jax.Array,
    logits: jax.Array,
    state: Any,
    drafter: Drafter | None,
    drafting: Any,
) -> tuple[jax.Array, Any, Any]:
    """Reads `lengths` more symbols of each row; rows with none keep their logits."""
    model: LanguageModel = nnx.merge(graphdef, params)
    new, state = model.extend(ids, state, lengths)
    if drafter is not None:
        drafting = drafter.read_prompt(drafting, ids, lengths)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    new = jnp.take_along_axis(new, last, axis=1)[:, 0]
    return jnp.where(lengths[:, None] > 0, new, logits), state, drafting


@functools.partial(jax.jit, static_argnames="vocabulary", donate_argnames="state")
def first_symbols(
    logits: jax.Array,
    state: Any,
    keys: jax.Array,
    sampling: Sampling,
    vocabulary: Vocabulary,
    drafting: Any = None,
) -> Rows:
    """Rows whose first symbol is drawn from the logits after their prompts, `[B, V]`."""
    made = jnp.zeros((len(logits),), jnp.int32)
    pending = _choose(logits[:, None], keys, made, sampling, vocabulary)[:, 0]
    return Rows(state, pending, keys, made + 1, pending != vocabulary.end, drafting)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Written:
    """Symbols that a chunk of rounds wrote."""

    symbols: jax.Array  # int32 [B, chunk + k]
    counts: jax.Array  # int32 [B], how many these are; the last may be END
    full: jax.Array | None  # bool [B], as `LanguageModel.full_rows`
    rounds: jax.Array  # int32 scalar
    accepted: jax.Array
    """Int32 `[k + 1]`, how often a row that went on accepted 0, 1, ..., k drafts in a round."""


def goes_on(written: Written, left: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Which rows have not ended after these symbols, of which `left` were allowed; bool `[B]`."""
    last = np.asarray(written.symbols)[np.arange(len(left)), np.maximum(written.counts - 1, 0)]
    return (np.asarray(written.counts) < left) & (last != vocabulary.end)


@functools.partial(
    jax.jit,
    static_argnames=("graphdef", "chunk", "vocabulary", "drafts"),
    donate_argnames="rows",
)
def write_chunk(
    graphdef: nnx.GraphDef,
    params: Any,
    rows: Rows,
    count: jax.Array,
    sampling: Sampling,
    chunk: int,
    vocabulary: Vocabulary,
    drafter: Drafter | None = None,
    drafts: int = 0,
    rounds: int = MOST,
) -> tuple[Rows, Written]:
    """Rounds, until the row that is furthest has about `chunk` more symbols or all rows end.

    No running row writes more than `count`, int32 `[]` or `[B]`. With a `drafter`
    each round has up to `drafts` drafted symbols. There are at most `rounds` of them.
    """
    model: LanguageModel = nnx.merge(graphdef, params)
    before, width = rows.made, chunk + drafts
    count = jnp.broadcast_to(count, before.shape)

    def active(rows: Rows) -> jax.Array:
        return rows.running & (rows.made - before < count)

    def unfinished(rows: Rows, written: Written, *_: Any) -> jax.Array:
        room = written.counts.max() + drafts < width
        return active(rows).any() & room & (written.rounds < rounds)

    def draft(rows: Rows, written: Written) -> tuple[Rows, Reading]:
        # Symbols that a row may not write are not read: states have no room for more.
        most = jnp.where(active(rows), jnp.minimum(count - written.counts, 1 + drafts), 0)
        return _draft(model, rows, most, sampling, vocabulary, drafter, drafts)

    def read(rows: Rows, written: Written, reading: Reading) -> tuple[Rows, Written]:
        rows, chosen, new = _read(model, rows, reading, sampling, vocabulary, drafter)
        return rows, _written(written, chosen, new)

    symbols = jnp.full((len(before), width), vocabulary.end, jnp.int32)
    tally = jnp.zeros((drafts + 1,), jnp.int32)
    written = Written(symbols, jnp.zeros_like(before), None, jnp.int32(0), tally)

    searches = drafter is not None and drafts > 0 and drafter.may_find_none
    loop = _search_rounds if searches else _rounds
    rows, written = loop(unfinished, draft, read, rows, written)
    tally = written.accepted if drafts else written.counts.sum()[None]
    return rows, replace(written, full=model.full_rows(rows.state), accepted=tally)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """What a round reads."""

    ids: jax.Array  # int32 [B, N], the pending symbols and the drafts
    lengths: jax.Array  # int32 [B], how many of these each row reads


def _rounds(
    unfinished: Callable[..., jax.Array],
    draft: Callable[[Rows, Written], tuple[Rows, Reading]],
    read: Callable[[Rows, Written, Reading], tuple[Rows, Written]],
    rows: Rows,
    written: Written,
) -> tuple[Rows, Written]:
    """Drafts and reads while texts are unfinished."""

    def round(carry: tuple[Rows, Written]) -> tuple[Rows, Written]:
        rows, reading = draft(*carry)
        return read(rows, carry[1], reading)

    found: tuple[Rows, Written] = jax.lax.while_loop(
        lambda carry: unfinished(*carry), round, (rows, written)
    )
    return found


def _search_rounds(
    unfinished: Callable[..., jax.Array],
    draft: Callable[[Rows, Written], tuple[Rows, Reading]],
    read: Callable[[Rows, Written, Reading], tuple[Rows, Written]],
    rows: Rows,
    written: Written,
) -> tuple[Rows, Written]:
    """`_rounds`, which read one symbol alone where no row has drafts.

    These have a loop of their own: branches in one loop would copy all caches.
    """

    def rounds(carry: Any, drafted: bool) -> Any:
        def goes_on(carry: Any) -> jax.Array:
            return unfinished(*carry) & ((carry[2].lengths > 1).any() == drafted)

        def round(carry: Any) -> Any:
            rows, written, reading = carry
            ids = reading.ids if drafted else reading.ids[:, :1]
            rows, written = read(rows, written, replace(reading, ids=ids))
            rows, reading = draft(rows, written)
            return rows, written, reading

        return jax.lax.while_loop(goes_on, round, carry)

    rows, reading = draft(rows, written)
    rows, written, _ = jax.lax.while_loop(
        lambda carry: unfinished(*carry),
        lambda carry: rounds(rounds(carry, drafted=False), drafted=True),
        (rows, written, reading),
    )
    return rows, written


def _written(written: Written, chosen: jax.Array, new: jax.Array) -> Written:
    """With a round's symbols, the first `new`, int32 `[B]`, of `chosen`, int32 `[B, N]`."""
    width, drafts = written.symbols.shape[1], len(written.accepted) - 1
    places = jnp.arange(chosen.shape[1])[None, :]
    columns = jnp.where(places < new[:, None], written.counts[:, None] + places, width)
    symbols = written.symbols.at[jnp.arange(len(new))[:, None], columns].set(chosen, mode="drop")
    tally = written.accepted  # without drafts it follows from the counts
    if drafts:
        tally = tally.at[jnp.where(new > 0, new - 1, drafts + 1)].add(1, mode="drop")
    return Written(symbols, written.counts + new, None, written.rounds + 1, tally)


def _draft(
    model: LanguageModel,
    rows: Rows,
    most: jax.Array,
    sampling: Sampling,
    vocabulary: Vocabulary,
    drafter: Drafter | None,
    drafts: int,
) -> tuple[Rows, Reading]:
    """What is read in a round in which a row writes up to `most`, int32 `[B]`, symbols."""

    def choose(logits: jax.Array, place: Any) -> jax.Array:
        first = rows.made + place
        return _choose(logits[:, None], rows.keys, first, sampling, vocabulary)[:, 0]

    ids = jnp.where(most > 0, rows.pending, vocabulary.pad)[:, None]
    if drafter is None or not drafts:
        return rows, Reading(ids, most)
    context = Context(model, rows.state, rows.pending, most, choose)
    found = drafter.draft(context, rows.drafting, drafts)
    ids = jnp.concatenate([ids, found.ids], axis=1)
    rows = replace(rows, state=found.state, drafting=found.drafting)
    return rows, Reading(ids, jnp.minimum(most, 1 + found.counts))


def _read(
    model: LanguageModel,
    rows: Rows,
    reading: Reading,
    sampling: Sampling,
    vocabulary: Vocabulary,
    drafter: Drafter | None,
) -> tuple[Rows, jax.Array, jax.Array]:
    """Reads pending symbols and drafts.

    Returns:
        the rows, the symbols drawn, int32 `[B, N]`, and how many of them are new, int32 `[B]`.
    """
    ids, lengths = reading.ids, reading.lengths
    logits, keep = _verify(model, ids, rows.state, lengths)
    chosen = _choose(logits, rows.keys, rows.made, sampling, vocabulary)
    drafted = ids.shape[1] > 1
    new = _count_new(ids, chosen, lengths, vocabulary) if drafted else lengths
    drafting = rows.drafting if drafter is None else drafter.read(rows.drafting, ids, new)
    last = chosen[:, 0]
    if drafted:
        last = jnp.take_along_axis(chosen, jnp.maximum(new - 1, 0)[:, None], axis=1)[:, 0]
    pending = jnp.where(new > 0, last, rows.pending)
    running = rows.running & ((new == 0) | (last != vocabulary.end))
    after = Rows(keep(new), pending, rows.keys, rows.made + new, running, drafting)
    return after, chosen, new


def _verify(
    model: LanguageModel, ids: jax.Array, state: Any, lengths: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """`LanguageModel.verify`, and what gives the state after the symbols that are kept."""
    if ids.shape[1] == 1:  # the pending symbols, which are all kept
        logits, after = model.extend(ids, state, lengths)
        return logits, lambda kept: after
    logits, verified = model.verify(ids, state, lengths)
    return logits, lambda kept: model.keep(verified, kept)


def _count_new(
    ids: jax.Array, chosen: jax.Array, reading: jax.Array, vocabulary: Vocabulary
) -> jax.Array:
    """The symbols that rows get, int32 `[B]`: one more than the drafts that they accept.

    Args:
        ids: int32 `[B, 1 + k]`, the pending symbol and the drafts.
        chosen: int32 `[B, 1 + k]`, the symbols drawn after each of them.
        reading: int32 `[B]`, how many of the ids are to be read; a row gets no more symbols.
    """
    accepted = (ids[:, 1:] == chosen[:, :-1]) & (chosen[:, :-1] != vocabulary.end)
    new = 1 + jnp.cumprod(accepted, axis=1).sum(axis=1)
    return jnp.minimum(new, reading)


def _choose(
    logits: jax.Array,
    keys: jax.Array,
    first: jax.Array,
    sampling: Sampling,
    vocabulary: Vocabulary,
) -> jax.Array:
    """Symbols number `first`, int32 `[B]`, and following of each row, from logits `[B, N, V]`."""
    rows, count, _ = logits.shape
    numbers = first[:, None] + jnp.arange(count)[None, :]  # [B, N]
    fold = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))
    # Outputs past the vocabulary (T5's spare ids) are never sampled.
    flat = logits[:, :, : vocabulary.outputs].reshape(rows * count, -1)
    return sample(flat, fold(keys, numbers).reshape(-1), sampling).reshape(rows, count)
