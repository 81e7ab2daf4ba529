"""Reports of a run while it trains: records of metrics on the screen and in files, warnings."""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bytelm.core.figure import Figure
from bytelm.core.statistics import warnings
from bytelm.training.cost import step_flops
from bytelm.training.experiment import ExperimentConfig, as_saved
from bytelm.training.loop_state import LoopState
from bytelm.training.metrics.display import Display
from bytelm.training.metrics.record import SETTLED, Record
from bytelm.training.metrics.writer import MetricsWriter
from bytelm.training.score import StepMetrics, Sums


class Reporter:
    """Collects the metrics of steps into records, and shows and writes them; a context manager.

    Args:
        first_step: the step to continue from.
        loop: has the open record.
        peak_flops: highest FLOP/s of all devices of the run.
        writes: whether this process writes the files.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        run_dir: Path,
        first_step: int,
        loop: LoopState,
        display: Display,
        peak_flops: float,
        *,
        writes: bool,
    ):
        self.writes = writes
        self.message = display.message
        self._train, self._loop, self._display = config.train, loop, display
        self._open_writer = functools.partial(
            MetricsWriter,
            run_dir,
            as_saved(config),
            start_step=first_step,
            tensorboard=config.train.tensorboard,
            wandb_project=config.train.wandb_project,
        )
        self._writer: MetricsWriter | None = None
        self._flops = functools.partial(step_flops, config)
        self._learning_rate = config.optimizer.learning_rates(config.train.steps)
        self._peak_flops = peak_flops
        self._warned: set[tuple[str, str]] = set()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self.writes:
            self._writer = self._open.enter_context(self._open_writer())
        self._open.enter_context(self._display)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def add(self, step: int, metrics: StepMetrics) -> None:
        """Adds a step to the run's sums and the open record, which is reported if it is due."""
        loop, record, flops = self._loop, self._loop.record, self._flops()
        loop.add(metrics.sums, flops)
        record.add(metrics, flops)
        if step % self._train.log_every:
            return
        figures = record.figures(self._flops, self._peak_flops)
        # A skipped step does not advance the schedule.
        rate = float(self._learning_rate(step - 1 - int(metrics.skipped)))
        loop.seconds += record.seconds
        loop.record = Record()
        self.report(step, [*figures, Figure("learning_rate", rate, "lr")])
        self.warn(step, record.sums, "in training")
        loop.record.resume()

    def report(self, step: int, figures: Sequence[Figure]) -> None:
        """Shows and writes the figures of a step."""
        self._display.update(step, figures)
        if self._writer:
            scalars = {figure.name: figure.value for figure in figures}
            self._writer.write(step, {**scalars, **self._loop.metrics()})

    def warn(self, step: int, sums: Sums | None, when: str) -> None:
        """Shows the warnings of statistics, each once."""
        if sums is None or step / self._train.steps <= SETTLED:
            return
        for subject, warning in warnings(sums.statistics).items():
            if (subject, when) not in self._warned:
                self.message(f"warning: {when}, {warning}")
            self._warned.add((subject, when))

    def sample(self, step: int, text: str) -> None:
        """Shows and writes a sample."""
        self.message(f"--- sample at step {step} ---\n{text}\n---")
        if self._writer:
            self._writer.write_text(step, "sample", text)
