"""What continuations cost after their contexts, as multiple choice asks for.

The symbols of a context and its continuation are read in one decoding state. All of a context but
its last symbol is read once, whatever the number of its continuations; each of these is read from
that last symbol on, and taken back. A prefix that many contexts share is read once too. Contexts of
similar length are read together, and so are continuations, in few shapes. The scores of a pair
depend on the pair alone.

A model reads T symbols, its context length. A pair of more is scored in parts of at most T / 2
symbols, each after as many of the symbols before it as there is room for; an ordinary continuation
is one part, so its context is cut from the left.

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
PAIRS = 4096
"""Pairs that are taken together; of so many the symbols are held in memory."""
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
class _Part:
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
        always: whether it does so for all pairs, also where tokens end at the seam.
    """
    reader = _Reader(generator, context, rows)
    for first in range(0, len(pairs), PAIRS):
        some = pairs[first : first + PAIRS]
        for number, score in _score_some(reader, some, marginal, always):
            yield first + number, score


def _score_some(
    reader: "_Reader", pairs: Sequence[Pair], marginal: ByteMarginal | None, always: bool
) -> Iterator[tuple[int, Score]]:
    texts = [(text_bytes(before), text_bytes(after)) for before, after in pairs]
    parts: list[_Part] = []
    summed: list[int] = []
    for number, (before, after) in enumerate(texts):
        symbols = reader.generator.symbols_of(before + after)
        first = None if always else _seam(reader.generator, symbols, len(before))
        if not after:
            yield number, Score(0.0, True, always)
        elif first is None:
            summed.append(number)
        else:
            parts += _parts(number, symbols, first, reader.context)
    left = Counter(part.pair for part in parts)
    sums = defaultdict[int, Score](lambda: Score(0.0, True))
    for part, nats, greedy in reader.read(parts):
        so_far = sums[part.pair]
        sums[part.pair] = Score(so_far.nats + nats, so_far.is_greedy and greedy)
        left[part.pair] -= 1
        if not left[part.pair]:
            yield part.pair, sums.pop(part.pair)
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


def _parts(pair: int, symbols: np.ndarray, first: int, context: int) -> list[_Part]:
    """The parts of a continuation, which begins at symbol `first`."""
    size, found = len(symbols), []
    if len(symbols) - 1 > context:
        size = max(1, context // 2)
        warnings.warn(
            f"contexts that do not fit into the model's {context} symbols with their continuations "
            "are cut from the left.",
            stacklevel=2,
        )
    for at in range(first, len(symbols), size):
        end = min(at + size, len(symbols))
        begin = max(0, end - 1 - context)
        found.append(_Part(pair, symbols[begin:at], symbols[at:end]))
    return found


@dataclass(frozen=True)
class _Context:
    """A context, and what it is the context of."""

    symbols: np.ndarray  # int32, all but the last one
    parts: list[_Part]


@dataclass
class _Reader:
    """Reads contexts once, and the continuations of each."""

    generator: Generator
    context: int
    rows: int
    warned: bool = False

    def read(self, parts: Sequence[_Part]) -> Iterator[tuple[_Part, float, bool]]:
        """Yields each part with its nats, and whether its symbols are the likeliest."""
        by_context: dict[bytes, list[_Part]] = {}
        for part in parts:
            by_context.setdefault(part.context.tobytes(), []).append(part)
        by_length: dict[int, list[_Context]] = {}
        for found in by_context.values():
            longest = max(part.inputs for part in found)
            length = shortest_row(longest, self.context)
            by_length.setdefault(length, []).append(_Context(found[0].context[:-1], found))
        for length, same in sorted(by_length.items()):
            for prefix, sharing in _with_prefix(same):
                yield from self._read_contexts(sharing, prefix, length)

    def _read_contexts(
        self, contexts: list[_Context], prefix: np.ndarray, length: int
    ) -> Iterator[tuple[_Part, float, bool]]:
        """Reads contexts that begin with the prefix, with states of one length."""
        start, _ = self.generator.empty_state(1, length, None)
        start = self._advance(start, [prefix])
        rows = self._fitting_rows(length)
        contexts = sorted(contexts, key=lambda each: len(each.symbols))
        for some in _batches(contexts, rows):
            states = _take(start, np.zeros(rows, np.int32))
            states = self._advance(states, [each.symbols[len(prefix) :] for each in some])
            lines = [
                (row, line)
                for row, each in enumerate(some)
                for line in _batches(sorted(each.parts, key=_size), MOST_ROUNDS)
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
        self, states: Any, lines: Sequence[Sequence[_Part]], rows: int
    ) -> Iterator[tuple[_Part, float, bool]]:
        """Scores the parts of each row, one after another, from the same states."""
        then = _copied_snapshot(states, self.context)
        for parts in itertools.zip_longest(*lines):
            nats, right, states = self._score(states, then, parts, rows)
            for row, part in enumerate(parts):
                if part is not None:
                    yield part, float(nats[row]), bool(right[row])

    def _score(
        self, states: Any, then: Any, parts: Sequence[_Part | None], rows: int
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Scores a part in each row; returns nats and whether all is right, `[R]`, and states."""
        generator = self.generator
        targets = [_NOTHING if part is None else part.targets for part in parts]
        inputs = [
            _NOTHING if part is None else np.append(part.context[-1:], part.targets[:-1])
            for part in parts
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
        if full is not None and not self.warned and full[: len(parts)].any():
            self.warned = True
            warn_of_overflow(full[: len(parts)])
        return nats, right, states


def _with_prefix(contexts: list[_Context]) -> Iterator[tuple[np.ndarray, list[_Context]]]:
    """Divides contexts by the prefixes that many of them share; the last one is empty."""
    while contexts:
        place, length = shared_prefix([np.append(each.symbols, 0) for each in contexts])
        prefix = contexts[place].symbols[:length]
        begins = [np.array_equal(each.symbols[:length], prefix) for each in contexts]
        total = sum(len(each.symbols) for each in contexts)
        if length < SHORTEST_PREFIX or (sum(begins) - 1) * length < LEAST_SAVED * total:
            yield prefix[:0], contexts
            return
        yield prefix, list(itertools.compress(contexts, begins))
        contexts = [each for each, shares in zip(contexts, begins, strict=True) if not shares]


def _size(part: _Part) -> int:
    return len(part.targets)


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
