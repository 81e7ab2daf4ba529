"""Measurements: functions timed in turns, and a trace of training steps."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax

from bytelm.core.files import check_folder
from bytelm.core.terminal_text import say
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.models.contract import Batch
from bytelm.nn.mesh import place_batch, row_share
from bytelm.training.compatibility import check_supply
from bytelm.training.entropy_models import with_entropy_model
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.forecast.compiled import memory_of
from bytelm.training.program import TrainProgram, build_program

TRACE_WARM_UP = 2
"""Steps before a trace, which compile and fill caches."""


@dataclass(frozen=True)
class Timing:
    """Seconds of each call of a contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


def in_turns(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_up: int = 2
) -> dict[str, Timing]:
    """Times contenders in turns (A B A B ...), so that the machine's noise affects all of them.

    Args:
        contenders: functions by name, which return when their work is done, not only dispatched.
        rounds: timed calls of each.
        warm_up: untimed calls of each before.
    """
    for run in contenders.values():
        for _ in range(warm_up):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


class RepeatedStep(NamedTuple):
    """A compiled training step."""

    run: Callable[[], None]
    """Runs the next step, and returns when it is done."""
    temporary_bytes: int
    """Memory of a step without its state and batch."""
    peak_bytes: int
    """Memory of a step: state, batch and temporary arrays."""


def repeated_step(program: TrainProgram, batch: Batch, mesh: jax.sharding.Mesh) -> RepeatedStep:
    """Training steps on one batch, from fresh parameters."""
    placed = place_batch(batch, mesh)
    state = program.init(0)
    with jax.set_mesh(mesh):
        compiled = program.lower_train(state, placed).compile()

    def run() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = compiled(state, placed, program.learning_rate)
        jax.block_until_ready((state, metrics))

    memory = memory_of(compiled.memory_analysis(), mesh.devices.flat[0].platform)
    return RepeatedStep(run, int(memory.temporary), int(memory.total))


def profile(config: ExperimentConfig, trace_dir: Path, steps: int) -> None:
    """Traces `steps` training steps of a fresh model; UserError if it cannot be written."""
    check_folder(trace_dir, "--trace-dir")
    data, config = OpenData(config.data), with_entropy_model(config)
    check_supply(config, data.tokenizer)
    mesh = config.mesh.build()
    with jax.set_mesh(mesh):
        program = build_program(config, mesh)
        state = program.init(config.train.seed)
        share = row_share(config.data.batch_size, mesh)
        batches = train_loader(data, config.train.seed, *share)
        for step in range(TRACE_WARM_UP + steps):
            if step == TRACE_WARM_UP:
                jax.block_until_ready(state)
                jax.profiler.start_trace(str(trace_dir))
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, _ = program.train(state, place_batch(next(batches), mesh))
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        batches.close()
    say(f"trace of {steps} steps: {trace_dir} (tensorboard --logdir {trace_dir})")
