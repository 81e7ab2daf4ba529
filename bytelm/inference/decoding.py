"""The compiled side of generation: reading prompts, and the loop that writes symbols.

`Rows` holds what is known of each row. A row's state has read all its symbols but the last one, the
pending symbol, which the next call of the model reads. The random key of symbol i of a row depends
only on the row's key and i, so neither other rows nor the sizes of chunks change a text.

Shapes: B = rows, N = symbols read, V = outputs.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import Vocabulary
from bytelm.inference.sampling import Sampling, sample
from bytelm.models.contract import LanguageModel


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Texts that are being written."""

    state: Any  # of the model, after all symbols but the pending one
    pending: jax.Array  # int32 [B], the last symbol; END if the row has ended
    keys: jax.Array  # random key of each row [B]
    made: jax.Array  # int32 [B], symbols written, the pending one included
    running: jax.Array  # bool [B], the rows that go on

    def select(self, running: jax.Array) -> "Rows":
        """Only these of the running rows go on, bool `[B]`."""
        return replace(self, running=self.running & running)


@functools.partial(jax.jit, static_argnames="rows")
def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """A random key for each row, from `key` and the row's number only."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))


@functools.partial(jax.jit, static_argnames=("graphdef", "rows", "length"))
def empty_state(graphdef: nnx.GraphDef, params: Any, rows: int, length: int) -> Any:
    """`LanguageModel.init_state`, compiled."""
    return nnx.merge(graphdef, params).init_state(rows, length)


def read_rows(
    graphdef: nnx.GraphDef,
    params: Any,
    ids: np.ndarray,
    lengths: np.ndarray,
    state: Any,
    outputs: int,
    chunk: int,
) -> tuple[jax.Array, Any]:
    """Reads `lengths` symbols of each row `[B, N]`, `chunk` of them at a time.

    Returns:
        the logits after each row, `[B, V]`, and the state.
    """
    logits = jnp.zeros((len(ids), outputs), jnp.float32)
    for first in range(0, ids.shape[1], chunk):
        present = np.clip(lengths - first, 0, chunk)
        piece = ids[:, first : first + chunk]
        logits, state = read_chunk(graphdef, params, piece, present, logits, state)
    return logits, state


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames=("logits", "state"))
def read_chunk(
    graphdef: nnx.GraphDef,
    params: Any,
    ids: jax.Array,
    lengths: jax.Array,
    logits: jax.Array,
    state: Any,
) -> tuple[jax.Array, Any]:
    """Reads `lengths` more symbols of each row; rows with none keep their logits."""
    new, state = nnx.merge(graphdef, params).extend(ids, state, lengths)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    new = jnp.take_along_axis(new, last, axis=1)[:, 0]
    return jnp.where(lengths[:, None] > 0, new, logits), state


@functools.partial(jax.jit, static_argnames="vocabulary", donate_argnames="state")
def first_symbols(
    logits: jax.Array, state: Any, keys: jax.Array, sampling: Sampling, vocabulary: Vocabulary
) -> Rows:
    """Rows whose first symbol is drawn from the logits after their prompts, `[B, V]`."""
    made = jnp.zeros((len(logits),), jnp.int32)
    pending = _choose(logits, keys, made, sampling, vocabulary)
    return Rows(state, pending, keys, made + 1, pending != vocabulary.end)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "chunk", "vocabulary"), donate_argnames="rows"
)
def write_chunk(
    graphdef: nnx.GraphDef,
    params: Any,
    rows: Rows,
    count: jax.Array,
    sampling: Sampling,
    chunk: int,
    vocabulary: Vocabulary,
) -> tuple[Rows, jax.Array, jax.Array, jax.Array | None]:
    """Writes `count` <= `chunk` more symbols of each running row, fewer if all rows end.

    Returns:
        the rows; their new symbols, int32 `[B, chunk]`; how many these are, int32 `[B]`, of which
        the last may be END; and which rows are full, as `LanguageModel.full_rows`.
    """
    model: LanguageModel = nnx.merge(graphdef, params)
    before = rows.made

    def unfinished(carry: tuple[Rows, jax.Array]) -> jax.Array:
        rows, _ = carry
        return (rows.running & (rows.made - before < count)).any()

    def round(carry: tuple[Rows, jax.Array]) -> tuple[Rows, jax.Array]:
        rows, symbols = carry
        reading = rows.running & (rows.made - before < count)
        ids = jnp.where(reading, rows.pending, vocabulary.pad)[:, None]
        logits, state = model.extend(ids, rows.state, reading.astype(jnp.int32))
        chosen = _choose(logits[:, 0], rows.keys, rows.made, sampling, vocabulary)
        column = jnp.where(reading, rows.made - before, chunk)
        symbols = symbols.at[jnp.arange(len(chosen)), column].set(chosen, mode="drop")
        rows = Rows(
            state,
            jnp.where(reading, chosen, rows.pending),
            rows.keys,
            rows.made + reading,
            rows.running & ~(reading & (chosen == vocabulary.end)),
        )
        return rows, symbols

    symbols = jnp.full((len(before), chunk), vocabulary.end, jnp.int32)
    rows, symbols = jax.lax.while_loop(unfinished, round, (rows, symbols))
    return rows, symbols, rows.made - before, model.full_rows(rows.state)


def _choose(
    logits: jax.Array,
    keys: jax.Array,
    index: jax.Array,
    sampling: Sampling,
    vocabulary: Vocabulary,
) -> jax.Array:
    """Symbol number `index`, int32 `[B]`, of each row, drawn from logits `[B, V]`."""
    keys = jax.vmap(jax.random.fold_in)(keys, index)
    # Outputs past the vocabulary (T5's spare ids) are never sampled.
    return sample(logits[:, : vocabulary.outputs], keys, sampling)
