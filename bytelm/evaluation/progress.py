"""The progress of an evaluation: a bar on a terminal with bytes, their rate and the time left."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console

from bytelm.core.console import TerminalConsole
from bytelm.data.progress import bar_of_bytes


@contextlib.contextmanager
def shown_progress(
    what: str, total: int | None, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal, by default standard error, until the work is done.

    `what` is the work, such as "scoring", and `total` its bytes; None if unknown.

    Yields:
        a function to call with the number of bytes just done.
    """
    console = console or TerminalConsole(sys.stderr)
    with bar_of_bytes(console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def counted(documents: Iterable[bytes], done: Callable[[int], None]) -> Iterator[bytes]:
    """The documents; each counts as done when the next one is asked for."""
    for document in documents:
        yield document
        done(len(document))
