"""The program `bytelm`: a command, and the end of its process."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from bytelm.cli.main import run_command
from bytelm.core.stopping import SIGNALS, Stopped


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command, and ends the process with its exit status.

    Args:
        arguments: of the command line; None for those of the process.
    """
    sys.unraisablehook = _say_nothing_of_stops
    try:
        status = run_command(arguments)
    except Stopped as stopped:
        _leave_signals()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # An ordinary end waits for what devices still compute, which may take minutes.
        os._exit(stopped.status)
    _leave_signals()
    sys.exit(status)


def _leave_signals() -> None:
    """What is done stays done with its status; Ctrl-C ends the process without a traceback."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)


def _say_nothing_of_stops(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python drops what a signal raises in a callback of the garbage collector.

    `StopSignals` then ends the process a little later.
    """
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
