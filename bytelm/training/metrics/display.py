"""Reports of a run while it trains: its records on the screen and in files, and warnings."""

import collections
import functools
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Self

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from bytelm.core.console import TerminalConsole
from bytelm.core.figure import Figure
from bytelm.core.statistics import warnings
from bytelm.core.terminal_text import printable
from bytelm.training.cost import step_flops
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.metrics.record import SETTLED, LoopState, Record
from bytelm.training.metrics.writer import MetricsWriter
from bytelm.training.step import StepMetrics, Sums

SHOWN = 3
"""Figures of an evaluation that are shown; all are written."""
_RATE_WINDOW = 50
"""Updates whose speed gives the time left."""


class Display:
    """Shows the progress and the latest figures of a run; a context manager.

    On a terminal: a bar with the step and the time left, and below it the latest figures of
    training and of validation. Elsewhere: one line for each update. Only process 0 shows anything.
    """

    def __init__(self, total_steps: int, console: Console | None = None) -> None:
        self._total_steps = total_steps
        self._console = console or TerminalConsole(quiet=jax.process_index() != 0)
        self._recent: collections.deque[tuple[float, int]] = collections.deque(maxlen=_RATE_WINDOW)
        self._latest: dict[str, Figure] = {}
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[time_left]}"),
            expand=True,
        )
        self._task = self._progress.add_task("", total=total_steps, time_left="")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live = Live(self._progress, console=self._console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, step: int, figures: Iterable[Figure]) -> None:
        """Shows the number of steps done, and their figures."""
        self._recent.append((time.monotonic(), step))
        time_left = self._time_left(step)
        figures = list(figures)
        if not self._live:
            parts = [f"step {step}/{self._total_steps}", format_figures(figures), time_left]
            self._print("  ".join(filter(None, parts)))
            return
        self._latest.update({figure.name: figure for figure in figures})
        self._progress.update(self._task, completed=step, time_left=time_left)
        latest = sorted(self._latest.values(), key=_is_validation)
        lines = (list(part) for _, part in itertools.groupby(latest, _is_validation))
        self._live.update(Group(self._progress, *map(Text, map(format_figures, lines))))

    def message(self, text: str) -> None:
        """Prints a text above the display, with visible control characters."""
        self._print(printable(text))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _time_left(self, step: int) -> str:
        """The time left at the speed of the recent updates; "" before there are two."""
        (first_time, first_step), (last_time, last_step) = self._recent[0], self._recent[-1]
        if last_step <= first_step:
            return ""
        seconds_per_step = (last_time - first_time) / (last_step - first_step)
        return f"{format_duration(seconds_per_step * (self._total_steps - step))} left"


def format_figures(figures: Sequence[Figure]) -> str:
    """One line of the figures.

    Names with a slash are details, only for files. But a validation shows its sources, such as
    "validation 1.200 bpb (books 1.020, code 0.810)".
    """
    shown = []
    for figure in figures:
        if "/" in figure.name:
            continue
        text = figure.brief
        if _is_validation(figure):
            prefix = f"{figure.name}/"
            sources = [
                f"{other.name.removeprefix(prefix)} {other.brief.split()[0]}"
                for other in figures
                if other.name.startswith(prefix)
            ]
            text = f"validation {text}" + (f" ({', '.join(sources)})" if sources else "")
        shown.append(text)
    return "  ".join(shown)


def _is_validation(figure: Figure) -> bool:
    return figure.name.startswith("validation")


def format_duration(seconds: float) -> str:
    """Such as "48s", "1m02s", "3h07m" or "2d04h"."""
    seconds = round(seconds)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    if minutes:
        return f"{minutes}m{seconds % 60:02}s"
    return f"{seconds}s"


class Reporter:
    """Collects the metrics of steps into records, and shows and writes them; a context manager.

    Args:
        loop: has the open record.
        peak_flops: highest FLOP/s of all devices of the run.
        writer: None in a process that writes no files.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        loop: LoopState,
        display: Display,
        peak_flops: float,
        writer: MetricsWriter | None,
    ):
        self.message = display.message
        self._train, self._loop, self._display = config.train, loop, display
        self._writer = writer
        self._flops = functools.partial(step_flops, config)
        self._learning_rate = config.optimizer.learning_rates(config.train.steps)
        self._peak_flops = peak_flops
        self._warned: set[tuple[str, str]] = set()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._writer:
            self._open.enter_context(self._writer)
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

    def evaluated(self, step: int, found: Mapping[str, Sequence[Figure]]) -> None:
        """Shows the first figures of each evaluation, and writes them all."""
        for name, figures in found.items():
            shown = ", ".join(f"{figure.name} {figure.number}" for figure in figures[:SHOWN])
            more = f" and {len(figures) - SHOWN} more" if len(figures) > SHOWN else ""
            self.message(f"{name} at step {step}: {shown}{more}")
        if self._writer and found:
            scalars = {
                f"evaluation/{name}/{figure.name}": figure.value
                for name, figures in found.items()
                for figure in figures
            }
            self._writer.write(step, {**scalars, **self._loop.metrics()})

    def warn(self, step: int, sums: Sums | None, when: str) -> None:
        """Shows the warnings of statistics, each once."""
        if sums is None or step / self._train.steps <= SETTLED:
            return
        for subject, warning in warnings(sums.statistics).items():
            if (subject, when) not in self._warned:
                self.message(f"warning: {when}, {warning}")
            self._warned.add((subject, when))

    def flush(self) -> None:
        """Writes what the writer keeps back."""
        if self._writer:
            self._writer.flush()

    def sample(self, step: int, text: str) -> None:
        """Shows and writes a sample."""
        self.message(f"--- sample at step {step} ---\n{text}\n---")
        if self._writer:
            self._writer.write_text(step, "sample", text)
