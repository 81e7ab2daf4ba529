"""Exact bits per byte of whole documents, however long, in windows that slide over them.

Every byte and every END is scored exactly once, START never. The inputs of a document (START and
its bytes) are cut into windows of T: the first scores all of its targets, each later one moves on
by `stride` and scores its last `stride` targets, so that they have at least `T - stride` symbols
of context. A row holds one window of one document and nothing else, so that no score depends on
what else is evaluated.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from bytelm.errors import UserError
from bytelm.evaluation.bootstrap import bootstrap_interval
from bytelm.models.contract import Batch
from bytelm.training.sharding import MeshConfig, place_batch
from bytelm.vocabulary import END, PAD, START, UNSCORED


@dataclass(frozen=True)
class DocumentScores:
    """What a model makes of each of several documents; sums over documents come last.

    Attributes:
        byte_nats: float64 `[documents]`, negative log-likelihood of the document's bytes.
        end_nats: float64 `[documents]`, that of its END.
        bytes: int64 `[documents]`, its raw length.
    """

    byte_nats: np.ndarray
    end_nats: np.ndarray
    bytes: np.ndarray

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
        return float(self.bits(with_end).sum() / self.bytes.sum())

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
        if self._mesh is None:
            return _nats_and_starts(self._graphdef, self._params, batch)
        rows = len(batch.ids)
        empty = empty_batch(-rows % self._mesh.size, batch.ids.shape[1])
        batch = place_batch(
            jax.tree.map(lambda *parts: np.concatenate(parts), batch, empty), self._mesh
        )
        with jax.set_mesh(self._mesh):
            found = _nats_and_starts(self._graphdef, self._params, batch)
            return jax.tree.map(lambda leaf: leaf[:rows], found)


@functools.partial(jax.jit, static_argnums=0)
def _nats_and_starts(
    graphdef: nnx.GraphDef, params: Any, batch: Batch
) -> tuple[jax.Array, jax.Array | None]:
    blind = dataclasses.replace(batch, targets=jnp.full_like(batch.targets, UNSCORED))
    output = nnx.merge(graphdef, params)(blind)
    return output.nats(batch.targets), output.patch_starts


def default_stride(sequence_length: int) -> int:
    """Half the window: each byte after the first window has at least that much context."""
    return max(1, sequence_length // 2)


def empty_batch(rows: int, length: int) -> Batch:
    """Rows of nothing but padding, NumPy int32 `[rows, length]`."""
    shape = (rows, length)
    return Batch(
        ids=np.full(shape, PAD, np.int32),
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
) -> DocumentScores:
    """Scores whole documents with a sliding context; see the module's docstring.

    Documents are read once, one after another, and only those of two batches are held.

    Args:
        scorer: a `Scorer`, or anything that gives the nats of every target of a batch.
        documents: any byte strings, empty ones too.
        sequence_length: T, positions in a window.
        stride: targets that each window after a document's first scores, 1 to T; None for T / 2.
        batch_size: windows scored at a time. It changes speed and memory alone.

    Raises:
        UserError: if the stride is not between 1 and T, or the batch size below 1.
    """
    byte_nats: list[float] = []
    end_nats: list[float] = []
    lengths: list[int] = []

    def add(windows: list[Window], targets: np.ndarray, nats: jax.Array) -> None:
        wide = np.asarray(nats, np.float64)
        ends = np.where(targets == END, wide, 0.0).sum(axis=1)
        others = np.where(targets == END, 0.0, wide).sum(axis=1)
        for row, window in enumerate(windows):
            if window.first == 0:
                byte_nats.append(0.0)
                end_nats.append(0.0)
                lengths.append(len(window.text))
            byte_nats[-1] += others[row]
            end_nats[-1] += ends[row]

    # The device works on one batch while the host adds up the one before and fills the next.
    running: tuple[list[Window], np.ndarray, jax.Array] | None = None
    for windows, batch in window_batches(documents, sequence_length, stride, batch_size):
        started = (windows, batch.targets, scorer(batch))
        if running is not None:
            add(*running)
        running = started
    if running is not None:
        add(*running)
    return DocumentScores(np.array(byte_nats), np.array(end_nats), np.array(lengths, np.int64))


class Window(NamedTuple):
    """T inputs of a document, from its symbol number `first` on (0 is START)."""

    text: bytes
    first: int


def window_batches(
    documents: Iterable[bytes], sequence_length: int, stride: int | None, batch_size: int
) -> Iterator[tuple[list[Window], Batch]]:
    """The windows of documents, in order, and the batch whose first rows hold them.

    Arguments and errors are those of `score_documents`. Where a target is not UNSCORED, the
    window scores it; read in order, those places are each document's inputs, START and its bytes,
    and their targets, its bytes and END.
    """
    stride = default_stride(sequence_length) if stride is None else stride
    if not 1 <= stride <= sequence_length:
        raise UserError(
            f"the stride is {stride}; it must be between 1 and the sequence length "
            f"{sequence_length}."
        )
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1.")
    windows = _windows(documents, sequence_length, stride)
    while chosen := list(itertools.islice(windows, batch_size)):
        batch = empty_batch(batch_size, sequence_length)
        for row, window in enumerate(chosen):
            _fill(batch, row, window, stride)
        yield chosen, batch


def _windows(documents: Iterable[bytes], length: int, stride: int) -> Iterator[Window]:
    for text in documents:
        inputs = len(text) + 1
        for first in range(0, max(inputs - length, 0) + stride, stride):
            yield Window(text, first)


def _fill(batch: Batch, row: int, window: Window, stride: int) -> None:
    """Writes a window to a row of an empty batch."""
    text, first = window
    length = batch.ids.shape[1]
    symbols = np.frombuffer(text, np.uint8)[max(first - 1, 0) : first + length].astype(np.int32)
    if first == 0:
        symbols = np.insert(symbols, 0, START)
    if first + length > len(text):
        symbols = np.append(symbols, np.int32(END))
    inputs = len(symbols) - 1
    batch.ids[row, :inputs] = symbols[:-1]
    batch.segment_ids[row, :inputs] = 1
    scored = slice(length - stride if first else 0, inputs)
    batch.targets[row, scored] = symbols[1:][scored]
