"""Timing several ways of doing one thing in turns, and showing what came of it."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bytelm.training.hardware import describe_machine


@dataclass(frozen=True)
class Timing:
    """Seconds that the repetitions of one contender took."""

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
    """Times contenders in turns (A B A B ...), so that noise of the machine meets all of them.

    Args:
        contenders: by name, functions that return when their work is done, not merely dispatched.
        rounds: timed calls of each.
        warm_up: calls of each before them, which compile and fill caches.
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


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table (first column left, the others right) and the machine it is from."""
    table = Table(title=title, caption=describe_machine())
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
