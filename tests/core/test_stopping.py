"""Signals that ask a program to stop: sent to this process, with `os._exit` taken away."""

import os
import signal
import threading
import time

import pytest

from bytelm.core import stopping
from bytelm.core.stopping import SIGNALS, Stopped, StopSignals

NAMES = [number.name for number in SIGNALS]


@pytest.fixture
def ended(monkeypatch):
    """Statuses that the process would have ended with, and what lets a test wait for one."""
    statuses: list[int] = []
    happened = threading.Event()

    def end(status):
        statuses.append(status)
        happened.set()

    monkeypatch.setattr(os, "_exit", end)
    return statuses, happened


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # lets Python run the handler


@pytest.mark.parametrize("number", SIGNALS, ids=NAMES)
def test_ends_at_once(number, capfd):
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped) as stopped, StopSignals(owns_process=True):
        send(number)
    assert stopped.value.status == (130 if number == signal.SIGINT else 143)
    assert capfd.readouterr().err == f"stopped on request ({number.name})\n"
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS, ids=NAMES)
def test_deferred_signals_ask_for_a_stop_and_say_so(number, ended):
    statuses, happened = ended
    said, heard = [], threading.Event()

    def say(text):
        said.append(text)
        heard.set()

    with StopSignals(owns_process=True) as signals:
        signals.defer(say)
        assert not signals.requested
        send(number)
        assert signals.requested
        assert heard.wait(20)
        send(signal.SIGTERM)  # `timeout` sends it to the group and to the process
        assert not statuses
        send(signal.SIGINT)
        assert happened.wait(20)
    assert said == [f"stopping on request ({number.name})"]
    assert statuses == [130]


def test_a_command_that_does_not_end_is_ended(ended, monkeypatch, capfd):
    statuses, happened = ended
    monkeypatch.setattr(stopping, "GRACE", 0.0)
    with StopSignals(owns_process=True):
        try:
            send(signal.SIGTERM)
        except Stopped:  # as a library might
            assert happened.wait(20)
    assert set(statuses) == {143}


def test_a_notebook_is_interrupted_and_never_ended(ended, capfd):
    statuses, _ = ended
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        signals.defer(lambda text: None)
        send(signal.SIGINT)
        assert signals.requested
        send(signal.SIGINT)
    assert not statuses
    assert capfd.readouterr() == ("", "")


def test_training_within_a_command_may_end_the_process():
    with StopSignals(owns_process=True):
        assert StopSignals()._owns_process
    assert not StopSignals()._owns_process


def test_hangup_that_the_parent_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(owns_process=True) as signals:
            send(signal.SIGHUP)
            assert not signals.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_to_the_main_one():
    def enter():
        with StopSignals(owns_process=True):
            pass

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
