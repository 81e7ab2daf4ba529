"""What continuations cost after their contexts, as multiple choice asks for.

The symbols of a context and its continuation are read in one decoding state. All of a context but
its last symbol is read once, whatever the number of its continuations; each of these is read from
that last symbol on, and taken back. A prefix that many contexts share is read once too. Contexts of
similar length are read together, and so are continuations, in few shapes. The scores of a pair
depend on the pair alone.

A model reads T symbols, its context length. A pair of more is scored in pieces of at most T / 2
symbols, each after as many of the symbols before it as there is room for; an ordinary continuation
is one piece, so its context is cut from the left.

The symbols of a subword model are the canonical tokens of both texts together. Where a token begins
in the context and ends in the continuation, no token stands for the continuation's bytes alone, and
its probability is summed over tokenisations (`bytelm.inference.marginal.marginal`).

Shapes: R = rows, N = symbols read at a time.
"""

import functools
import itertools
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.memory import free_memory
from bytelm.core.texts import Text, text_bytes
from bytelm.core.vocabulary import UNSCORED
from bytelm.inference.batching import SHORTEST_PREFIX, warn_of_overflow
from bytelm.inference.generation import PREFILL, ROWS, Generator
from bytelm.inference.marginal.marginal import ByteMarginal
from bytelm.inference.row_lengths import shortest_row
from bytelm.inference.shared_prefix import shared_prefix
from bytelm.models.contract import LanguageModel
from bytelm.nn.state import restore, snapshot, take

Item = TypeVar("Item")

_NOTHING = np.zeros(0, np.int32)

Pair = tuple[Text, Text]
"""A context and its continuation; either may be empty."""

COVERS = 32
"""Token histories kept where a token lies across the seam."""
CHUNKS = 16, 64, PREFILL
"""Symbols of each row that are read at a time: few shapes, each compiled once."""
MOST_ROUNDS = 16
"""Continuations that a row reads one after another; a context with more has several rows."""
LEAST_SAVED = 1 / 8
"""A shared prefix is read by itself if that saves this share of the contexts' symbols."""


class Score(NamedTuple):
    """The score of a pair.

    Attributes:
        nats: what the continuation costs after its context.
        is_greedy: whether it is what greedy decoding writes there, symbol by symbol.
        by_bytes: whether its probability was summed over tokenisations.
    """

    nats: float
    is_greedy: bool
    by_bytes: bool = False


@dataclass(frozen=True)
class _Piece:
    """A continuation, or a part of one."""

    pair: int
    context: np.ndarray  # int32, at least one symbol
    targets: np.ndarray  # int32, at least one symbol

    @property
    def inputs(self) -> int:
        return len(self.context) + len(self.targets) - 1


def score_continuations(
    generator: Generator,
    pairs: Sequence[Pair],
    *,
    context: int,
    rows: int = ROWS,
    marginal: ByteMarginal | None = None,
    always: bool = False,
) -> Iterator[tuple[int, Score]]:
    """Yields each pair's number and score, as soon as they are known; see the module's docstring.

    Args:
        generator: of the model.
        pairs: contexts and continuations.
        context: T, most symbols that the model reads.
        rows: contexts, and continuations, read at a time; it changes speed and memory only.
        marginal: sums the probabilities of a subword model's tokenisations.
        always: whether it does so for all pairs, so that all are scored alike.
    """
    texts = [(text_bytes(before), text_bytes(after)) for before, after in pairs]
    pieces: list[_Piece] = []
    summed: list[int] = []
    cut = 0
    for number, (before, after) in enumerate(texts):
        symbols = generator.symbols_of(before + after)
        first = None if always else _seam(generator, symbols, len(before))
        if not after:
            yield number, Score(0.0, True, always)
        elif first is None:
            summed.append(number)
        else:
            found = _pieces(number, symbols, first, context)
            pieces += found
            cut += len(found[0].context) < first
    if cut:
        warnings.warn(
            f"{cut} of {len(texts)} contexts do not fit into the model's {context} symbols with "
            "their continuations, and were cut from the left.",
            stacklevel=2,
        )
    left = Counter(piece.pair for piece in pieces)
    sums = defaultdict[int, Score](lambda: Score(0.0, True))
    for piece, nats, greedy in _Reader(generator, context, rows).read(pieces):
        so_far = sums[piece.pair]
        sums[piece.pair] = Score(so_far.nats + nats, so_far.is_greedy and greedy)
        left[piece.pair] -= 1
        if not left[piece.pair]:
            yield piece.pair, sums.pop(piece.pair)
    for number in summed:
        assert marginal is not None
        yield number, Score(*marginal.continuation(*texts[number]), True)


