"""Runs a subword model over many token histories at once, each in a row of one decoding cache.

Context: a history is read as `bytelm.inference.scoring` reads a document of tokens, in
windows that slide over it. When its `context` symbols are full, the next token is predicted from
the last `context - stride + 1` of them, read afresh. So the distribution after a history depends on
the history alone, and is the one that its canonical score uses.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import Vocabulary
from bytelm.inference.generation import read_piece

PIECE = 64
"""Symbols of each row that are read afresh at a time."""
FEWEST_ROWS = 32
"""Rows of a cache that grows as it has to."""


class Read(NamedTuple):
    """What a model has read of a history.

    Attributes:
        symbols: those it sees: START, if that is not too far back, and token ids.
        row: the history's row of the cache.
        next_log_p: float64 `[C]`, log-probabilities of what `columns` asks for.
    """

    symbols: tuple[int, ...]
    row: int
    next_log_p: np.ndarray


class TokenReader:
    """A decoding cache whose rows are token histories.

    Args:
        graphdef, params: of the model, with `reorder` and `put` of cache rows.
        vocabulary: its symbols.
        columns: int64 `[C]`, the outputs whose log-probabilities are wanted, in their order.
        rows: histories that are alive at most; None for as many as there come to be.
        context: symbols that the model sees at most.
        stride: how far a window moves, 1 to `context`.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: Any,
        *,
        vocabulary: Vocabulary,
        columns: np.ndarray,
        rows: int | None,
        context: int,
        stride: int,
    ):
        self._model = graphdef, params
        self._vocabulary = vocabulary
        self._columns = columns
        self._rows = rows or FEWEST_ROWS
        self._context = context
        self._kept = context - stride + 1
        self._cache = _empty_cache(*self._model, self._rows, context)

    def start(self) -> Read:
        """Reads START, as the first thing that is read at all."""
        return self._step([(0, (self._vocabulary.start,))], [0])[0]

    def extend(self, parents: Sequence[tuple[Read, int]], used: set[int]) -> list[Read]:
        """Reads one more token after each of some histories.

        Args:
            parents: histories, some maybe more than once, and the token to read after each.
            used: rows that must stay as they are; all others are free to be written, those of
                parents too.
        """
        free = self._free_rows(len(parents), used)
        longer = [(parent.row, (*parent.symbols, token)) for parent, token in parents]
        full = [len(symbols) > self._context for _, symbols in longer]
        result: dict[int, Read] = {}
        # The full ones are read afresh, after nobody needs the rows of parents any more.
        for read, of_full in ((self._step, False), (self._read_afresh, True)):
            chosen = [index for index, is_full in enumerate(full) if is_full == of_full]
            if chosen:
                reads = read([longer[i] for i in chosen], [free[i] for i in chosen])
                result.update(zip(chosen, reads, strict=True))
        return [result[index] for index in range(len(parents))]

    def _free_rows(self, count: int, used: set[int]) -> list[int]:
        while self._rows - len(used) < count:
            rows = np.arange(2 * self._rows, dtype=np.int32) % self._rows
            self._cache = _reorder(*self._model, self._cache, rows)
            self._rows *= 2
        return [row for row in range(self._rows) if row not in used][:count]

    def _step(self, histories: list[tuple[int, tuple[int, ...]]], rows: list[int]) -> list[Read]:
        """Reads the last symbol of each history, with what the cache row given with it holds."""
        sources, symbols = zip(*histories, strict=True)
        logits, self._cache = _step(
            *self._model,
            self._cache,
            _padded(sources, 0),
            _padded([history[-1] for history in symbols], self._vocabulary.pad),
            _padded(rows, self._rows),
        )
        return self._reads(symbols, rows, logits)

    def _read_afresh(
        self, histories: list[tuple[int, tuple[int, ...]]], rows: list[int]
    ) -> list[Read]:
        """Reads the last symbols of each history, as a window's first."""
        symbols = [history[-self._kept :] for _, history in histories]
        targets = _padded(rows, self._rows)
        piece = min(PIECE, self._kept)
        ids = np.full(
            (len(targets), -(-self._kept // piece) * piece), self._vocabulary.pad, np.int32
        )
        ids[: len(rows), : self._kept] = symbols
        cache = _empty_cache(*self._model, len(targets), self._context)
        logits = jnp.zeros((len(targets), self._vocabulary.outputs), jnp.float32)
        for first in range(0, self._kept, piece):
            present = np.full(len(targets), min(self._kept - first, piece), np.int32)
            logits, cache = read_piece(
                *self._model, ids[:, first : first + piece], present, logits, cache
            )
        self._cache = _put(*self._model, self._cache, targets, cache)
        return self._reads(symbols, rows, logits)

    def _reads(
        self, symbols: Sequence[tuple[int, ...]], rows: list[int], logits: jax.Array
    ) -> list[Read]:
        wide = np.asarray(logits, np.float64)[: len(rows)]
        wide -= wide.max(axis=1, keepdims=True)
        wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
        return [Read(*read) for read in zip(symbols, rows, wide[:, self._columns], strict=True)]


def _padded(values: Sequence[int], filler: int) -> np.ndarray:
    """Int32, filled up to a power of two, so that few shapes are compiled."""
    result = np.full(1 << (len(values) - 1).bit_length(), filler, np.int32)
    result[: len(values)] = values
    return result


@functools.partial(jax.jit, static_argnames=("graphdef", "rows", "slots"))
def _empty_cache(graphdef: nnx.GraphDef, params: Any, rows: int, slots: int) -> Any:
    return nnx.merge(graphdef, params).init_cache(rows, slots)


@functools.partial(jax.jit, static_argnames="graphdef")
def _reorder(graphdef: nnx.GraphDef, params: Any, cache: Any, rows: jax.Array) -> Any:
    return nnx.merge(graphdef, params).reorder(cache, rows)


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames="cache")
def _put(graphdef: nnx.GraphDef, params: Any, cache: Any, rows: jax.Array, new: Any) -> Any:
    return nnx.merge(graphdef, params).put(cache, rows, new)


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames="cache")
def _step(
    graphdef: nnx.GraphDef,
    params: Any,
    cache: Any,
    sources: jax.Array,
    ids: jax.Array,
    rows: jax.Array,
) -> tuple[jax.Array, Any]:
    """Reads `ids[i]` with what row `sources[i]` holds, into row `rows[i]`; all `[K]`."""
    model = nnx.merge(graphdef, params)
    new = model.reorder(cache, sources)
    logits, new = model.extend(ids[:, None], new, jnp.ones_like(ids))
    return logits[:, 0], model.put(cache, rows, new)
