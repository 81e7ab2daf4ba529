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
from bytelm.core.terminal_text import number_of
from bytelm.core.vocabulary import BYTES, END, INPUT_SIZE, PAD, UNSCORED
from bytelm.core.xla import jit_inference
from bytelm.data.loader import ValidationBatches
from bytelm.data.tasks.task import Pair
from bytelm.evaluation.progress import shown_progress
from bytelm.evaluation.report import DocumentBits, Result
from bytelm.evaluation.suite import ENCODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, SplitText
from bytelm.inference.transduction import Transducer, encode_reading, read_inputs, round_up
from bytelm.models.contract import Batch, ModelOutput
from bytelm.models.encoder_decoder import Encoded, EncoderDecoderConfig

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
        config: Any = loaded.config.model
        encoder, scripts = _TimedEncoder(loaded.transducer), len(data.scripts)
        batches = _batches(text, scoring)
        sums = _total([_score_batch(config, encoder, batch, scripts) for batch in batches])
        hard, rows = sums.hard, len(sums.hard.nats)
        figures, details = _figures(sums, data.scripts)
        pairs = data.task.pairs(text.data, text.split)
        if pairs is not None:
            chosen = list(itertools.islice(pairs, rows))
            match, details["examples"] = _exact_match(
                loaded, chosen, data.row_length, scoring.batch_size
            )
            figures.append(match)
        notes = [
            f"{number_of(rows, 'row')}, {number_of(details['inputs'], 'input')}, "
            f"{number_of(details['targets'], 'target')}"
        ]
        if sums.shortens:
            notes.append(f"deleted most: {_deleted_most(sums.inputs, sums.deleted)}")
        documents = DocumentBits(
            (hard.nats - hard.end_nats) / math.log(2), hard.targets - hard.ends
        )
        details = {"task": data.task.kind, "rows": rows, **details}
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


class _TargetSums(NamedTuple):
    """Sums over the targets of each row, `[rows]`; nats and targets include END."""

    nats: np.ndarray
    end_nats: np.ndarray
    right: np.ndarray
    targets: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class _Sums:
    """Measurements of some rows.

    Attributes:
        hard: with states deleted in fact.
        soft: with states hidden.
        shortens: whether the model deletes states.
        inputs, deleted: int64 `[INPUT_SIZE]`, all and deleted inputs by symbol.
        by_script: int64 `[2, scripts]`, all and deleted inputs of each script.
        flops, seconds: float64 `[2]`, of the encoder on the kept states, and on all.
    """

    hard: _TargetSums
    soft: _TargetSums
    shortens: bool
    inputs: np.ndarray
    deleted: np.ndarray
    by_script: np.ndarray
    flops: np.ndarray
    seconds: np.ndarray


def _total(parts: Sequence[_Sums]) -> _Sums:
    """All rows of several batches, and their sums."""

    def rows(name: str) -> _TargetSums:
        sums = [getattr(part, name) for part in parts]
        return _TargetSums(*(np.concatenate(column) for column in zip(*sums, strict=True)))

    names = ("inputs", "deleted", "by_script", "flops", "seconds")
    return _Sums(
        hard=rows("hard"),
        soft=rows("soft"),
        shortens=any(part.shortens for part in parts),
        **{name: sum(getattr(part, name) for part in parts) for name in names},
    )


def _score_batch(
    config: EncoderDecoderConfig, encoder: "_TimedEncoder", batch: Batch, scripts: int
) -> _Sums:
    """Scores the rows of a batch that have inputs."""
    present = batch.inputs != PAD  # [B, S]
    there = present.any(axis=1)  # [B]
    deleted, shortens = np.zeros_like(present), False
    sums, seconds = [], []
    for hard in (True, False):
        encoded, found, time_taken = encoder(batch.inputs, hard=hard)
        seconds.append(time_taken)
        if found is not None:
            shortens, deleted = True, found
        model = encoder.model
        columns = _score(model.graphdef, model.params, encoded, batch)
        sums.append(_TargetSums(*(np.asarray(column, np.float64)[there] for column in columns)))
    read, kept = present.sum(axis=1), (present & ~deleted).sum(axis=1)  # [B]
    flops = np.zeros(2)
    for length, left in zip(read[there], kept[there], strict=True):
        flops += [config.encoder_flops(length, n) for n in (left, length)]
    by_script = np.zeros((2, scripts), np.int64)
    if batch.scripts is not None:
        for row, counts in enumerate((read, read - kept)):
            np.add.at(by_script[row], batch.scripts[there, 0], counts[there])
    return _Sums(
        hard=sums[0],
        soft=sums[1],
        shortens=shortens,
        inputs=np.bincount(batch.inputs[present], minlength=INPUT_SIZE),
        deleted=np.bincount(batch.inputs[deleted], minlength=INPUT_SIZE),
        by_script=by_script,
        flops=flops,
        seconds=np.array(seconds),
    )