def _seam(generator: Generator, symbols: np.ndarray, size: int) -> int | None:
    """How many symbols, START included, spell the first `size` bytes; None if a token goes on."""
    if generator.tokenizer is None:
        return size + 1
    ends = np.cumsum(generator.tokenizer.byte_counts[symbols[1:]])
    count = int(np.searchsorted(ends, size, side="right"))
    return count + 1 if size == (ends[count - 1] if count else 0) else None


def _pieces(pair: int, symbols: np.ndarray, first: int, context: int) -> list[_Piece]:
    """The pieces of a continuation, which begins at symbol `first`."""
    size = len(symbols) if len(symbols) - 1 <= context else max(1, context // 2)
    found = []
    for at in range(first, len(symbols), size):
        end = min(at + size, len(symbols))
        begin = max(0, end - 1 - context)
        found.append(_Piece(pair, symbols[begin:at], symbols[at:end]))
    return found


@dataclass(frozen=True)
class _Group:
    """A context and its pieces."""

    context: np.ndarray  # int32, all but the context's last symbol
    pieces: list[_Piece]


@dataclass
class _Reader:
    """Reads contexts once, and the continuations of each."""

    generator: Generator
    context: int
    rows: int
    warned: bool = False

    def read(self, pieces: Sequence[_Piece]) -> Iterator[tuple[_Piece, float, bool]]:
        """Yields each piece with its nats, and whether its symbols are the likeliest."""
        groups: dict[bytes, list[_Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.context.tobytes(), []).append(piece)
        by_length: dict[int, list[_Group]] = {}
        for found in groups.values():
            longest = max(piece.inputs for piece in found)
            length = shortest_row(longest, self.context)
            by_length.setdefault(length, []).append(_Group(found[0].context[:-1], found))
        for length, same in sorted(by_length.items()):
            for prefix, sharing in _with_prefix(same):
                yield from self._read_groups(sharing, prefix, length)

    def _read_groups(
        self, groups: list[_Group], prefix: np.ndarray, length: int
    ) -> Iterator[tuple[_Piece, float, bool]]:
        """Reads contexts that begin with the prefix, with states of one length."""
        start, _ = self.generator.empty_state(1, length, None)
        start = self._advance(start, [prefix])
        rows = self._fitting_rows(length)
        groups = sorted(groups, key=lambda group: len(group.context))
        for some in _batches(groups, rows):
            states = _take(start, np.zeros(rows, np.int32))
            states = self._advance(states, [group.context[len(prefix) :] for group in some])
            lines = [
                (row, line)
                for row, group in enumerate(some)
                for line in _batches(sorted(group.pieces, key=_size), MOST_ROUNDS)
            ]
            if len(lines) == len(some):
                yield from self._score_rows(states, [line for _, line in lines], rows)
                continue
            for chosen in _batches(sorted(lines, key=lambda each: -len(each[1])), rows):
                sources = [row for row, _ in chosen] + [0] * (rows - len(chosen))
                copies = _take(states, np.array(sources, np.int32))
                yield from self._score_rows(copies, [line for _, line in chosen], rows)

    def _fitting_rows(self, length: int) -> int:
        """Fewer rows where memory is short: contexts, their continuations, and a copy."""
        rows, free = self.rows, free_memory()
        of_row = self.generator.state_size(length, None)
        while rows > 1 and free is not None and 3 * rows * of_row > free:
            rows //= 2
        return rows

    def _advance(self, states: Any, texts: Sequence[np.ndarray]) -> Any:
        """Reads the symbols of each row."""
        generator, rows = self.generator, len(jax.tree.leaves(states)[0])
        lengths = np.zeros(rows, np.int32)
        lengths[: len(texts)] = [len(text) for text in texts]
        chunk = _chunk(int(lengths.max()))
        for first in range(0, int(lengths.max()), chunk):
            ids = _table([text[first:] for text in texts], (rows, chunk), generator.vocabulary.pad)
            present = np.clip(lengths - first, 0, chunk)
            states = _read(generator.graphdef, generator.params, ids, present, states)
        return states

    def _score_rows(
        self, states: Any, lines: Sequence[Sequence[_Piece]], rows: int
    ) -> Iterator[tuple[_Piece, float, bool]]:
        """Scores the pieces of each row, one after another, from the same states."""
        then = _copied_snapshot(states, self.context)
        for pieces in itertools.zip_longest(*lines):
            nats, right, states = self._score(states, then, pieces, rows)
            for row, piece in enumerate(pieces):
                if piece is not None:
                    yield piece, float(nats[row]), bool(right[row])

    def _score(
        self, states: Any, then: Any, pieces: Sequence[_Piece | None], rows: int
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Scores a piece in each row; returns nats and whether all is right, `[R]`, and states."""
        generator = self.generator
        targets = [_NOTHING if piece is None else piece.targets for piece in pieces]
        inputs = [
            _NOTHING if piece is None else np.append(piece.context[-1:], piece.targets[:-1])
            for piece in pieces
        ]
        longest = max(map(len, targets))
        chunk = _chunk(longest)
        nats, right, full = np.zeros(rows), np.ones(rows, bool), None
        for first in range(0, longest, chunk):
            shape = rows, chunk
            ids = _table([each[first:] for each in inputs], shape, generator.vocabulary.pad)
            wanted = _table([each[first:] for each in targets], shape, UNSCORED)
            model = generator.graphdef, generator.params
            before = None if first else then
            of_chunk, hits, full, states = _score_chunk(*model, ids, wanted, states, before)
            nats += np.asarray(of_chunk, np.float64).sum(axis=1)
            right &= np.asarray(hits)
        if full is not None and not self.warned and full[: len(pieces)].any():
            self.warned = True
            warn_of_overflow(full[: len(pieces)])
        return nats, right, states


def _with_prefix(groups: list[_Group]) -> Iterator[tuple[np.ndarray, list[_Group]]]:
    """Divides contexts by the prefixes that many of them share; the last one is empty."""
    while groups:
        place, length = shared_prefix([np.append(group.context, 0) for group in groups])
        prefix = groups[place].context[:length]
        sharing = [each for each in groups if np.array_equal(each.context[:length], prefix)]
        saved = (len(sharing) - 1) * length
        if length < SHORTEST_PREFIX or saved < LEAST_SAVED * sum(len(g.context) for g in groups):
            yield prefix[:0], groups
            return
        yield prefix, sharing
        groups = [each for each in groups if not np.array_equal(each.context[:length], prefix)]


def _size(piece: _Piece) -> int:
    return len(piece.targets)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _chunk(longest: int) -> int:
    """Symbols read at a time, in rows of at most `longest`: little more is read than there is."""
    return next((chunk for chunk in reversed(CHUNKS) if chunk <= longest), CHUNKS[0])


def _table(texts: Sequence[np.ndarray], shape: tuple[int, int], filler: int) -> np.ndarray:
    """The first symbols of each text, int32 `[R, N]`."""
    table = np.full(shape, filler, np.int32)
    for row, text in zip(table, texts, strict=False):
        row[: len(text)] = text[: len(row)]
    return table


_take = jax.jit(take)


@functools.partial(jax.jit, static_argnames="most")
def _copied_snapshot(states: Any, most: int) -> Any:
    """A snapshot with memory of its own: that of the states is given away."""
    return jax.tree.map(jnp.copy, snapshot(states, most))


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames="states")
def _read(
    graphdef: nnx.GraphDef, params: Any, ids: jax.Array, lengths: jax.Array, states: Any
) -> Any:
    """The states after so many of the ids `[R, N]`; no logits are computed."""
    model: LanguageModel = nnx.merge(graphdef, params)
    return model.advance(ids, states, lengths)[1]


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames="states")
def _score_chunk(
    graphdef: nnx.GraphDef,
    params: Any,
    ids: jax.Array,
    targets: jax.Array,
    states: Any,
    then: Any,
) -> tuple[jax.Array, jax.Array, jax.Array | None, Any]:
    """Nats `[R, N]`, whether all targets of a row are the likeliest, the full rows, the states.

    With the snapshot `then` the states first become again what they were.
    """
    model: LanguageModel = nnx.merge(graphdef, params)
    states = states if then is None else restore(states, then)
    scored = targets != UNSCORED
    output, states = model.advance(ids, states, scored.sum(axis=1))
    right = ((output.best == targets) | ~scored).all(axis=1)
    return output.nats(targets), right, model.full_rows(states), states
