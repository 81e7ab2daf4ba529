"""Exact bits per byte of whole documents of any length, in sliding windows.

Every byte and every END is scored exactly once, START never. The inputs of a document (START and
its bytes) are cut into windows of T. The first window scores all of its targets. Each later one
moves on by `stride` and scores its last `stride` targets, so these have at least `T - stride`
symbols of context. A row holds one window of one document, so no score depends on other documents.
Windows of similar length are scored together, in rows no longer than they need
(`bytelm.inference.row_lengths`).

The symbols of a subword model are the tokens of the document's canonical tokenisation. Their bits
over the raw bytes are an upper bound: other tokens spell the same bytes, and their probability does
not count here (`bytelm.inference.marginal.marginal` adds it up).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.checked import require_positive
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import ratio
from bytelm.core.vocabulary import BYTE_VOCABULARY, END, UNSCORED, Vocabulary
from bytelm.core.xla import jit_inference
from bytelm.inference.row_lengths import by_length, shortest_row
from bytelm.models.contract import Batch, ModelOutput
from bytelm.nn.mesh import MeshConfig, batch_shards, parameter_shardings, place_batch
from bytelm.patching.marks import PatchMarks
from bytelm.tokenizers.tokenizer import Tokenizer

Result = TypeVar("Result")


@dataclass(frozen=True)
class DocumentScores:
    """The cost of each document. Sums over documents are taken last.

    Attributes:
        byte_nats: float64 `[documents]`, negative log-likelihood of the document's text.
        end_nats: float64 `[documents]`, the same of its END.
        bytes: int64 `[documents]`, its raw length.
        symbols: int64 `[documents]`, the bytes or tokens that were scored, without END.
    """

    byte_nats: np.ndarray
    end_nats: np.ndarray
    bytes: np.ndarray
    symbols: np.ndarray

    def without_last_end(self) -> "DocumentScores":
        """The scores if the last document was cut, so that its END does not count."""
        end_nats = self.end_nats.copy()
        end_nats[-1:] = 0.0
        return dataclasses.replace(self, end_nats=end_nats)

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

    def bpb(self, name: str = "bpb", *, with_end: bool = False, bound: bool = False) -> Figure:
        """`bits_per_byte` with its interval; a `bound` where other tokens spell the bytes too."""
        figure = ratio(name, self.bits(with_end), self.bytes, "bpb")
        return dataclasses.replace(figure, bound=bound)


class Scorer:
    """Nats of every target of a batch, `Batch [B, T] -> float32 [B, T]`, 0 where UNSCORED.

    The model does not get the targets, so it cannot look at them. Padding that ends all rows is cut
    off first. A mesh of several devices divides rows, their positions and the parameters as in
    training; the default one divides rows alone.
    """

    def __init__(self, graphdef: nnx.GraphDef, params: Any, mesh: MeshConfig | None = None):
        self._graphdef = graphdef
        self._params = params
        self._mesh = None
        built = (mesh or MeshConfig()).build()
        if built.size > 1:
            self._mesh = built
            if isinstance(params, nnx.State):
                params = nnx.to_pure_dict(params)
            abstract = jax.eval_shape(lambda p: nnx.state(nnx.merge(graphdef, p)), params)
            # On the device that holds them already, whole parameters are not copied.
            self._params = jax.device_put(params, parameter_shardings(abstract, built))

    def __call__(self, batch: Batch) -> jax.Array:
        return self.nats_and_marks(batch)[0]

    def nats_and_marks(self, batch: Batch) -> tuple[jax.Array, tuple[PatchMarks, ...]]:
        """The nats, and the patches of each level, the outermost first; none in a flat model."""
        return self.run(nats_and_marks, batch)

    def run(self, function: Callable[[ModelOutput, jax.Array], Result], batch: Batch) -> Result:
        """Applies a function to the model's output and the targets.

        Args:
            function: of the output and the targets `[B, T]`; pure, and defined at the top level of
                a module, since it is compiled. It returns arrays by row, `[B]`, or by symbol,
                `[B, T, ...]`.
            batch: rows to score, with padding after each row's last symbol.
        """
        length = batch.ids.shape[1]
        used = int((batch.document_ids > 0).any(axis=0).sum())
        return self._run_short(function, batch, shortest_row(used, length))

    def _run_short(
        self, function: Callable[[ModelOutput, jax.Array], Result], batch: Batch, short: int
    ) -> Result:
        """`run` on the first `short` symbols of each row; the others are padding."""
        length = batch.ids.shape[1]
        if short >= length:
            return self._run(function, batch, length)[0]
        cut = jax.tree.map(lambda leaf: leaf[:, :short], batch)
        found, overflow = self._run(function, cut, length)
        if overflow is not None and int(overflow):
            # Shorter rows have a smaller capacity for patches. Where it does not suffice, try half
            # as many rows of twice the length, up to full length, where overflow is the model's.
            count = len(batch.ids)
            rows = count // 2 if count % 2 == 0 else count
            parts = [
                self._run_short(function, _some_rows(batch, slice(at, at + rows)), 2 * short)
                for at in range(0, count, rows)
            ]
            return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return found

    def _run(
        self, function: Callable[[ModelOutput, jax.Array], Result], batch: Batch, length: int
    ) -> tuple[Result, jax.Array | None]:
        """The function's result, and the overflow: None in a model without patches.

        Results by symbol are padded to `length`.
        """
        rows = len(batch.ids)
        if self._mesh is None:
            return _apply(function, self._graphdef, self._params, batch, rows, length)
        more = ((0, -rows % batch_shards(self._mesh)), (0, 0))
        batch = place_batch(jax.tree.map(lambda leaf: np.pad(leaf, more), batch), self._mesh)
        with jax.set_mesh(self._mesh):
            return _apply(function, self._graphdef, self._params, batch, rows, length)


# One program cuts and pads too: on a CPU with several devices, programs of single operations that
# wait for one another can come to a standstill.
@jit_inference(static_argnums=(0, 1, 4, 5))
def _apply(
    function: Callable[[ModelOutput, jax.Array], Result],
    graphdef: nnx.GraphDef,
    params: Any,
    batch: Batch,
    rows: int,
    length: int,
) -> tuple[Result, jax.Array | None]:
    unscored = jnp.full_like(batch.targets, UNSCORED)
    output = nnx.merge(graphdef, params)(
        dataclasses.replace(batch, targets=unscored, byte_counts=None)
    )

    def fitted(leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return leaf[:rows]
        more = length - batch.ids.shape[1]
        return jnp.pad(leaf[:rows], ((0, 0), (0, more), *[(0, 0)] * (leaf.ndim - 2)))

    return jax.tree.map(fitted, function(output, batch.targets)), output.overflow


def _some_rows(batch: Batch, rows: slice) -> Batch:
    return jax.tree.map(lambda leaf: leaf[rows], batch)


def nats_and_marks(
    output: ModelOutput, targets: jax.Array
) -> tuple[jax.Array, tuple[PatchMarks, ...]]:
    """For `Scorer.run`: nats of the targets, float32 `[B, T]`, and the patches of each level."""
    return output.nats(targets), output.levels


def default_stride(sequence_length: int) -> int:
    """Half the window: each byte after the first window has at least that much context."""
    return max(1, sequence_length // 2)


def checked_stride(stride: int | None, length: int) -> int:
    """The stride, or the default for None; UserError if windows of `length` cannot have it."""
    stride = default_stride(length) if stride is None else stride
    if not 1 <= stride <= length:
        raise UserError(f"the stride is {stride}; it must be between 1 and the window's {length}.")
    return stride


def empty_batch(rows: int, length: int, vocabulary: Vocabulary = BYTE_VOCABULARY) -> Batch:
    """Rows of padding only, NumPy int32 `[rows, length]`."""
    shape = (rows, length)
    return Batch(
        ids=np.full(shape, vocabulary.pad, np.int32),
        targets=np.full(shape, UNSCORED, np.int32),
        document_ids=np.zeros(shape, np.int32),
    )


def score_documents(
    scorer: Callable[[Batch], jax.Array],
    documents: Iterable[bytes],
    *,
    sequence_length: int,
    stride: int | None = None,
    batch_size: int = 8,
    tokenizer: Tokenizer | None = None,
    done: Callable[[int], None] | None = None,
) -> DocumentScores:
    """Scores whole documents with a sliding context; see the module's docstring.

    Documents are read once, in order, and only a few batches of them are held in memory.

    Args:
        scorer: a `Scorer`, or any function that gives the nats of every target of a batch.
        documents: any byte strings, empty ones too.
        sequence_length: T, positions in a window.
        stride: targets that each window after a document's first scores, 1 to T; None for T / 2.
        batch_size: windows of full length scored at a time; of shorter ones, as many symbols. It
            changes speed and memory, and no score.
        tokenizer: of a subword model; None where symbols are bytes.
        done: called after each batch with the number of bytes that it scored.

    Raises:
        UserError: if the stride is not between 1 and T, or the batch size below 1; and for text
            that the tokenizer cannot write back.
    """
    sums = DocumentSums(tokenizer)
    batches = window_batches(documents, sequence_length, stride, batch_size, tokenizer)
    for windows, batch, nats in in_flight(scorer, batches):
        scored_bytes = sums.add(windows, batch, nats)
        if done is not None:
            done(scored_bytes)
    return sums.scores()


def in_flight(
    run: Callable[[Batch], Result], batches: Iterable[tuple[list["Window"], Batch]]
) -> Iterator[tuple[list["Window"], Batch, Result]]:
    """Runs each batch. The device works on one while the host handles the one before it."""
    running: list[tuple[list[Window], Batch, Result]] = []
    for windows, batch in batches:
        running.append((windows, batch, run(batch)))
        if len(running) > 1:
            yield running.pop(0)
    yield from running


class DocumentSums:
    """Adds up the nats of windows by document; with the tokenizer of a subword model."""

    def __init__(self, tokenizer: Tokenizer | None = None):
        self._end = END if tokenizer is None else tokenizer.vocabulary.end
        self._found: dict[int, list[Any]] = {}  # by document: the fields of `DocumentScores`

    def add(self, windows: Sequence["Window"], batch: Batch, nats: Any) -> int:
        """Adds nats `[B, T]`, of the windows in the first rows; returns the bytes scored."""
        is_end = batch.targets == self._end  # [B, T]
        wide = np.asarray(nats, np.float64)  # [B, T]
        ends = np.where(is_end, wide, 0.0).sum(axis=1)  # [B]
        others = np.where(is_end, 0.0, wide).sum(axis=1)  # [B]
        for row, window in enumerate(windows):
            new = [0.0, 0.0, window.bytes, len(window.symbols)]
            sums = self._found.setdefault(window.document, new)
            sums[0] += others[row]
            sums[1] += ends[row]
        scored = (batch.targets != UNSCORED) & ~is_end
        counts = scored if batch.byte_counts is None else batch.byte_counts[scored]
        return int(counts.sum())

    def scores(self) -> DocumentScores:
        """The sums of all documents, in order."""
        found = [self._found[number] for number in sorted(self._found)]
        nats, end_nats, counts, symbols = np.array(found, np.float64).reshape(-1, 4).T.copy()
        return DocumentScores(nats, end_nats, counts.astype(np.int64), symbols.astype(np.int64))


class Window(NamedTuple):
    """T inputs of a document, from its input number `first` on (0 is START)."""

    symbols: np.ndarray  # integers, the whole document's text
    first: int
    bytes: int  # length of the document's text
    document: int  # number of the document, from 0

    def inputs(self, length: int) -> int:
        """How many of a row's `length` positions the window fills."""
        return min(len(self.symbols) + 1 - self.first, length)


