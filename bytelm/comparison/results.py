"""What is known of the points of a comparison, and the table of it."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table as RichTable

from bytelm.comparison.record import State
from bytelm.comparison.table import bits, interval, known, markdown, state, tabulate, whole
from bytelm.config import ExperimentConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.terminal_console import TerminalConsole
from bytelm.training.hardware import describe_machine
from bytelm.training.loop import row_flops
from bytelm.whole_file import write_whole

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class PointResult:
    """A point and its figures; None where one is not known, or not of its family.

    Attributes:
        point: its name.
        changes: the fields, by dotted path, in which it differs from the base, and their values.
        state: "failed" if it could not be trained or tested, "stopped" if a signal came.
        reason: why it failed, or where it stopped.
        test_bpb, test_interval: bits per byte of the test split, with a 95% interval over
            documents where there are enough of them.
        validation_bpb: the last one of training.
        test_target_bits: in a family with an encoder, bits per target byte of the test split; its
            interval is `test_interval`.
        exact_match: share of the test's targets that are generated exactly.
        deleted, encoder_time_saved: of the test's inputs, and of the encoder's time on them.
        bytes_per_patch, overflow: of the last validation; the second is the share of patches that
            found no room.
        bytes_per_second: of training, the median of the records.
        parameters: how many numbers the model learns.
        forward_flops_per_byte: of a row's forward pass, with all patches that it has room for.
        curve, validation_curve: training and validation bits as (step, value).
    """

    point: str
    changes: dict[str, Any]
    state: State
    reason: str = ""
    test_bpb: float | None = None
    test_target_bits: float | None = None
    test_interval: tuple[float, float] | None = None
    exact_match: float | None = None
    deleted: float | None = None
    encoder_time_saved: float | None = None
    validation_bpb: float | None = None
    bytes_per_patch: float | None = None
    overflow: float | None = None
    bytes_per_second: float | None = None
    parameters: int | None = None
    forward_flops_per_byte: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    validation_curve: tuple[tuple[int, float], ...] = ()


def finished(
    point: PointResult, config: ExperimentConfig, run_dir: Path, report: Mapping[str, Any]
) -> PointResult:
    """The same point with the figures of its config, its run and its test report."""
    model = nnx.eval_shape(lambda: config.model.build(nnx.Rngs(0)))
    has_encoder = isinstance(config.model, EncoderDecoderConfig)
    records = [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]

    def recorded(name: str) -> list[tuple[int, float]]:
        return [(r["step"], r[name]) for r in records if r.get(name) is not None]

    def last(name: str) -> float | None:
        return recorded(name)[-1][1] if recorded(name) else None

    measured = "bits_per_target_byte" if has_encoder else "bits_per_byte"
    curve = "bits_per_target_byte" if has_encoder else "bpb"
    found = report[f"{measured}_interval"]
    speeds = [speed for _, speed in recorded("bytes_per_second")]
    return dataclasses.replace(
        point,
        state="done",
        test_bpb=report.get("bits_per_byte"),
        test_target_bits=report.get("bits_per_target_byte"),
        test_interval=None if found is None else (found[0], found[1]),
        exact_match=report.get("exact_match"),
        deleted=report.get("deleted"),
        encoder_time_saved=report.get("encoder_time_saved"),
        validation_bpb=last("validation_bpb"),
        bytes_per_patch=last("validation/bytes_per_patch"),
        overflow=last("validation/overflow"),
        bytes_per_second=statistics.median(speeds) if speeds else None,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))),
        forward_flops_per_byte=row_flops(config) / config.data.sequence_length,
        curve=tuple(recorded(curve)),
        validation_curve=tuple(recorded(f"validation_{curve}")),
    )


def write_tables(results: Sequence[PointResult], output: Path, max_bytes: int | None) -> None:
    """Writes `table.md` for people and `table.json` for programs."""
    write_whole(output / "table.md", markdown(tabulate(results, _COLUMNS)))
    table = {
        "max_bytes": max_bytes,
        "machine": describe_machine(),
        "points": [dataclasses.asdict(result) for result in results],
    }
    write_whole(output / "table.json", json.dumps(table, indent=2) + "\n")


def print_table(results: Sequence[PointResult], console: Console | None = None) -> None:
    """Shows the columns of the table that fit a terminal."""
    shown = tabulate(results, {name: _COLUMNS[name] for name in _SHOWN})
    table = RichTable(*shown.columns)
    for row in shown.rows:
        table.add_row(*row)
    (console or TerminalConsole()).print(table)


_COLUMNS: dict[str, Callable[[PointResult], str]] = {
    "point": lambda result: result.point,
    "test bpb": lambda result: bits(result.test_bpb),
    "test bits/target byte": lambda result: bits(result.test_target_bits),
    "95% interval": lambda result: interval(result.test_interval),
    "exact match": lambda result: known(result.exact_match, ".2%"),
    "deleted": lambda result: known(result.deleted, ".2%"),
    "encoder time saved": lambda result: known(result.encoder_time_saved, ".1%"),
    "validation bpb": lambda result: bits(result.validation_bpb),
    "bytes/patch": lambda result: known(result.bytes_per_patch, ".2f"),
    "overflow": lambda result: known(result.overflow, ".2%"),
    "training bytes/s": lambda result: whole(result.bytes_per_second),
    "parameters": lambda result: whole(result.parameters),
    "forward FLOP/byte": lambda result: whole(result.forward_flops_per_byte),
    "state": lambda result: state(result.state, result.reason),
}
_SHOWN = (
    "point",
    "test bpb",
    "test bits/target byte",
    "95% interval",
    "exact match",
    "deleted",
    "bytes/patch",
    "state",
)
