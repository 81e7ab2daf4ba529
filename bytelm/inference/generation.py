"""Generation: prompts in, bytes out, with the model's decoding state.

A subword model reads a prompt's canonical tokens and generates tokens, whose bytes are returned.

Prompts are read in chunks of one size, so that new lengths need no compilation. Then the compiled
loop of `bytelm.inference.decoding` writes a chunk of symbols for every row, and the host returns
their bytes. The random key of symbol i of row r depends only on (seed, r, i).
"""

import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.checked import require_positive
from bytelm.core.errors import UserError
from bytelm.core.memory import free_memory
from bytelm.core.terminal_text import number_of
from bytelm.core.vocabulary import BYTE_VOCABULARY
from bytelm.core.xla import programs
from bytelm.inference.batching import Batching, Prompt, in_order, warn_of_overflow
from bytelm.inference.decoding import (
    MOST,
    Rows,
    Written,
    empty_state,
    first_symbols,
    goes_on,
    read_rows,
    row_keys,
    state_length,
    write_chunk,
)
from bytelm.inference.draft_length import Chunk, DraftLength
from bytelm.inference.drafters import Drafter, Small
from bytelm.inference.sampling import Sampling
from bytelm.inference.stopping import StopFilter
from bytelm.models.contract import LanguageModel
from bytelm.models.encoder_decoder import EncoderDecoder
from bytelm.nn.roles import trained, with_trained
from bytelm.tokenizers.tokenizer import Tokenizer

Weights = Literal["float32", "bfloat16"]

PREFILL = 128
"""Prompt symbols of each row that are read at a time."""
CHUNK = 32
"""Symbols of each row that are generated before the host looks at them."""
ROWS = 16
"""Texts that are written at a time."""


def store_weights(params: Any, weights: Weights, roles: Any = None) -> Any:
    """The parameters, rounded to the dtype `weights`.

    bfloat16 halves their memory, and the memory traffic that limits decoding. The model still
    computes in its own compute dtype. Frozen parameters, by their `roles`, stay as they are: with
    another entropy model patches would end elsewhere.
    """
    dtype = jnp.dtype(weights)

    def store(value: jax.Array) -> jax.Array:
        is_float = jnp.issubdtype(value.dtype, jnp.floating)
        return value.astype(dtype) if is_float and value.dtype != dtype else value

    if roles is None:
        return jax.tree.map(store, params)
    return with_trained(params, jax.tree.map(store, trained(params, roles)))


def missing_methods(graphdef: nnx.GraphDef) -> list[str]:
    """The methods needed for generation that the model's family does not define."""
    model = _class(graphdef)
    needed = {"extend": LanguageModel, "init_state": LanguageModel}
    if issubclass(model, EncoderDecoder):
        needed["start"] = EncoderDecoder
    return [name for name, base in needed.items() if getattr(model, name) is getattr(base, name)]


def _class(graphdef: nnx.GraphDef) -> type[nnx.Module]:
    """The class of the model, which is the first node of its graph."""
    root: Any = graphdef.nodes[0]
    return root.type


@dataclass(frozen=True)
class Draft:
    """What drafts symbols, and how many in a round at most."""

    drafter: Drafter
    most: int = 8
    adapts: bool = True
    """Whether each chunk drafts as many as pay, by the time that chunks took; otherwise `most`."""


