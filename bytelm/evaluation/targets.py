"""The evaluation of encoder-decoder models: what their targets cost, and what they delete.

Bits per target byte are over all targets, END and the sentinels of span corruption among them.
They are no bits per byte of text: most of it was given to the encoder.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from bytelm.core.console import TerminalConsole
from bytelm.core.errors import UserError
from bytelm.core.intervals import bootstrap_interval, interval_words, share_interval
from bytelm.core.vocabulary import BYTES, INPUT_SIZE, PAD, UNSCORED
from bytelm.core.xla import jit_inference
from bytelm.data.config import DIAGNOSTICS
from bytelm.data.loader import ValidationBatches
from bytelm.data.tasks.pairs import Pair, pairs
from bytelm.evaluation.progress import shown_progress
from bytelm.evaluation.seen import EvaluationText, describe_text
from bytelm.inference.transduction import Transducer, bucket, encode, read
from bytelm.models import Batch, ModelOutput
from bytelm.models.encoder_decoder import Encoded
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.training.hardware import describe_machine

if TYPE_CHECKING:
    from bytelm.api import LoadedModel

SHOWN = 8
"""Byte values whose deletion the printed report shows."""


def evaluate_targets(
    loaded: "LoadedModel",
    text: EvaluationText,
    *,
    batch_size: int = 16,
    max_bytes: int | None = None,
    by_row: bool = False,
) -> dict[str, Any]:
    """Scores the targets of a split with states deleted in fact ("hard") and hidden ("soft").

    Times are of the encoder alone, on as many slots as the kept states of a batch need, and on as
    many as its inputs need, in turns. For tasks of pairs the targets are also generated, greedily.

    Args:
        loaded: an encoder-decoder model.
        text: whose split is scored, as `evaluation_text` makes it.
        batch_size: rows at a time.
        max_bytes: no further row is scored once there are this many inputs; None for all.
        by_row: whether to tell the bits and the symbols of each row's targets, `row_bits` and
            `row_symbols`.

    Returns:
        figures under names that say their units, ready for JSON.

    Raises:
        UserError: for a task without inputs.
    """
    data, split = text.config, text.split
    if data.task == "next_byte":
        raise UserError(
            "data.task is next_byte, and the model has an encoder, which needs inputs; choose the "
            f"task it was trained on, {loaded.config.data.task}, or another one."
        )
    loaded.warn_of_long_inputs(data.sequence_length)
    started = time.perf_counter()
    model = loaded.transducer
    data = dataclasses.replace(data, batch_size=batch_size)
    tally = _Tally(loaded.config.model, len(data.scripts))
    left = sys.maxsize if max_bytes is None else max_bytes
    with shown_progress("scoring inputs", max_bytes) as done:
        for batch in ValidationBatches(data, None, split, sources=text.sources):
            lengths = (batch.inputs != PAD).sum(axis=1)
            wanted = np.cumsum(lengths) - lengths < left
            tally.add(_rows(batch, wanted), model)
            done(int(lengths[wanted].sum()))
            left -= int(lengths.sum())
            if left <= 0:
                break
    report: dict[str, Any] = {
        "step": loaded.step,
        "task": data.task,
        "rows": tally.rows,
        **tally.report(data.scripts),
        "text": text.report(max_bytes),
        "machine": describe_machine(),
    }
    if by_row:
        report |= tally.by_row()
    if data.task == "pairs" or data.task in DIAGNOSTICS:
        report |= _matches(
            model, pairs(data, split, text.sources), tally.rows, data.row_length, batch_size
        )
    report["seconds"] = time.perf_counter() - started
    return report


def _rows(batch: Batch, wanted: np.ndarray) -> Batch:
    """The batch with padding in place of rows that are not wanted, bool `[B]`."""
    inputs = np.where(wanted[:, None], batch.inputs, PAD)
    return dataclasses.replace(batch, inputs=inputs)


class _Tally:
    """Sums over the rows scored so far."""

    def __init__(self, config: Any, scripts: int):
        assert isinstance(config, ByT5Config)
        self.config = config
        self.by_mode: dict[str, list[np.ndarray]] = {"hard": [], "soft": []}
        self.seconds = {"hard": 0.0, "soft": 0.0}
        self.compiled: set[tuple[int, ...]] = set()
        self.inputs = np.zeros(INPUT_SIZE, np.int64)  # by symbol
        self.deleted = np.zeros(INPUT_SIZE, np.int64)
        self.of_script = np.zeros((2, scripts), np.int64)
        self.flops = np.zeros(2)
        self.shortens = False

    @property
    def rows(self) -> int:
        return sum(len(found) for found in self.by_mode["hard"])

    def add(self, batch: Batch, model: Transducer) -> None:
        present = batch.inputs != PAD
        if not present.any():
            return
        there = present.any(axis=1)
        deleted = np.zeros_like(present)
        for mode in ("hard", "soft"):
            encoded, found, seconds = self._encode(batch.inputs, model, mode == "hard")
            self.seconds[mode] += seconds
            if found is not None:
                self.shortens, deleted = True, found
            scores = _score(model.graphdef, model.params, encoded, batch)
            self.by_mode[mode].append(np.asarray(scores, np.float64).T[there])
        np.add.at(self.inputs, batch.inputs[present], 1)
        np.add.at(self.deleted, batch.inputs[deleted], 1)
        read, kept = present.sum(axis=1), (present & ~deleted).sum(axis=1)
        for length, left in zip(read[there], kept[there], strict=True):
            self.flops += [self.config.encoder_flops(length, n) for n in (left, length)]
        if batch.scripts is not None:
            scripts = batch.scripts[there, 0]
            np.add.at(self.of_script[0], scripts, read[there])
            np.add.at(self.of_script[1], scripts, (read - kept)[there])

    def _encode(
        self, inputs: np.ndarray, model: Transducer, hard: bool
    ) -> tuple[Encoded, np.ndarray | None, float]:
        """The encoder's states, the inputs deleted, and the time it took."""
        slots = inputs.shape[1]
        # Nobody would run an encoder on slots that no row of the batch needs.
        inputs = inputs[:, : min(bucket(int((inputs != PAD).sum(axis=1).max())), inputs.shape[1])]

        def run() -> tuple[Encoded, Any, int | None]:
            reading = read(model.graphdef, model.params, inputs)
            length = min(bucket(int(reading.counts.max())), inputs.shape[1]) if hard else None
            encoded = encode(model.graphdef, model.params, reading, length)
            return jax.block_until_ready(encoded), reading.deleted, length

        begin = time.perf_counter()
        encoded, deleted, length = run()
        shape = (*inputs.shape, length or 0)
        if shape not in self.compiled:
            self.compiled.add(shape)
            begin = time.perf_counter()
            encoded, deleted, _ = run()
        seconds = time.perf_counter() - begin
        if deleted is None:
            return encoded, None, seconds
        return encoded, np.pad(deleted, ((0, 0), (0, slots - inputs.shape[1]))), seconds

    def by_row(self) -> dict[str, list[float]]:
        """Bits and symbols of each row's targets, states deleted in fact."""
        nats, _, symbols = np.concatenate(self.by_mode["hard"]).T
        return {"row_bits": (nats / math.log(2)).tolist(), "row_symbols": symbols.tolist()}

    def report(self, scripts: Iterable[str]) -> dict[str, Any]:
        report: dict[str, Any] = {}
        for mode, prefix in (("hard", ""), ("soft", "soft_")):
            nats, right, symbols = np.concatenate(self.by_mode[mode]).T
            bits = nats / math.log(2)
            report[f"{prefix}bits_per_target_byte"] = float(bits.sum() / symbols.sum())
            report[f"{prefix}target_accuracy"] = float(right.sum() / symbols.sum())
            if mode == "hard":
                report["bits_per_target_byte_interval"] = bootstrap_interval(bits, symbols)
                report["target_symbols"] = int(symbols.sum())
        report["input_symbols"] = int(self.inputs.sum())
        if not self.shortens:
            return {name: value for name, value in report.items() if not name.startswith("soft_")}
        report["deleted"] = float(np.divide(self.deleted.sum(), self.inputs.sum()))
        report["deleted_by_script"] = {
            name: float(gone / count)
            for name, count, gone in zip(scripts, *self.of_script, strict=True)
            if count
        }
        report["deleted_by_symbol"] = {
            str(symbol): [int(self.inputs[symbol]), int(self.deleted[symbol])]
            for symbol in np.flatnonzero(self.inputs)
        }
        report["encoder_flops_saved"] = float(1 - self.flops[0] / self.flops[1])
        report["encoder_time_saved"] = 1 - self.seconds["hard"] / self.seconds["soft"]
        return report


