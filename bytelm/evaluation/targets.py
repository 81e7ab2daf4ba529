"""The evaluation of encoder-decoder models: bits of targets, and deletions.

Bits per target byte are over all targets, the sentinels of span corruption included. They are not
bits per byte of text: the encoder has read most of the text.
"""

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import ratio, share_interval
from bytelm.core.statistics import BITS_PER_TARGET_BYTE
from bytelm.core.terminal_text import number_of
from bytelm.core.vocabulary import BYTES, END, INPUT_SIZE, PAD, UNSCORED
from bytelm.core.xla import jit_inference
from bytelm.data.progress import shown_progress
from bytelm.data.tasks.task import Pair
from bytelm.data.validation import ValidationBatches
from bytelm.evaluation.report import DocumentBits, Result
from bytelm.evaluation.suite import ENCODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, SplitText
from bytelm.inference.transduction import encode_reading, read_inputs, round_up
from bytelm.models.contract import DELETED, Batch, ModelOutput
from bytelm.models.encoder_decoder import Encoded

SHOWN = 8
"""Examples and byte values in the report."""


@dataclass(frozen=True)
class Targets(Evaluation):
    """Bits per target byte, exact matches, and what an encoder-decoder deletes and saves.

    Targets are scored with states deleted in fact ("hard") and only hidden ("soft"). The encoder is
    timed in turns on as many slots as the kept states of a batch need, and on as many as its inputs
    need. For tasks of pairs the targets are also generated, greedily.
    """

    name: ClassVar[str] = "targets"
    needs: ClassVar[tuple[Need, ...]] = (ENCODER,)

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `bits_per_target_byte`, `..._with_end`, `target_accuracy` and `exact_match`; of a
        model that deletes states also `soft_...`, `deleted`, `encoder_flops_saved` and
        `encoder_time_saved`.
        """
        if not isinstance(text, SplitText) or not text.config.task.has_encoder:
            raise UserError(
                "the evaluation targets needs inputs with their targets, not documents (data.task "
                f"next_byte); choose the task of the training, {loaded.config.data.task.kind}, or "
                "another one."
            )
        data = text.config
        loaded.warn_of_long_inputs(data.sequence_length)
        sums = _Sums(loaded, data.scripts)
        for batch in _batches(text, scoring):
            sums.add(batch)
        hard, inputs = sums.rows(hard=True), int(sums.inputs.sum())
        rows, targets = len(hard.nats), int(hard.targets.sum())
        details = {"task": data.task.kind, "rows": rows, "inputs": inputs, "targets": targets}
        notes = [
            f"{number_of(rows, 'row')}, {number_of(inputs, 'input')}, "
            f"{number_of(targets, 'target')}"
        ]
        figures = _target_figures("", hard)
        if sums.shortens:
            figures += _target_figures("soft_", sums.rows(hard=False)) + sums.figures()
            details["deleted_by_symbol"] = {
                str(symbol): [int(sums.inputs[symbol]), int(sums.deleted[symbol])]
                for symbol in np.flatnonzero(sums.inputs)
            }
            notes.append(f"deleted most: {_deleted_most(sums.inputs, sums.deleted)}")
        pairs = data.task.pairs(text.data, text.split)
        if pairs is not None:
            chosen = list(itertools.islice(pairs, rows))
            match, details["examples"] = _exact_match(
                loaded, chosen, data.row_length, scoring.batch_size
            )
            figures.append(match)
        documents = DocumentBits(
            (hard.nats - hard.end_nats) / math.log(2), hard.targets - hard.ends
        )
        return Result(tuple(figures), tuple(notes), details, documents)


def _batches(text: SplitText, scoring: Scoring) -> Iterator[Batch]:
    """Batches up to the row that reaches `max_bytes` inputs; rows after it hold padding."""
    left = sys.maxsize if scoring.max_bytes is None else scoring.max_bytes
    with shown_progress("scoring inputs", scoring.max_bytes) as done:
        for batch in ValidationBatches(text.data, None, text.split, batch_size=scoring.batch_size):
            lengths = (batch.inputs != PAD).sum(axis=1)
            wanted = np.cumsum(lengths) - lengths < left
            yield dataclasses.replace(batch, inputs=np.where(wanted[:, None], batch.inputs, PAD))
            done(int(lengths[wanted].sum()))
            left -= int(lengths.sum())
            if left <= 0:
                return


class _Rows(NamedTuple):
    """Sums over the targets of each row, float64 `[rows]`; nats and targets include END."""

    nats: np.ndarray
    end_nats: np.ndarray
    right: np.ndarray
    targets: np.ndarray
    ends: np.ndarray


class _Sums:
    """Measurements of the batches so far.

    Attributes:
        shortens: whether the model deletes states.
        inputs, deleted: int64 `[INPUT_SIZE]`, all and deleted inputs by symbol.
        by_script: int64 `[2, scripts]`, all and deleted inputs of each script.
        flops, seconds: float64 `[2]`, of the encoder on the kept states, and on all.
    """

    def __init__(self, loaded: LoadedModel, scripts: Sequence[str]):
        self._config: Any = loaded.config.model
        self._graphdef, self._params = loaded.transducer.graphdef, loaded.transducer.params
        self._compiled: set[tuple[int, ...]] = set()
        self._scripts = scripts
        self._rows: dict[bool, list[_Rows]] = {True: [], False: []}
        self.shortens = False
        self.inputs, self.deleted = np.zeros((2, INPUT_SIZE), np.int64)
        self.by_script = np.zeros((2, len(scripts)), np.int64)
        self.flops, self.seconds = np.zeros((2, 2))

    def add(self, batch: Batch) -> None:
        """Scores the rows of a batch that have inputs."""
        present = batch.inputs != PAD  # [B, S]
        there = present.any(axis=1)  # [B]
        deleted = np.zeros_like(present)
        for number, hard in enumerate((True, False)):
            encoded, found, seconds = self._timed(batch.inputs, hard)
            self.seconds[number] += seconds
            if found is not None:
                self.shortens, deleted = True, found
            columns = _score(self._graphdef, self._params, encoded, batch)
            self._rows[hard].append(
                _Rows(*(np.asarray(column, np.float64)[there] for column in columns))
            )
        read, kept = present.sum(axis=1), (present & ~deleted).sum(axis=1)  # [B]
        for length, left in zip(read[there], kept[there], strict=True):
            self.flops += [self._config.encoder_flops(length, n) for n in (left, length)]
        if batch.scripts is not None:
            for sums, counts in zip(self.by_script, (read, read - kept), strict=True):
                np.add.at(sums, batch.scripts[there, 0], counts[there])
        self.inputs += np.bincount(batch.inputs[present], minlength=INPUT_SIZE)
        self.deleted += np.bincount(batch.inputs[deleted], minlength=INPUT_SIZE)

    def rows(self, *, hard: bool) -> _Rows:
        """The rows of all batches, with states deleted in fact, or hidden."""
        return _Rows(*map(np.concatenate, zip(*self._rows[hard], strict=True)))

    def figures(self) -> list[Figure]:
        """What is deleted, in all and of each script, and what that saves."""
        figures = DELETED(self.deleted.sum(), self.inputs.sum()).figures
        if self._scripts:
            figures += DELETED(self.by_script[1], self.by_script[0], parts=self._scripts).figures
        for name, (kept, every) in (("flops", self.flops), ("time", self.seconds)):
            figures.append(Figure(f"encoder_{name}_saved", float(1 - kept / every), "share"))
        return figures

    def _timed(self, inputs: np.ndarray, hard: bool) -> tuple[Encoded, np.ndarray | None, float]:
        """The encoder's states, the inputs deleted, bool `[B, S]`, and its seconds."""
        slots = inputs.shape[1]
        # Nobody would run an encoder on slots that no row of the batch needs.
        needed = min(round_up(int((inputs != PAD).sum(axis=1).max())), slots)
        inputs = inputs[:, :needed]
        begin = time.perf_counter()
        encoded, deleted, length = self._encode(inputs, hard)
        shape = (*inputs.shape, length or 0)
        if shape not in self._compiled:
            self._compiled.add(shape)
            begin = time.perf_counter()
            encoded, deleted, _ = self._encode(inputs, hard)
        seconds = time.perf_counter() - begin
        if deleted is not None:
            deleted = np.pad(deleted, ((0, 0), (0, slots - needed)))
        return encoded, deleted, seconds

    def _encode(self, inputs: np.ndarray, hard: bool) -> tuple[Encoded, Any, int | None]:
        reading = read_inputs(self._graphdef, self._params, inputs)
        length = min(round_up(int(reading.counts.max())), inputs.shape[1]) if hard else None
        encoded = encode_reading(self._graphdef, self._params, reading, length)
        return jax.block_until_ready(encoded), reading.deleted, length