class Generator:
    """Continues prompts with one model.

    Args:
        graphdef: of the model, from `nnx.split`.
        params: its parameters, as `nnx.split` gave them or as a nested dict.
        prefill: prompt symbols read at a time; it does not change the text.
        chunk: symbols generated at a time, the latency of `stream`; it does not change the text.
        tokenizer: of a subword model; None where symbols are bytes.

    Attributes:
        graphdef, params: of the model, in its form for decoding.
        draft_lengths: what was measured of each drafter, its most drafts, and the rows.
        tokenizer, vocabulary: of its symbols.

    Raises:
        UserError: if the family has no `extend`.
    """

    makes_room: ClassVar[bool] = True
    """Whether a row whose text has ended can take another prompt while the others go on."""
    no_drafts: ClassVar[str | None] = None
    """Why symbols cannot be drafted; None if they can."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: Any,
        *,
        prefill: int = PREFILL,
        chunk: int = CHUNK,
        tokenizer: Tokenizer | None = None,
    ):
        if missing := missing_methods(graphdef):
            raise UserError(
                f"{_class(graphdef).__name__} cannot write text: it has no "
                f"{' and no '.join(missing)}; it can still be trained and evaluated."
            )
        self.tokenizer = tokenizer
        self.vocabulary = BYTE_VOCABULARY if tokenizer is None else tokenizer.vocabulary
        self.graphdef, self.params = nnx.split(nnx.merge(graphdef, params).for_decoding())
        self._prefill = prefill
        self._chunk = chunk
        self.draft_lengths: dict[tuple[Drafter, int, int], DraftLength] = {}

    @functools.cached_property
    def as_drafter(self) -> Small:
        """This model as the drafter of a larger one."""
        return Small(self.graphdef, self.params)

    def generate(
        self, prompts: Sequence[bytes], *, max_bytes: int, rows: int = ROWS, **options: Any
    ) -> list[bytes]:
        """The continuation of each prompt, without the prompt. Arguments as for `stream`.

        More prompts than `rows` are written by `complete`, with the same texts.
        """
        if len(prompts) > rows:
            numbered = (Prompt(text, max_bytes, i) for i, text in enumerate(prompts))
            return list(self.complete(numbered, rows=rows, **options))
        texts = [b""] * len(prompts)
        for new in self.stream(prompts, max_bytes=max_bytes, **options):
            texts = [text + more for text, more in zip(texts, new, strict=True)]
        return texts

    def complete(self, prompts: Iterable[Prompt], **options: Any) -> Iterator[bytes]:
        """Yields the texts of `as_completed` in the order of their prompts."""
        return in_order(self.as_completed(prompts, **options))

    def as_completed(
        self,
        prompts: Iterable[Prompt],
        *,
        rows: int = ROWS,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: Sequence[bytes] = (),
        draft: Draft | None = None,
        largest: Prompt | None = None,
    ) -> Iterator[tuple[int, bytes]]:
        """Yields the continuation of each of any number of prompts as it ends.

        At most `rows` are written at a time (`bytelm.inference.batching`). Other arguments as for
        `stream`, and so are the texts.

        Args:
            largest: of the prompts, if it is known; there must be memory for it at once.

        Yields:
            the place of a prompt among all, from 0, and its continuation.
        """
        require_positive("rows", rows)
        sampling = self._checked(sampling, seed, stop, draft)
        if self.makes_room:
            batching = Batching(self, rows, sampling, seed, stop, draft)
            if largest is not None:
                batching.check(largest)
            return batching.run(prompts)
        return enumerate(self._in_batches(prompts, rows, sampling, seed, stop, draft))

    def _in_batches(
        self,
        prompts: Iterable[Prompt],
        rows: int,
        sampling: Sampling,
        seed: int,
        stop: Sequence[bytes],
        draft: Draft | None,
    ) -> Iterator[bytes]:
        """Yields the texts of whole batches, one after another."""
        options = sampling, seed, stop, draft
        for max_bytes, same in itertools.groupby(prompts, key=lambda prompt: prompt.max_bytes):
            while batch := list(itertools.islice(same, rows)):
                starts, texts = [prompt.text for prompt in batch], [b""] * len(batch)
                numbers = [prompt.number for prompt in batch]
                for new in self._stream(starts, max_bytes, *options, numbers):
                    texts = [text + more for text, more in zip(texts, new, strict=True)]
                yield from texts

    def _checked(
        self, sampling: Sampling | None, seed: int, stop: Sequence[bytes], draft: Draft | None
    ) -> Sampling:
        """The sampling, by default from the model's own distribution; raises as `stream` does."""
        if not 0 <= seed < 2**31:
            raise UserError(f"seed is {seed}; it must be from 0 to below 2**31.")
        if not all(stop):
            raise UserError("a stop string is empty; give at least one byte, or none at all.")
        if draft is not None and self.no_drafts is not None:
            raise UserError(f"{self.no_drafts}; leave out draft.")
        return (sampling or Sampling()).check()

    def stream(
        self,
        prompts: Sequence[bytes],
        *,
        max_bytes: int,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: Sequence[bytes] = (),
        draft: Draft | None = None,
    ) -> Iterator[list[bytes]]:
        """Yields the next bytes of every row, until all rows have ended.

        Args:
            prompts: the text at the start of each row, after START; may be empty.
            max_bytes: most bytes generated for each row.
            sampling: how symbols are chosen; by default from the model's own distribution.
            seed: of the random choices.
            stop: byte strings; a row ends just before the first of them that occurs. END always
                ends it.
            draft: what drafts symbols, and how many at most; it does not change the text.

        Raises:
            UserError: for an option out of range.
        """
        sampling = self._checked(sampling, seed, stop, draft)
        if max_bytes < 0:
            raise UserError(f"max-bytes is {max_bytes}; it must be at least 0.")
        return self._stream(prompts, max_bytes, sampling, seed, stop, draft)

    def _stream(
        self,
        prompts: Sequence[bytes],
        max_bytes: int,
        sampling: Sampling,
        seed: int,
        stop: Sequence[bytes],
        draft: Draft | None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[bytes]]:
        """`stream`, whose rows have these numbers, by default from 0 on."""
        if not prompts:
            return
        drafter = None if draft is None else draft.drafter
        logits, state, drafting = self.start(prompts, max_bytes, drafter)
        filters = [StopFilter(stop, max_bytes, self.tokenizer) for _ in prompts]
        if not max_bytes:
            return
        numbers = range(len(prompts)) if numbers is None else numbers
        keys = row_keys(jax.random.key(seed), np.array(numbers))
        rows = first_symbols(logits, state, keys, sampling, self.vocabulary, drafting)
        pending = np.asarray(rows.pending)[:, None]
        yield [each.feed(symbols) for each, symbols in zip(filters, pending, strict=True)]
        warned, made = False, np.ones(len(prompts), np.int32)
        while (running := np.array([not each.ended for each in filters])).any():
            if not (left := (max_bytes - made) * running).any():
                break
            rows, written = self.write(rows, left, sampling, draft)
            made += written.counts
            news = zip(filters, written.symbols, written.counts, strict=True)
            yield [each.feed(symbols[:count]) for each, symbols, count in news]
            if written.full is not None and not warned and written.full.any():
                warned = True
                warn_of_overflow(written.full)
        yield [each.flush() for each in filters]

    def write(
        self,
        rows: Rows,
        left: np.ndarray,
        sampling: Sampling,
        draft: Draft | None,
        *,
        waiting: bool = False,
    ) -> tuple[Rows, Written]:
        """A chunk, with as many drafts as pay; row r gets `left[r]` symbols at most.

        A row with none left ends. `waiting` tells whether other texts wait for rows that end.
        """
        length = self._length(draft, len(left)) if draft is not None and draft.adapts else None
        drafts, rounds = 0 if draft is None else draft.most, None
        if length is not None:
            drafts, rounds = length.next(int(left.max()), waiting=waiting)
        compiled, start = programs(write_chunk), time.perf_counter()
        rows, written = write_chunk(
            self.graphdef,
            self.params,
            rows.select(jnp.asarray(left > 0)),
            np.asarray(left, np.int32),
            sampling,
            self._chunk * (4 + drafts) // 4,  # about as many rounds with drafts as without
            self.vocabulary,
            None if draft is None else draft.drafter,
            drafts,
            MOST if rounds is None else rounds,
        )
        written = jax.device_get(written)
        seconds = time.perf_counter() - start
        if length is not None and programs(write_chunk) == compiled:
            counts = written.counts[goes_on(written, left, self.vocabulary)]
            length.record(drafts, Chunk(seconds, int(written.rounds), written.accepted, counts))
        elif length is not None:
            length.record_compiling(drafts, seconds)
        return rows, written

    def _length(self, draft: Draft, rows: int) -> DraftLength:
        """What is known of this drafter's speed with so many rows, in this and earlier calls."""
        key = draft.drafter, draft.most, rows
        return self.draft_lengths.setdefault(key, DraftLength(draft.most, rows))

    def start(
        self, prompts: Sequence[bytes], max_bytes: int, drafter: Drafter | None = None
    ) -> tuple[jax.Array, Any, Any]:
        """The logits after each prompt, `[B, outputs]`, the model's state and the drafter's."""
        texts = [self.symbols_of(prompt) for prompt in prompts]
        length = state_length(max(map(len, texts)) + max_bytes)
        return self.read(texts, *self.empty_state(len(texts), length, drafter), drafter)

    def symbols_of(self, prompt: bytes) -> np.ndarray:
        """START and the symbols of a prompt, int32."""
        tokenizer = self.tokenizer
        text = np.frombuffer(prompt, np.uint8) if tokenizer is None else tokenizer.encode(prompt)
        return np.concatenate([[self.vocabulary.start], text]).astype(np.int32)

    def read(
        self, texts: Sequence[np.ndarray], state: Any, drafting: Any, drafter: Drafter | None
    ) -> tuple[jax.Array, Any, Any]:
        """Reads the next symbols of each row, any number; returns what `start` does."""
        lengths = np.array([len(text) for text in texts], np.int32)
        width = self._prefill * -(-int(lengths.max()) // self._prefill)
        ids = np.full((len(texts), width), self.vocabulary.pad, np.int32)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        return read_rows(
            self.graphdef,
            self.params,
            ids,
            lengths,
            state,
            self.vocabulary.outputs,
            self._prefill,
            drafter,
            drafting,
        )

    def empty_state(self, rows: int, length: int, drafter: Drafter | None) -> tuple[Any, Any]:
        """The model's and the drafter's state of rows of at most `length` symbols.

        Raises UserError if there is no memory.
        """
        self.require_memory(rows, length, drafter)
        try:
            return empty_state(self.graphdef, self.params, rows, length, drafter)
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise self._no_memory(rows, length, drafter) from None

    def require_memory(self, rows: int, length: int, drafter: Drafter | None) -> None:
        """Raises UserError if these states would not fit into the memory that is free."""
        free = free_memory()
        if free is not None and rows * self.state_size(length, drafter) > free:
            raise self._no_memory(rows, length, drafter)

    def _no_memory(self, rows: int, length: int, drafter: Drafter | None) -> UserError:
        needed = rows * self.state_size(length, drafter)
        return UserError(
            f"there is no memory for {number_of(rows, 'text')} of {length:,} symbols, which take "
            f"{needed / 2**30:.1f} GiB; lower max-bytes, or give fewer or shorter prompts."
        )

    def remembers_all(self, length: int) -> bool:
        """Whether more than `length` symbols need a larger state.

        Otherwise windows and recurrent states forget, and texts may be of any length.
        """
        return self.state_size(length, None) < self.state_size(2 * length, None)

    def state_size(self, length: int, drafter: Drafter | None) -> int:
        """Bytes of these states, of one row."""
        states = functools.partial(empty_state, self.graphdef, rows=1, length=length)
        abstract = jax.eval_shape(lambda params: states(params, drafter=drafter), self.params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
