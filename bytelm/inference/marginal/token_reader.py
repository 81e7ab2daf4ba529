"""Runs a subword model over many token histories at once, each in a row of one decoding state.

A history is read in sliding windows, as `bytelm.inference.scoring` reads a document of tokens.
When its `context` symbols are full, the next token is predicted from the last
`context - stride + 1` of them, which are read again. So the distribution after a history depends
only on the history, and is the one used for its canonical score.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import Vocabulary
from bytelm.inference.decoding import empty_state, read_rows
from bytelm.nn.state import put, take

CHUNK = 64
"""Symbols of each row that are read again at a time."""


class Read(NamedTuple):
    """A history that the model has read."""

    symbols: tuple[int, ...]  # that the model sees: START, unless too far back, and token ids
    row: int  # of the state
    next_log_p: np.ndarray  # float64 [C], log-probabilities of the outputs `columns`


@dataclass(eq=False)
class TokenReader:
    """A decoding state whose rows are token histories."""

    model: tuple[nnx.GraphDef, Any]  # its graphdef and parameters
    vocabulary: Vocabulary
    columns: np.ndarray  # int64 [C], the outputs whose log-probabilities are returned
    rows: int  # histories that may be alive; doubled when needed
    context: int  # most symbols that the model sees
    kept: int  # symbols that are read again when the window moves

    def __post_init__(self) -> None:
        self._state, _ = empty_state(*self.model, self.rows, self.context)

    def start(self) -> Read:
        """Reads START; call it before `extend`."""
        return self._step([(0, (self.vocabulary.start,))], [0])[0]

    def extend(self, parents: Sequence[tuple[Read, int]], used: set[int]) -> list[Read]:
        """Reads one more token after each of some histories.

        Args:
            parents: histories, possibly repeated, and the token to read after each.
            used: rows to keep; all others may be overwritten, those of parents too.
        """
        free = self._free_rows(len(parents), used)
        longer = [(parent.row, (*parent.symbols, token)) for parent, token in parents]
        full = [len(symbols) > self.context for _, symbols in longer]
        result: dict[int, Read] = {}
        # Full windows are read again last, when the rows of parents are no longer needed.
        for read, when_full in ((self._step, False), (self._read_again, True)):
            chosen = [index for index, is_full in enumerate(full) if is_full == when_full]
            if chosen:
                reads = read([longer[i] for i in chosen], [free[i] for i in chosen])
                result.update(zip(chosen, reads, strict=True))
        return [result[index] for index in range(len(parents))]

    def _free_rows(self, count: int, used: set[int]) -> list[int]:
        while self.rows - len(used) < count:
            rows = np.arange(2 * self.rows, dtype=np.int32) % self.rows
            self._state = _take(self._state, rows)
            self.rows *= 2
        return [row for row in range(self.rows) if row not in used][:count]

    def _step(self, histories: list[tuple[int, tuple[int, ...]]], rows: list[int]) -> list[Read]:
        """Reads the last symbol of each history; the row given with it has read the others."""
        sources, symbols = zip(*histories, strict=True)
        logits, self._state = _step(
            *self.model,
            self._state,
            _padded(sources, 0),
            _padded([history[-1] for history in symbols], self.vocabulary.pad),
            _padded(rows, self.rows),
        )
        return self._reads(symbols, rows, logits)

    def _read_again(
        self, histories: list[tuple[int, tuple[int, ...]]], rows: list[int]
    ) -> list[Read]:
        """Reads the last symbols of each history as the first of a window."""
        symbols = [history[-self.kept :] for _, history in histories]
        targets = _padded(rows, self.rows)
        chunk = min(CHUNK, self.kept)
        ids = np.full((len(targets), -(-self.kept // chunk) * chunk), self.vocabulary.pad, np.int32)
        ids[: len(rows), : self.kept] = symbols
        lengths = np.full(len(targets), self.kept, np.int32)
        state, _ = empty_state(*self.model, len(targets), self.context)
        outputs = self.vocabulary.outputs
        logits, state, _ = read_rows(*self.model, ids, lengths, state, outputs, chunk)
        self._state = _put(self._state, targets, state)
        return self._reads(symbols, rows, logits)

    def _reads(
        self, symbols: Sequence[tuple[int, ...]], rows: list[int], logits: jax.Array
    ) -> list[Read]:
        wide = np.asarray(logits, np.float64)[: len(rows)]
        wide -= wide.max(axis=1, keepdims=True)
        wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
        return [Read(*read) for read in zip(symbols, rows, wide[:, self.columns], strict=True)]


def _padded(values: Sequence[int], filler: int) -> np.ndarray:
    """Int32, padded to a power of two, so that few shapes are compiled."""
    result = np.full(1 << (len(values) - 1).bit_length(), filler, np.int32)
    result[: len(values)] = values
    return result


_take = jax.jit(take)
_put = jax.jit(put, donate_argnames="state")


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames="state")
def _step(
    graphdef: nnx.GraphDef,
    params: Any,
    state: Any,
    sources: jax.Array,
    ids: jax.Array,
    rows: jax.Array,
) -> tuple[jax.Array, Any]:
    """Copies row `sources[i]`, reads `ids[i]` in it, and stores it as `rows[i]`; all `[K]`."""
    model = nnx.merge(graphdef, params)
    logits, new = model.extend(ids[:, None], take(state, sources), jnp.ones_like(ids))
    return logits[:, 0], put(state, rows, new)