@jit_inference(static_argnames="graphdef")
def _score(
    graphdef: nnx.GraphDef, params: Any, encoded: Encoded, batch: Batch
) -> tuple[jax.Array, ...]:
    """The columns of `_Rows`, `[B]` each."""
    logits = nnx.merge(graphdef, params).decode(batch.ids, encoded)  # [B, T, V]
    nats = ModelOutput(logits).nats(batch.targets)  # [B, T]
    scored, is_end = batch.targets != UNSCORED, batch.targets == END  # [B, T]
    right = (logits.argmax(axis=2) == batch.targets) & scored
    end_nats = jnp.where(is_end, nats, 0.0)
    return nats.sum(1), end_nats.sum(1), right.sum(1), scored.sum(1), is_end.sum(1)


def _target_figures(prefix: str, rows: _Rows) -> list[Figure]:
    """Bits per target byte without END and with it, and how many targets are the likeliest."""

    def bits(ending: str, nats: np.ndarray, count: np.ndarray) -> Figure:
        statistic = BITS_PER_TARGET_BYTE
        name = f"{prefix}{statistic.name}{ending}"
        if not count.sum():  # all targets are empty
            return Figure(name, statistic.empty, statistic.unit)
        return ratio(name, nats / statistic.divisor, count, statistic.unit)

    return [
        bits("", rows.nats - rows.end_nats, rows.targets - rows.ends),
        bits("_with_end", rows.nats, rows.targets),
        Figure(f"{prefix}target_accuracy", float(rows.right.sum() / rows.targets.sum()), "share"),
    ]


