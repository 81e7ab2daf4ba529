"""Progress of long work on text: a bar on a terminal, a line elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bytelm.core.console import TerminalConsole
from bytelm.core.terminal_text import printable_name

QUIET_SECONDS = 1.0
"""Shorter work shows nothing."""
REPEAT_SECONDS = 60.0
"""How often long work says where it stands, if there is no terminal."""


def _bar(console: TerminalConsole, *, counts: bool = False, **options: Any) -> Progress:
    """A bar with the bytes done and their rate, or counts, and the time left; it vanishes."""
    text = TextColumn("{task.description}", markup=False)
    done = (MofNCompleteColumn(),) if counts else (DownloadColumn(), TransferSpeedColumn())
    columns = (BarColumn(), *done, TimeRemainingColumn())
    return Progress(text, *columns, console=console, transient=True, **options)


class TextProgress:
    """A context in which `advance` counts finished bytes of text, shown on standard error.

    Threads may share it.

    Args:
        action: the work, such as `packing x.txt (train)`.
        total: bytes of all the work.
        done: bytes that a stopped process has finished before.
    """

    def __init__(self, action: str, total: int, *, done: int = 0) -> None:
        self._action = printable_name(action)
        self._parts = ""
        self._total = total
        self._before = self._done = done
        self._console = TerminalConsole(sys.stderr)
        self._begin = time.monotonic()
        self._next = self._begin + QUIET_SECONDS
        self._bar: Progress | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "TextProgress":
        return self

    def advance(self, size: int) -> None:
        with self._lock:
            self._done += size
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)
            elif time.monotonic() >= self._next:
                self._show()

    def count(self, parts: str) -> None:
        """Shows how many parts are done, such as `3 of 40 shards`."""
        with self._lock:
            self._parts = f", {parts}"
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], description=self._action + self._parts)

    def leave_out(self, size: int) -> None:
        """Work of so many bytes was done by another process."""
        with self._lock:
            self._total -= size
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], total=self._total)

    def _show(self) -> None:
        if self._console.is_terminal:
            self._bar = _bar(self._console)
            task = self._action + self._parts
            self._bar.add_task(task, total=self._total, completed=self._done)
            self._bar.start()
        elif self._next == self._begin + QUIET_SECONDS:
            self._next = self._begin + REPEAT_SECONDS
            self._print(f"{self._total / 1e6:,.1f} MB")
        else:
            self._next += REPEAT_SECONDS
            done, total = f"{self._done / 1e6:,.1f}", f"{self._total / 1e6:,.1f}"
            left = (self._total - self._done) / 1e6 / max(self._speed(), 1e-9) / 60
            about = f"{self._parts}, {max(left, 0):,.0f} minutes left"
            self._print(f"{done} of {total} MB at {self._speed():.1f} MB/s{about}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            if kind is None:
                self._print(f"{self._done / 1e6:,.1f} MB at {self._speed():.1f} MB/s")

    def _speed(self) -> float:
        """MB/s."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        return (self._done - self._before) / 1e6 / seconds

    def _print(self, amount: str) -> None:
        self._console.print(f"{self._action}: {amount}", soft_wrap=True)


@contextlib.contextmanager
def shown_progress(
    what: str, total: int | None, *, done: int = 0, counts: bool = False
) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal, and nothing elsewhere, until the work is done.

    Args:
        what: the work, such as "scoring".
        total: bytes to do; None if unknown.
        done: of these, what was done before.
        counts: whether they are no bytes but a count of something.

    Yields:
        a function to call with the number of bytes just done.
    """
    console = TerminalConsole(sys.stderr)
    with _bar(console, counts=counts, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def counted(documents: Iterable[bytes], done: Callable[[int], None]) -> Iterator[bytes]:
    """The documents; each counts as done when the next one is asked for."""
    for document in documents:
        yield document
        done(len(document))
