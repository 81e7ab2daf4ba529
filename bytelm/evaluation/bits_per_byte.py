"""Exact bits per byte of whole documents, however long, in windows that slide over them.

Every byte and every END is scored exactly once, START never. The inputs of a document (START and
its bytes) are cut into windows of T: the first scores all of its targets, each later one moves on
by `stride` and scores its last `stride` targets, so that they have at least `T - stride` symbols
of context. A row holds one window of one document and nothing else, so that no score depends on
what else is evaluated.

The symbols of a subword model are the tokens of the document's canonical tokenisation. Their bits
over the raw bytes are an upper bound: other tokens spell the same bytes, and their probability does
not count (`bytelm.subword.marginal` adds it up).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from bytelm.compiler import jit_inference
from bytelm.errors import UserError
from bytelm.evaluation.bootstrap import bootstrap_interval
from bytelm.models.contract import Batch
from bytelm.subword.tokenizer import Tokenizer
from bytelm.training.sharding import MeshConfig, place_batch
from bytelm.vocabulary import BYTE_VOCABULARY, END, UNSCORED, Vocabulary

Result = TypeVar("Result")


@dataclass(frozen=True)
class DocumentScores:
    """What a model makes of each of several documents; sums over documents come last.

    Attributes:
        byte_nats: float64 `[documents]`, negative log-likelihood of the document's text.
        end_nats: float64 `[documents]`, that of its END.
        bytes: int64 `[documents]`, its raw length.
        symbols: int64 `[documents]`, the bytes or tokens that it was scored as, without END.
    """

    byte_nats: np.ndarray
    end_nats: np.ndarray
    bytes: np.ndarray
    symbols: np.ndarray

    def bits(self, with_end: bool = False) -> np.ndarray:
        """Bits of each document, float64 `[documents]`, with or without those of its END."""
        nats = self.byte_nats + self.end_nats if with_end else self.byte_nats
        return nats / math.log(2)

    def bits_per_byte(self, with_end: bool = False) -> float:
        """All bits over all raw bytes.

        Raises:
            UserError: if the documents hold no byte.
        """
        if not self.bytes.sum():
            raise UserError("the documents to score hold no bytes; choose a source that has text.")
        return float(np.divide(self.bits(with_end).sum(), self.bytes.sum()))

    def interval(self, with_end: bool = False) -> tuple[float, float]:
        """95% bootstrap interval over documents of `bits_per_byte`."""
        return bootstrap_interval(self.bits(with_end), self.bytes)


class Scorer:
    """Nats of every target of a batch, `Batch [B, T] -> float32 [B, T]`, 0 where UNSCORED.

    The model gets no targets, so that it cannot look at them. With several devices, each has a
    copy of the parameters and takes its share of the rows.
    """

    def __init__(self, graphdef: nnx.GraphDef, params: Any):
        self._graphdef = graphdef
        self._params = params
        self._mesh = None
        if jax.device_count() > 1:
            self._mesh = MeshConfig().build()
            self._params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))

    def __call__(self, batch: Batch) -> jax.Array:
        return self.nats_and_starts(batch)[0]

    def nats_and_starts(self, batch: Batch) -> tuple[jax.Array, jax.Array | None]:
        """The nats, and the ids with which patches start, bool `[B, T]`; None without patches."""
        return self.run(_nats_and_starts, batch)

    def run(self, function: Callable[[nnx.GraphDef, Any, Batch], Result], batch: Batch) -> Result:
        """What a compiled function of model, parameters and batch gives: arrays by row."""
        if self._mesh is None:
            return function(self._graphdef, self._params, batch)
        rows = len(batch.ids)
        more = ((0, -rows % self._mesh.size), (0, 0))
        batch = place_batch(jax.tree.map(lambda leaf: np.pad(leaf, more), batch), self._mesh)
        with jax.set_mesh(self._mesh):
            found = function(self._graphdef, self._params, batch)
            return jax.tree.map(lambda leaf: leaf[:rows], found)


@jit_inference(static_argnums=0)
def _nats_and_starts(
    graphdef: nnx.GraphDef, params: Any, batch: Batch
) -> tuple[jax.Array, jax.Array | None]:
    output = nnx.merge(graphdef, params)(without_targets(batch))
    return output.nats(batch.targets), output.patch_starts


def without_targets(batch: Batch) -> Batch:
    """The batch as a model gets it that shall be scored, with no way to look at the targets."""
    unscored = jnp.full_like(batch.targets, UNSCORED)
    return dataclasses.replace(batch, targets=unscored, byte_counts=None)


def default_stride(sequence_length: int) -> int:
    """Half the window: each byte after the first window has at least that much context."""
    return max(1, sequence_length // 2)


def empty_batch(rows: int, length: int, vocabulary: Vocabulary = BYTE_VOCABULARY) -> Batch:
    """Rows of nothing but padding, NumPy int32 `[rows, length]`."""
    shape = (rows, length)
    return Batch(
        ids=np.full(shape, vocabulary.pad, np.int32),
        targets=np.full(shape, UNSCORED, np.int32),
        segment_ids=np.zeros(shape, np.int32),
    )


def score_documents(
    scorer: Callable[[Batch], jax.Array],
    documents: Iterable[bytes],
    *,
    sequence_length: int,
    stride: int | None = None,
    batch_size: int = 8,
    tokenizer: Tokenizer | None = None,
) -> DocumentScores:
    """Scores whole documents with a sliding context; see the module's docstring.

    Documents are read once, one after another, and only those of two batches are held.

    Args:
        scorer: a `Scorer`, or anything that gives the nats of every target of a batch.
        documents: any byte strings, empty ones too.
        sequence_length: T, positions in a window.
        stride: targets that each window after a document's first scores, 1 to T; None for T / 2.
        batch_size: windows scored at a time. It changes speed and memory alone.
        tokenizer: of a subword model; None where symbols are bytes.

    Raises:
        UserError: if the stride is not between 1 and T, or the batch size below 1; and for text
            that the tokenizer cannot write back.
    """
    byte_nats: list[float] = []
    end_nats: list[float] = []
    lengths: list[int] = []
    symbols: list[int] = []
    end = END if tokenizer is None else tokenizer.vocabulary.end

    def add(windows: list[Window], targets: np.ndarray, nats: jax.Array) -> None:
        wide = np.asarray(nats, np.float64)
        ends = np.where(targets == end, wide, 0.0).sum(axis=1)
        others = np.where(targets == end, 0.0, wide).sum(axis=1)
        for row, window in enumerate(windows):
            if window.first == 0:
                byte_nats.append(0.0)
                end_nats.append(0.0)
                lengths.append(window.bytes)
                symbols.append(len(window.symbols))
            byte_nats[-1] += others[row]
            end_nats[-1] += ends[row]

    # The device works on one batch while the host adds up the one before and fills the next.
    running: tuple[list[Window], np.ndarray, jax.Array] | None = None
    batches = window_batches(documents, sequence_length, stride, batch_size, tokenizer)
    for windows, batch in batches:
        started = (windows, batch.targets, scorer(batch))
        if running is not None:
            add(*running)
        running = started
    if running is not None:
        add(*running)
    counts = (np.array(count, np.int64) for count in (lengths, symbols))
    return DocumentScores(np.array(byte_nats), np.array(end_nats), *counts)


class Window(NamedTuple):
    """T inputs of a document, from its symbol number `first` on (0 is START).

    Attributes:
        symbols: integers, of the document's text.
        first: see above.
        bytes: of the document's text.
    """

    symbols: np.ndarray
    first: int
    bytes: int


def window_batches(
    documents: Iterable[bytes],
    sequence_length: int,
    stride: int | None,
    batch_size: int,
    tokenizer: Tokenizer | None = None,
) -> Iterator[tuple[list[Window], Batch]]:
    """The windows of documents, in order, and the batch whose first rows hold them.

    Arguments and errors are those of `score_documents`. Where a target is not UNSCORED, the
    window scores it; read in order, those places are each document's inputs, START and its text,
    and their targets, its text and END.
    """
    stride = default_stride(sequence_length) if stride is None else stride
    if not 1 <= stride <= sequence_length:
        raise UserError(
            f"the stride is {stride}; it must be between 1 and the sequence length "
            f"{sequence_length}."
        )
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1.")
    windows = _windows(documents, sequence_length, stride, tokenizer)
    vocabulary = BYTE_VOCABULARY if tokenizer is None else tokenizer.vocabulary
    counts = None if tokenizer is None else tokenizer.byte_counts
    while chosen := list(itertools.islice(windows, batch_size)):
        batch = empty_batch(batch_size, sequence_length, vocabulary)
        for row, window in enumerate(chosen):
            _fill(batch, row, window, stride, vocabulary)
        byte_counts = None if counts is None else counts[batch.targets]
        yield chosen, dataclasses.replace(batch, byte_counts=byte_counts)


def _windows(
    documents: Iterable[bytes], length: int, stride: int, tokenizer: Tokenizer | None
) -> Iterator[Window]:
    for text in documents:
        symbols = np.frombuffer(text, np.uint8) if tokenizer is None else tokenizer.encode(text)
        inputs = len(symbols) + 1
        for first in range(0, max(inputs - length, 0) + stride, stride):
            yield Window(symbols, first, len(text))


def _fill(batch: Batch, row: int, window: Window, stride: int, vocabulary: Vocabulary) -> None:
    """Writes a window to a row of an empty batch."""
    text, first, _ = window
    length = batch.ids.shape[1]
    symbols = text[max(first - 1, 0) : first + length].astype(np.int32)
    if first == 0:
        symbols = np.insert(symbols, 0, vocabulary.start)
    if first + length > len(text):
        symbols = np.append(symbols, np.int32(vocabulary.end))
    inputs = len(symbols) - 1
    batch.ids[row, :inputs] = symbols[:-1]
    batch.segment_ids[row, :inputs] = 1
    scored = slice(length - stride if first else 0, inputs)
    batch.targets[row, scored] = symbols[1:][scored]
