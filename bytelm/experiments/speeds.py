"""Time and memory of training steps, timed in turns: a slow hour affects all contenders equally."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax

from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.core.terminal_text import say
from bytelm.data.loader import ValidationBatches
from bytelm.data.open_data import OpenData
from bytelm.experiments.runs import Run
from bytelm.training.hardware import describe_machine
from bytelm.training.program import build_program
from bytelm.training.timing import RepeatedStep, in_turns, repeated_step

SPEEDS = "speeds.json"
"""File with the speeds in a comparison's directory."""


@dataclass(frozen=True)
class Speeds:
    """Times and memory of steps; empty if not measured.

    Attributes:
        seconds: of the timed steps, by the step's name.
        peak_bytes: memory of a step: state, batch and temporary arrays.
    """

    machine: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def knows(self, run: Run) -> bool:
        """Whether a run's steps were measured."""
        return _step_name(run) in self.seconds

    def figures(self, run: Run) -> dict[str, float]:
        """The figures of a run's steps; empty if they were not measured."""
        name = _step_name(run)
        if name not in self.seconds:
            return {}
        return {
            "train_bytes_per_second_in_turns": run.bytes_per_step
            / statistics.median(self.seconds[name]),
            "peak_memory_bytes": float(self.peak_bytes[name]),
        }


def read_speeds(output: Path) -> Speeds:
    """The speeds in a comparison's directory."""
    path = output / SPEEDS
    return Speeds(**json.loads(path.read_text())) if path.exists() else Speeds()


def measure_speeds(runs: Sequence[Run], rounds: int, output: Path) -> None:
    """Times training steps of the runs in turns, and writes the speeds into `output`.

    Each step runs `rounds` times. Runs with identical steps, such as those of several budgets, are
    timed once. All are in memory at the same time; if they do not fit, nothing is written.
    """
    try:
        by_name = {_step_name(run): run for run in runs}
        steps = {name: _step(run) for name, run in by_name.items()}
        timings = in_turns({n: step.run for n, step in steps.items()}, rounds=rounds, warm_up=1)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        say(f"the contenders could not be timed: {error}")
        return
    seconds = {name: list(timing.seconds) for name, timing in timings.items()}
    peaks = {name: step.peak_bytes for name, step in steps.items()}
    found = dataclasses.asdict(Speeds(describe_machine(), seconds, peaks))
    write_whole(output / SPEEDS, json.dumps(found, indent=2) + "\n")


def _step_name(run: Run) -> str:
    """The contender, and everything that its steps depend on."""
    config = run.config
    shape = f"{config.data.batch_size} x {config.data.sequence_length}"
    rest = config.train.accumulation, type(config.optimizer), config.mesh, config.model
    return f"{run.contender}: {shape}, {rest}"


def _step(run: Run) -> RepeatedStep:
    mesh, data = run.config.mesh.build(), run.config.data
    batch = next(iter(ValidationBatches(OpenData(data), data.batch_size, "test")))
    return repeated_step(build_program(run.config, mesh), batch, mesh)
