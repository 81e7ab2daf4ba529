"""The program `bytelm`: runs a command and ends the process."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from bytelm.cli.main import main
from bytelm.core.stopping import SIGNALS, Stopped


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command (None: that of the command line) and ends the process with its exit status."""
    sys.unraisablehook = _say_nothing_of_stops
    try:
        status = main(arguments)
    except Stopped as stopped:
        _leave_signals()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # Python's own exit would wait for the devices, which may take minutes.
        os._exit(stopped.status)
    _leave_signals()
    sys.exit(status)


def _leave_signals() -> None:
    """Makes signals neither change the exit status nor print a traceback."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)


def _say_nothing_of_stops(unraisable: "sys.UnraisableHookArgs") -> None:
    """Hides a `Stopped` that is raised in the garbage collector, which cannot pass it on.

    `StopSignals` then ends the process a little later.
    """
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