def window_batches(
    documents: Iterable[bytes],
    sequence_length: int,
    stride: int | None,
    batch_size: int,
    tokenizer: Tokenizer | None = None,
) -> Iterator[tuple[list[Window], Batch]]:
    """The windows of documents, and the batch whose first rows hold them.

    Arguments and errors are those of `score_documents`. A window scores the targets that are not
    UNSCORED. Each input of a document (START and its text) has its target (its text and END) scored
    by exactly one window. Windows of one length come in order.
    """
    stride = checked_stride(stride, sequence_length)
    require_positive("the batch size", batch_size)
    windows = _windows(documents, sequence_length, stride, tokenizer)
    vocabulary = BYTE_VOCABULARY if tokenizer is None else tokenizer.vocabulary
    counts = None if tokenizer is None else tokenizer.byte_counts
    grouped = by_length(
        windows, lambda window: window.inputs(sequence_length), sequence_length, batch_size
    )
    for chosen, rows in grouped:
        batch = empty_batch(rows, sequence_length, vocabulary)
        for row, window in enumerate(chosen):
            _fill(batch, row, window, stride, vocabulary)
        byte_counts = None if counts is None else counts[batch.targets]
        yield chosen, dataclasses.replace(batch, byte_counts=byte_counts)


def _windows(
    documents: Iterable[bytes], length: int, stride: int, tokenizer: Tokenizer | None
) -> Iterator[Window]:
    for document, text in enumerate(documents):
        symbols = np.frombuffer(text, np.uint8) if tokenizer is None else tokenizer.encode(text)
        inputs = len(symbols) + 1
        for first in range(0, max(inputs - length, 0) + stride, stride):
            yield Window(symbols, first, len(text), document)


def _fill(batch: Batch, row: int, window: Window, stride: int, vocabulary: Vocabulary) -> None:
    text, first = window.symbols, window.first
    length = batch.ids.shape[1]
    symbols = text[max(first - 1, 0) : first + length].astype(np.int32)
    if first == 0:
        symbols = np.insert(symbols, 0, vocabulary.start)
    if first + length > len(text):
        symbols = np.append(symbols, np.int32(vocabulary.end))
    inputs = len(symbols) - 1
    batch.ids[row, :inputs] = symbols[:-1]
    batch.document_ids[row, :inputs] = 1
    scored = slice(length - stride if first else 0, inputs)
    batch.targets[row, scored] = symbols[1:][scored]
