"""Continuous batching: many prompts, through a fixed number of rows.

A row whose text has ended takes the next prompt, after the current chunk of symbols. New prompts
are read in small batches of their own, and their rows are put in the place of ended ones, so no
shape changes and nothing is compiled again. A prefix that many prompts share is read once. The text
of a prompt depends on the prompt, the seed, the options and its number, as if it were alone.

States have one length for all rows, a power of two. Prompts are taken in parts; those of a part
that need less than a quarter of the longest get rows of their own, shorter ones, after it.
"""

import functools
import itertools
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.memory import free_memory
from bytelm.core.vocabulary import Vocabulary
from bytelm.inference.decoding import Rows, Written, first_symbols, row_keys, state_length
from bytelm.inference.drafters import Drafter
from bytelm.inference.sampling import Sampling
from bytelm.inference.shared_prefix import shared_prefix
from bytelm.inference.stopping import StopFilter
from bytelm.nn.state import put, take
from bytelm.tokenizers.tokenizer import Tokenizer

PART = 32
"""Prompts that are taken together, times the rows; of so many the texts are held in memory."""

SHORTEST_PREFIX = 16
"""A shared prefix of fewer symbols is not read by itself."""


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    text: bytes
    max_bytes: int
    number: int
    """Of the row in whose place it is: with the seed it decides the random choices."""


@dataclass
class Waiting:
    """A prompt of a part."""

    place: int  # in the part
    prompt: Prompt
    symbols: np.ndarray  # int [symbols], START first
    shares: bool = False  # whether it begins with the shared prefix

    @property
    def length(self) -> int:
        """Symbols for which its row must have a state."""
        return len(self.symbols) + self.prompt.max_bytes


@dataclass
class Writing:
    """A prompt that has a row."""

    waiting: Waiting
    filter: StopFilter
    text: bytes
    left: int  # symbols that it may still get

    def feed(self, symbols: np.ndarray) -> None:
        """Takes the row's next symbols."""
        self.text += self.filter.feed(symbols)
        self.left = 0 if self.filter.ended else self.left - len(symbols)
        if not self.left:
            self.text += self.filter.flush()


class Engine(Protocol):
    """What a `bytelm.inference.generation.Generator` does, and rows are made of."""

    tokenizer: Tokenizer | None
    vocabulary: Vocabulary

    def symbols_of(self, prompt: bytes) -> np.ndarray: ...

    def state_size(self, length: int, drafter: Drafter | None) -> int: ...

    def empty_state(self, rows: int, length: int, drafter: Drafter | None) -> tuple[Any, Any]: ...

    def require_memory(self, rows: int, length: int, drafter: Drafter | None) -> None: ...

    def read(
        self, texts: Sequence[np.ndarray], state: Any, drafting: Any, drafter: Drafter | None
    ) -> tuple[jax.Array, Any, Any]: ...

    def write(
        self, rows: Rows, left: np.ndarray, sampling: Sampling, draft: Any, *, waiting: bool
    ) -> tuple[Rows, Written]: ...