def _exact_match(
    loaded: LoadedModel, pairs: Sequence[Pair], longest: int, batch_size: int
) -> tuple[Figure, list[dict[str, str]]]:
    """The share of targets that are generated exactly, and examples."""
    written: list[bytes] = []
    for first in range(0, len(pairs), batch_size):
        inputs = [pair.input for pair in pairs[first : first + batch_size]]
        inputs += [b""] * (batch_size - len(inputs))  # programs are compiled for full batches
        # One byte more than the longest target, where the model must end.
        written += loaded.transducer.greedy(inputs, max_bytes=longest)
    compared = list(zip(pairs, written, strict=False))
    exact = sum(answer == pair.target for pair, answer in compared)
    examples = [
        {"input": repr(pair.input), "target": repr(pair.target), "written": repr(answer)}
        for pair, answer in compared[:SHOWN]
    ]
    low, high = share_interval(exact, len(pairs))
    return Figure("exact_match", exact / len(pairs), "share", low, high), examples


def _deleted_most(inputs: np.ndarray, deleted: np.ndarray) -> str:
    """The symbols that are deleted most, with the share of each that is deleted."""
    ranked = [symbol for symbol in np.argsort(-deleted, kind="stable")[:SHOWN] if deleted[symbol]]
    names = [repr(bytes([symbol])) if symbol < BYTES else "END" for symbol in ranked]
    return ", ".join(
        f"{name} {deleted[symbol] / inputs[symbol]:.0%} of {inputs[symbol]:,}"
        for name, symbol in zip(names, ranked, strict=True)
    )