class _TimedEncoder:
    """Encodes inputs, and measures the time without compilation."""

    def __init__(self, model: Transducer):
        self.model = model
        self._compiled: set[tuple[int, ...]] = set()

    def __call__(
        self, inputs: np.ndarray, *, hard: bool
    ) -> tuple[Encoded, np.ndarray | None, float]:
        """The encoder's states, the inputs deleted, bool `[B, S]`, and the seconds it took."""
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
        if deleted is None:
            return encoded, None, seconds
        return encoded, np.pad(deleted, ((0, 0), (0, slots - needed))), seconds

    def _encode(self, inputs: np.ndarray, hard: bool) -> tuple[Encoded, Any, int | None]:
        graphdef, params = self.model.graphdef, self.model.params
        reading = read_inputs(graphdef, params, inputs)
        length = min(round_up(int(reading.counts.max())), inputs.shape[1]) if hard else None
        encoded = encode_reading(graphdef, params, reading, length)
        return jax.block_until_ready(encoded), reading.deleted, length


@jit_inference(static_argnames="graphdef")
def _score(
    graphdef: nnx.GraphDef, params: Any, encoded: Encoded, batch: Batch
) -> tuple[jax.Array, ...]:
    """The columns of `_TargetSums`, `[B]` each."""
    logits = nnx.merge(graphdef, params).decode(batch.ids, encoded)  # [B, T, V]
    nats = ModelOutput(logits).nats(batch.targets)  # [B, T]
    scored, is_end = batch.targets != UNSCORED, batch.targets == END  # [B, T]
    right = (logits.argmax(axis=2) == batch.targets) & scored
    end_nats = jnp.where(is_end, nats, 0.0)
    return nats.sum(1), end_nats.sum(1), right.sum(1), scored.sum(1), is_end.sum(1)


def _figures(sums: _Sums, scripts: Sequence[str]) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of scored targets, and details."""
    figures = _target_figures("", sums.hard)
    details: dict[str, Any] = {
        "inputs": int(sums.inputs.sum()),
        "targets": int(sums.hard.targets.sum()),
    }
    if not sums.shortens:
        return figures, details
    figures += _target_figures("soft_", sums.soft)

    def share(name: str, value: float) -> None:
        figures.append(Figure(name, float(value), "share"))

    share("deleted", np.divide(sums.deleted.sum(), sums.inputs.sum()))
    for script, count, gone in zip(scripts, *sums.by_script, strict=True):
        if count:
            share(f"deleted/{script}", gone / count)
    share("encoder_flops_saved", 1 - sums.flops[0] / sums.flops[1])
    share("encoder_time_saved", 1 - sums.seconds[0] / sums.seconds[1])
    details["deleted_by_symbol"] = {
        str(symbol): [int(sums.inputs[symbol]), int(sums.deleted[symbol])]
        for symbol in np.flatnonzero(sums.inputs)
    }
    return figures, details


def _target_figures(prefix: str, sums: _TargetSums) -> list[Figure]:
    """Bits per target byte without END and with it, and how many targets are the likeliest."""

    def bits(name: str, nats: np.ndarray, count: np.ndarray) -> Figure:
        name, unit = f"{prefix}bits_per_target_byte{name}", "bits/target byte"
        if not count.sum():  # all targets are empty
            return Figure(name, math.nan, unit)
        return ratio(name, nats / math.log(2), count, unit)

    return [
        bits("", sums.nats - sums.end_nats, sums.targets - sums.ends),
        bits("_with_end", sums.nats, sums.targets),
        Figure(f"{prefix}target_accuracy", float(sums.right.sum() / sums.targets.sum()), "share"),
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