@jit_inference(static_argnames="graphdef")
def _score(
    graphdef: nnx.GraphDef, params: Any, encoded: Encoded, batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nats of each row's targets, how many of them are the likeliest, and how many there are."""
    logits = nnx.merge(graphdef, params).decode(batch.ids, encoded)
    scored = batch.targets != UNSCORED
    right = (logits.argmax(axis=2) == batch.targets) & scored
    return ModelOutput(logits).nats(batch.targets).sum(1), right.sum(1), scored.sum(1)


def _matches(
    model: Transducer, found: Iterable[Pair], rows: int, row_length: int, batch_size: int
) -> dict[str, Any]:
    """How many of the first targets are generated exactly, and whether each is."""
    exact: list[bool] = []
    examples = []
    chosen = [pair for pair, _ in zip(found, range(rows), strict=False)]
    for first in range(0, len(chosen), batch_size):
        some = chosen[first : first + batch_size]
        inputs = [pair.input for pair in some]
        inputs += [b""] * (batch_size - len(some))  # programs are compiled for full batches
        # One more than the longest target, which must end there.
        written = model.greedy(inputs, max_bytes=row_length)[: len(some)]
        exact += [text == pair.target for text, pair in zip(written, some, strict=True)]
        examples += [
            {"input": repr(pair.input), "target": repr(pair.target), "written": repr(text)}
            for text, pair in zip(written, some, strict=True)
        ]
    return {
        "exact_match": sum(exact) / len(exact),
        "exact_match_interval": share_interval(sum(exact), len(exact)),
        "examples": examples[:SHOWN],
    }


def print_target_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Shows what `evaluate_targets` returned as a table."""
    text = report["text"]
    title = f"evaluation of step {report['step']}: {report['task']}, {text['split']}"
    table = Table(title=f"{title} of {text['source']}")
    table.add_column()
    table.add_column("", justify="right")
    table.add_column("95% interval", justify="right")
    bits = f"{report['bits_per_target_byte']:.4f}"
    interval = interval_words(report["bits_per_target_byte_interval"])
    table.add_row("bits per target byte", bits, interval)
    if "soft_bits_per_target_byte" in report:
        table.add_row("the same, soft deletion", f"{report['soft_bits_per_target_byte']:.4f}", "")
    table.add_row("targets that are the likeliest", f"{report['target_accuracy']:.2%}", "")
    if "exact_match" in report:
        interval = interval_words(report["exact_match_interval"], ".2%")
        table.add_row("exact match", f"{report['exact_match']:.2%}", interval)
    if "deleted" in report:
        table.add_row("inputs deleted", f"{report['deleted']:.2%}", "")
        for name, share in report["deleted_by_script"].items():
            table.add_row(f"  of {name}", f"{share:.2%}", "")
        for symbol, count, gone in _most_deleted(report["deleted_by_symbol"]):
            table.add_row(f"  of {symbol}", f"{gone / count:.2%}", f"of {count:,}")
        table.add_row("FLOPs of the encoder saved", f"{report['encoder_flops_saved']:.2%}", "")
        table.add_row("time of the encoder saved", f"{report['encoder_time_saved']:.2%}", "")
    table.caption = (
        f"{report['rows']:,} rows, {report['input_symbols']:,} inputs, "
        f"{report['target_symbols']:,} targets; {report['seconds']:.1f} s on {report['machine']}"
    )
    if text["documents"]:
        table.caption += f"; {describe_text(text)}"
    (console or TerminalConsole()).print(table)


def _most_deleted(by_symbol: dict[str, list[int]]) -> list[tuple[str, int, int]]:
    """The symbols that make up most of what is deleted: name, occurrences, deletions."""
    counts = [(int(symbol), *pair) for symbol, pair in by_symbol.items() if pair[1]]
    ranked = sorted(counts, key=lambda item: -item[2])[:SHOWN]
    return [
        (repr(bytes([symbol])) if symbol < BYTES else "END", count, gone)
        for symbol, count, gone in ranked
    ]
