"""How fast contenders train: steps of all in turns, so that a machine's noise meets all alike."""

import json
from collections.abc import Sequence
from pathlib import Path

from bytelm.comparison.comparison import Run
from bytelm.data.loader import ValidationBatches
from bytelm.training.hardware import describe_machine
from bytelm.training.loop import build_program
from bytelm.training.timing import RepeatedStep, in_turns, repeated_step
from bytelm.whole_file import write_whole

SPEEDS = "speeds.json"
"""File of a comparison's directory that holds its speeds."""


def read_speeds(output: Path) -> dict[str, float]:
    """Bytes of text a second by the names of runs; empty if they were never measured."""
    path = output / SPEEDS
    return json.loads(path.read_text())["bytes_per_second"] if path.exists() else {}


def measure_speeds(runs: Sequence[Run], rounds: int, output: Path) -> None:
    """Times training steps of the runs in turns, and writes what it finds into `output`.

    Runs that differ in budget, seed or learning rate alone share their steps.

    Args:
        runs: which.
        rounds: timed steps of each.
        output: directory of the comparison.
    """
    distinct = {_program(run): run for run in runs}
    steps = {name: _step(run).run for name, run in distinct.items()}
    timings = in_turns(steps, rounds=rounds, warm_up=1)
    speeds = {run.name: run.bytes_per_step / timings[_program(run)].median for run in runs}
    found = {"machine": describe_machine(), "rounds": rounds, "bytes_per_second": speeds}
    write_whole(output / SPEEDS, json.dumps(found, indent=2) + "\n")


def _program(run: Run) -> str:
    """What tells apart the runs whose steps differ."""
    return f"{run.contender} {run.config.model}"


def _step(run: Run) -> RepeatedStep:
    mesh = run.config.mesh.build()
    batch = next(iter(ValidationBatches(run.config.data, run.config.data.batch_size, "test")))
    return repeated_step(build_program(run.config, mesh), batch, mesh)
