"""The progress of an evaluation: a bar on a terminal with bytes, their rate and the time left."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bytelm.core.console import TerminalConsole


@contextlib.contextmanager
def shown_progress(
    what: str, total: int | None, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal until the work is done.

    Args:
        what: the work, such as "scoring".
        total: bytes to do; None if unknown.
        console: None for standard error.

    Yields:
        a function to call with the number of bytes just done.
    """
    console = console or TerminalConsole(sys.stderr)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}"),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def counted(documents: Iterable[bytes], done: Callable[[int], None]) -> Iterator[bytes]:
    """The documents; each counts as done when the next one is asked for."""
    for document in documents:
        yield document
        done(len(document))
