"""What a run shows while it trains: a live display, or plain lines where there is no terminal."""

import collections
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from bytelm.core.console import TerminalConsole
from bytelm.core.figure import with_prefix
from bytelm.core.terminal_text import printable

_RATE_WINDOW = 50
"""Updates over which the speed behind the time left is taken."""


class Display:
    """Shows the progress and the latest metrics of a run; a context manager.

    On a terminal: a bar with the step and the time left, and below it the latest value of each
    metric. Elsewhere: one line for each update. Only process 0 shows anything.

    Args:
      total_steps: the step at which the run ends.
      console: where to show it; standard output by default.
    """

    def __init__(self, total_steps: int, console: Console | None = None) -> None:
        self._total_steps = total_steps
        self._console = console or TerminalConsole(quiet=jax.process_index() != 0)
        self._recent: collections.deque[tuple[float, int]] = collections.deque(maxlen=_RATE_WINDOW)
        self._latest: dict[str, Any] = {}
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

    def update(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows that `step` steps are done, and the metrics that they gave.

        Args:
          step: number of steps done.
          values: scalars by name. Those of `_FORMATS` come first and with their units, the
            others as they are.
        """
        self._recent.append((time.monotonic(), step))
        time_left = self._time_left(step)
        if not self._live:
            parts = [f"step {step}/{self._total_steps}", format_metrics(values), time_left]
            self._print("  ".join(filter(None, parts)))
            return
        self._latest.update(values)
        self._progress.update(self._task, completed=step, time_left=time_left)
        self._live.update(Group(self._progress, Text(format_metrics(self._latest))))

    def message(self, text: str) -> None:
        """Prints a text above the display, control characters replaced by visible ones."""
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


def format_metrics(values: Mapping[str, Any]) -> str:
    """One line of the metrics: those of `_FORMATS` in its order, then the others in theirs.

    Names with a slash are details, for files alone; but a validation shows its sources too.
    """
    known = [
        form(_scalar(values[name])) + _of_sources(name, values)
        for name, form in _FORMATS.items()
        if name in values
    ]
    others = [
        f"{name.replace('_', ' ')} {_scalar(value):.4g}"
        for name, value in values.items()
        if name not in _FORMATS and "/" not in name
    ]
    return "  ".join(known + others)


def _of_sources(name: str, values: Mapping[str, Any]) -> str:
    """The figures of a validation's sources, such as " (books 1.020, code 0.810)"."""
    if not name.startswith("validation_"):
        return ""
    shown = [
        f"{key.removeprefix(name + '/')} {_scalar(value):.3f}"
        for key, value in values.items()
        if key.startswith(name + "/")
    ]
    return f" ({', '.join(shown)})" if shown else ""


def format_duration(seconds: float) -> str:
    """For instance "48s", "1m02s", "3h07m" or "2d04h"."""
    seconds = round(seconds)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    if minutes:
        return f"{minutes}m{seconds % 60:02}s"
    return f"{seconds}s"


def _scalar(value: Any) -> float:
    return float(np.asarray(value).item())


def _exponent(value: float) -> str:
    """Such as "1.0e-3": Python writes two digits of exponent."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


_FORMATS: dict[str, Callable[[float], str]] = {
    "bpb": lambda value: f"{value:.3f} bpb",
    "validation_bpb": lambda value: f"validation {value:.3f} bpb",
    "bits_per_target_byte": lambda value: f"{value:.3f} bits/target byte",
    "validation_bits_per_target_byte": lambda value: f"validation {value:.3f} bits/target byte",
    "bytes_per_second": lambda value: with_prefix(value, "B/s"),
    "flops_per_second": lambda value: with_prefix(value, "FLOP/s"),
    "utilisation": lambda value: f"{value:.0%} of peak",
    "bytes_per_patch": lambda value: f"{value:.2f} B/patch",
    "overflow": lambda value: f"{value:.2%} overflow",
    "learning_rate": lambda value: f"lr {_exponent(value)}",
    "gradient_norm": lambda value: f"gradient norm {value:.3g}",
    "skipped_steps": lambda value: f"skipped steps {value:.0f}",
}
