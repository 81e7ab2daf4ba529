"""Progress of long work on text: a bar on a terminal, a line elsewhere."""

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bytelm.core.console import TerminalConsole
from bytelm.core.terminal_text import printable_name

QUIET_SECONDS = 1.0
"""Shorter work shows nothing."""


class TextProgress:
    """A context in which `advance` counts finished bytes of text.

    Args:
        action: the work, such as `packing x.txt (train)`.
        total: bytes of all the work.
        done: bytes that a stopped process has finished before.
        file: where to show it; None = standard error.
    """

    def __init__(
        self, action: str, total: int, *, done: int = 0, file: TextIO | None = None
    ) -> None:
        self._action = printable_name(action)
        self._total = total
        self._before = self._done = done
        self._console = TerminalConsole(file or sys.stderr)
        self._begin = time.monotonic()
        self._shown = False
        self._bar: Progress | None = None

    def __enter__(self) -> "TextProgress":
        return self

    def advance(self, size: int) -> None:
        self._done += size
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif not self._shown and time.monotonic() - self._begin >= QUIET_SECONDS:
            self._show()

    def _show(self) -> None:
        self._shown = True
        if self._console.is_terminal:
            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            text = TextColumn("{task.description}", markup=False)
            self._bar = Progress(text, *columns, console=self._console, transient=True)
            self._bar.add_task(self._action, total=self._total, completed=self._done)
            self._bar.start()
        else:
            self._print(f"{self._action}: {self._total / 1e6:,.1f} MB at {self._speed():.1f} MB/s")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is None:
            return
        self._bar.stop()
        if kind is None:
            self._print(f"{self._action}: {self._done / 1e6:,.1f} MB at {self._speed():.1f} MB/s")

    def _speed(self) -> float:
        """MB per second of this process."""
        return (self._done - self._before) / 1e6 / max(time.monotonic() - self._begin, 1e-9)

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