class Batching:
    """Continues prompts in at most `rows` rows; `draft` is a `Draft` or None."""

    def __init__(
        self,
        generator: Engine,
        rows: int,
        sampling: Sampling,
        seed: int,
        stop: Sequence[bytes],
        draft: Any,
    ):
        self._generator, self._rows, self._stop, self._draft = generator, rows, stop, draft
        self._sampling, self._key = sampling, jax.random.key(seed)
        self._drafter = None if draft is None else draft.drafter
        self._warned = False

    def check(self, prompt: Prompt) -> None:
        """Raises UserError if a prompt has no memory: its states are those of at least two rows."""
        waiting = Waiting(0, prompt, self._generator.symbols_of(prompt.text))
        try:
            self._generator.require_memory(2, state_length(waiting.length), self._drafter)
        except UserError as error:
            raise UserError(f"prompt {prompt.number + 1} is too large: {error}") from None

    def run(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, bytes]]:
        """Yields the place of each prompt, from 0, and its continuation, as they end."""
        prompts, first = iter(prompts), 0
        while part := list(itertools.islice(prompts, PART * self._rows)):
            yield from ((first + place, text) for place, text in self._part(part))
            first += len(part)

    def _part(self, part: Sequence[Prompt]) -> Iterator[tuple[int, bytes]]:
        """Yields places in the part and their texts, as they end."""
        encode = self._generator.symbols_of
        waiting = [Waiting(i, prompt, encode(prompt.text)) for i, prompt in enumerate(part)]
        prefix = _share(waiting)
        yield from ((each.place, b"") for each in waiting if not each.prompt.max_bytes)
        # Rows of one length at a time; prompts of about the same length are read together.
        waiting = [each for each in waiting if each.prompt.max_bytes]
        queue = deque(sorted(waiting, key=lambda each: -each.length))
        while queue:
            longest = state_length(queue[0].length)
            same = deque[Waiting]()
            while queue and 4 * state_length(queue[0].length) > longest:
                same.append(queue.popleft())
            yield from self._write(same, longest, prefix)

    def _write(
        self, queue: deque[Waiting], length: int, prefix: np.ndarray
    ) -> Iterator[tuple[int, bytes]]:
        """Writes the texts of a queue, with states of one length."""
        count, group = self._sizes(length, len(queue))
        starts = self._starts(length, prefix)
        rows, writing = self._no_rows(count, starts), dict[int, Writing]()
        while queue or writing:
            free = deque(row for row in range(count) if row not in writing)
            while free and queue:
                size = group if min(len(free), len(queue)) > 1 else 1
                taken = [queue.popleft() for _ in range(min(size, len(free), len(queue)))]
                index = [free.popleft() for _ in taken]
                new, begun = self._read(taken, size, starts, prefix)
                rows = _put_rows(rows, np.array(index + [count] * (size - len(index))), new)
                writing |= zip(index, begun, strict=True)
            left = np.array([writing[row].left if row in writing else 0 for row in range(count)])
            if left.any():
                rows = self._continue(rows, left, writing, waiting=bool(queue))
            for row in [row for row, each in writing.items() if not each.left]:
                each = writing.pop(row)
                yield each.waiting.place, each.text

    def _continue(
        self, rows: Rows, left: np.ndarray, writing: dict[int, Writing], *, waiting: bool
    ) -> Rows:
        """Writes a chunk of symbols of the rows that go on."""
        rows, written = self._generator.write(
            rows, left, self._sampling, self._draft, waiting=waiting
        )
        for row, each in writing.items():
            if each.left:
                each.feed(np.asarray(written.symbols[row, : written.counts[row]]))
        if written.full is not None and written.full.any() and not self._warned:
            self._warned = True
            warn_of_overflow(written.full)
        return rows

    def _sizes(self, length: int, waiting: int) -> tuple[int, int]:
        """How many rows there are, and how many prompts are read together.

        Powers of two; fewer rows where states are so long that memory is short.
        """
        count = 1
        while count < min(self._rows, waiting):
            count *= 2
        count = min(count, self._rows)
        free, of_row = free_memory(), self._generator.state_size(length, self._drafter)
        while count > 1 and free is not None and (count + count // 4 + 2) * of_row > free:
            count //= 2
        return count, max(1, count // 4)

    def _starts(self, length: int, prefix: np.ndarray) -> Any:
        """The states of two rows: before the first symbol, and after the prefix."""
        generator, drafter = self._generator, self._drafter
        state, drafting = generator.empty_state(2, length, drafter)
        if not 0 < len(prefix) < length:
            return state, drafting
        return generator.read([prefix[:0], prefix], state, drafting, drafter)[1:]

    def _no_rows(self, count: int, starts: Any) -> Rows:
        """Rows that write nothing."""
        zeros = np.zeros(count, np.int32)
        state, drafting = _take_states(starts, zeros)
        pending, made = jnp.asarray(zeros), jnp.asarray(zeros)
        return Rows(state, pending, row_keys(self._key, zeros), made, made > 0, drafting)

    def _read(
        self, taken: list[Waiting], size: int, starts: Any, prefix: np.ndarray
    ) -> tuple[Rows, list[Writing]]:
        """Reads prompts, as so many new rows; those past the prompts are empty."""
        generator, skipped = self._generator, len(prefix)
        numbers = np.zeros(size, np.int32)
        numbers[: len(taken)] = [each.prompt.number for each in taken]
        shares = np.zeros(size, np.int32)
        shares[: len(taken)] = [each.shares for each in taken]
        symbols = [each.symbols[skipped * each.shares :] for each in taken]
        symbols += [prefix[:0]] * (size - len(taken))
        state, drafting = _take_states(starts, shares)
        logits, state, drafting = generator.read(symbols, state, drafting, self._drafter)
        keys = row_keys(self._key, numbers)
        rows = first_symbols(logits, state, keys, self._sampling, generator.vocabulary, drafting)
        first = np.asarray(rows.pending)
        begun = []
        for each, symbol in zip(taken, first[: len(taken)], strict=True):
            most = each.prompt.max_bytes
            row = Writing(each, StopFilter(self._stop, most, generator.tokenizer), b"", most)
            row.feed(symbol[None])
            begun.append(row)
        return rows, begun


def in_order(ended: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The texts of `Batching.run` in the order of their prompts."""
    texts, following = dict[int, bytes](), 0
    for place, text in ended:
        texts[place] = text
        while following in texts:
            yield texts.pop(following)
            following += 1


def _share(waiting: list[Waiting]) -> np.ndarray:
    """The symbols of the prefix that is read once; marks the prompts that begin with it."""
    text, length = shared_prefix([each.symbols for each in waiting])
    length = length if length >= SHORTEST_PREFIX else 0
    prefix = waiting[text].symbols[:length]
    for each in waiting:
        begins = np.array_equal(each.symbols[:length], prefix)
        each.shares = 0 < length < len(each.symbols) and begins
    return prefix


@functools.partial(jax.jit, donate_argnames="rows")
def _put_rows(rows: Rows, index: jax.Array, new: Rows) -> Rows:
    return put(rows, index, new)


@jax.jit
def _take_states(states: Any, rows: jax.Array) -> Any:
    return take(states, rows)


def warn_of_overflow(full: Any) -> None:
    """Warns of patches that found no slot, in these rows, bool `[B]`."""
    warnings.warn(
        f"patches found no free slot in {int(full.sum())} of {len(full)} texts, and their bytes "
        "stayed in the patch before; a lower model.bytes_per_slot (in an inner level, its own "
        "option) avoids it.",
        stacklevel=3,
    )
