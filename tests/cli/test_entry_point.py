"""The end of the program, with `os._exit` taken away."""

import os
import signal
import sys

import pytest

from bytelm.cli import entry_point, eval
from bytelm.core.stopping import SIGNALS, Stopped


@pytest.fixture(autouse=True)
def handlers():
    hook = sys.unraisablehook
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


class EndedError(BaseException):
    """The process would have ended."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_stopped_program_does_not_wait_for_devices(number, monkeypatch, capfd):
    """Python's own end, by `sys.exit`, waits until they have computed what they began."""

    def end(status):
        raise EndedError(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(eval, "eval_command", lambda arguments: os.kill(os.getpid(), number) or 0)
    with pytest.raises(EndedError) as ended:
        entry_point.run(["eval"])
    assert ended.value.args == (130 if number == signal.SIGINT else 143,)


def test_a_signal_after_the_end_changes_nothing(monkeypatch):
    monkeypatch.setattr(eval, "eval_command", lambda arguments: 0)
    with pytest.raises(SystemExit) as ended:
        entry_point.run(["eval"])
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert ended.value.code == 0


def test_a_stop_that_python_drops_says_nothing(monkeypatch, capfd):
    monkeypatch.setattr(eval, "eval_command", lambda arguments: 0)
    with pytest.raises(SystemExit):
        entry_point.run(["eval"])
    for error in (Stopped(signal.SIGINT), ValueError("something else")):

        class Dropped:
            def __del__(self, error=error):
                raise error

        Dropped()
    shown = capfd.readouterr().err
    assert "something else" in shown and "Stopped" not in shown
