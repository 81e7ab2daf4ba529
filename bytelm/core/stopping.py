"""Signals that ask a program to stop: noticed at once, whatever it is doing."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import ClassVar, NoReturn, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""From Ctrl-C, `kill` and `timeout`, a closed terminal, and schedulers."""
GRACE = 3.0
"""Seconds that a command has to clean up before its process is ended."""
_INTERRUPTED, _TERMINATED = 130, 143
_CLOSE = b"\0"
_SHOW_CURSOR = b"\x1b[?25h"


class Stopped(KeyboardInterrupt):
    """A signal has ended a program.

    Attributes:
        status: its exit status: 130 after Ctrl-C, 143 after other signals.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = _INTERRUPTED if number == signal.SIGINT else _TERMINATED


class StopSignals:
    """A context that handles `SIGNALS`; outside the main thread it does nothing.

    Until `defer` is called, a signal raises `Stopped`. After that, it sets `requested`, and a
    second Ctrl-C ends the program. A SIGHUP that the parent process ignores (nohup) stays ignored.

    Python runs handlers only in the main thread, and only between calls that compile, compute or
    wait for a disk. So a second thread watches for signals too: it prints what happens, and ends a
    command that does not end by itself.

    Args:
        owns_process: whether the whole process may be ended: yes for a command, no in a notebook.
            None takes the value of the surrounding context.
    """

    ended = "stopped on request ({})"
    """Printed when a signal ends the program; `{}` is the signal's name."""
    deferred = "stopping on request ({})"
    """Printed instead after `defer` was called."""
    abandoned = "stopped at once"
    """Printed at a second Ctrl-C after that."""
    _in_command: ClassVar[bool] = False

    def __init__(self, owns_process: bool | None = None) -> None:
        self.requested = False
        self._owns_process = self._in_command if owns_process is None else owns_process
        self._say: Callable[[str], None] | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        undo = self._exit.callback
        undo(setattr, StopSignals, "_in_command", self._in_command)
        StopSignals._in_command = self._owns_process
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        thread = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        thread.start()
        undo(os.close, writer)
        undo(os.close, reader)
        undo(thread.join)
        undo(os.write, writer, _CLOSE)
        undo(signal.set_wakeup_fd, signal.set_wakeup_fd(writer))
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                undo(signal.signal, number, signal.signal(number, self._handle))
        return self

    def __exit__(self, *exception: object) -> None:
        self._exit.close()

    def defer(self, say: Callable[[str], None]) -> None:
        """From now on, a first signal only sets `requested`.

        `say` prints a sentence for the user; it is called from another thread.
        """
        self._say = say

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Runs in the main thread, as soon as that is back in Python."""
        again, self.requested = self.requested, True
        at_once = self._say is None and not again
        if at_once or (again and number == signal.SIGINT and not self._owns_process):
            raise Stopped(number)

    def _listen(self, reader: int) -> None:
        """Runs in a thread of its own, until `_CLOSE`."""
        ending = None
        heard = False
        while True:
            in_time, _, _ = select.select([reader], [], [], None if ending is None else GRACE)
            if ending is not None and not in_time:
                _end(ending)
            number = os.read(reader, 1)[0]
            if number == _CLOSE[0]:
                return
            if number not in SIGNALS:
                continue
            if not heard:
                ending = self._first(number)
            elif number == signal.SIGINT and self._owns_process:
                if self._say is not None:
                    _tell(self.abandoned)
                _end(number)
            heard = True

    def _first(self, number: int) -> int | None:
        """Prints what the first signal does; returns it if the program now has `GRACE` seconds."""
        name = signal.Signals(number).name
        if self._say is not None:
            # In one more thread, since printing may block.
            text = self.deferred.format(name)
            threading.Thread(target=self._say, args=(text,), daemon=True).start()
        elif self._owns_process:
            _tell(self.ended.format(name))
            return number
        return None


def _tell(text: str) -> None:
    """Writes past Python's buffers, whose locks the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode() + b"\n")


def _end(number: int) -> NoReturn:
    if sys.stdout is not None and sys.stdout.isatty():
        os.write(1, _SHOW_CURSOR)
    os._exit(Stopped(number).status)
