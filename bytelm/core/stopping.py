"""Signals that ask a program to stop: heard at once, whatever the program is doing."""

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
"""Ctrl-C, what `kill` and `timeout` send, the end of the terminal, and what schedulers send."""
GRACE = 3.0
"""Seconds that a command has to tidy up once it is told to end."""
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
    """Hears `SIGNALS` while it is entered, in the main thread; in other threads it does nothing.

    A signal ends the program at once, by `Stopped`, until `defer` is called. From then on it sets
    `requested`, and a second Ctrl-C ends the program. A SIGHUP that the parent process ignores
    (nohup) stays ignored.

    Python runs handlers in the main thread alone, and only when that thread is not within a call
    that compiles, computes or waits for a disk. So another thread hears the signals too: it says
    what happens, and ends a command that does not end by itself.

    Args:
        owns_process: whether the process is a command, and may be ended as a whole; one where
            training was called from a notebook may not. None: as the context around this one.
    """

    ended = "stopped on request ({})"
    """What is said where a signal ends the program; with the signal's name, as the next."""
    deferred = "stopping on request ({})"
    """What is said once `defer` was called."""
    abandoned = "stopped at once"
    """What is said at a second Ctrl-C after that."""
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
        """Lets a signal set `requested` from now on, and end nothing.

        Args:
            say: tells the user a sentence; called from another thread.
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
        """Says what the first signal does; returns it where the program has to end in time."""
        name = signal.Signals(number).name
        if self._say is not None:
            # In one more thread, since it waits where the output does.
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
