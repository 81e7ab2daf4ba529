"""Runs in this process that are asked to stop, whose text ends early, or whose output fails."""

import dataclasses
import io
import os
import signal
import sys

import pytest

from bytelm.core.errors import StoppedError, UserError
from bytelm.core.stopping import Stopped
from bytelm.data.loader import PackedLoader
from bytelm.training import run
from bytelm.training.checkpoints.checkpoint import Checkpoints, last_step
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.last_error import read_last_error
from bytelm.training.loop import train
from bytelm.training.run import TrainingRun
from bytelm.training.validation import Validation
from tests.training.tiny_run import STEPS, assert_same, params, tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    tiny = tiny_config(tmp_path_factory.mktemp("text"))
    times = {"log_every": 2, "validate_every": 3, "validation_rows": 16, "checkpoint_every": 100}
    return dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, **times))


@pytest.fixture(scope="module")
def whole_run(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    train(config, run)
    return run


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_stop_in_validation_saves_at_once(
    config, whole_run, tmp_path, monkeypatch, capsys, number
):
    evaluate, calls = Validation._evaluate, []

    def stopped(self, *arguments):
        calls.append(arguments)
        send(number)
        return evaluate(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "_evaluate", stopped)
        patch.setattr(run, "show_sample", lambda *_: pytest.fail("samples before it stops"))
        result = train(config, tmp_path)
    assert (result.step, result.interrupted, len(calls)) == (3, True, 1)
    assert last_step(tmp_path) == 3
    assert train(config, tmp_path, resume=True).step == STEPS
    assert_same(params(tmp_path), params(whole_run))


def test_a_save_that_fails_after_a_signal_says_that_it_was_to_stop(config, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        send(signal.SIGTERM)
        raise UserError("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", fails)
    with pytest.raises(StoppedError, match="the disk is full"):
        train(config, tmp_path)
    found = read_last_error(tmp_path)
    assert (found.sentence, found.step, found.stopped) == ("the disk is full", 3, True)


def test_a_stop_before_the_first_step_ends_the_run_at_once(config, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingRun, "_compile", lambda self, batch: send(signal.SIGUSR1))
    with pytest.raises(Stopped):
        train(config, tmp_path)
    assert last_step(tmp_path) is None


@pytest.mark.parametrize("is_asked_to_stop", [False, True])
def test_text_that_cannot_be_read_costs_no_step(
    config, whole_run, tmp_path, monkeypatch, is_asked_to_stop
):
    read, count = PackedLoader.__next__, iter(range(100))

    def fail(self):
        if next(count) < 4:
            return read(self)
        if is_asked_to_stop:
            send(signal.SIGTERM)
        raise OSError(5, "Input/output error", "text.txt")

    with monkeypatch.context() as patch:
        patch.setattr(PackedLoader, "__next__", fail)
        if is_asked_to_stop:
            assert train(config, tmp_path).interrupted
        else:
            with pytest.raises(UserError, match=r"read: .*error: 'text.txt'\. .* of step 4 in"):
                train(config, tmp_path)
    assert last_step(tmp_path) == 4
    assert train(config, tmp_path, resume=True).step == STEPS
    assert_same(params(tmp_path), params(whole_run))


def test_a_fault_of_the_program_is_not_called_bad_text(config, tmp_path, monkeypatch):
    def fail(self):
        raise ZeroDivisionError

    monkeypatch.setattr(PackedLoader, "__next__", fail)
    with pytest.raises(ZeroDivisionError):
        train(config, tmp_path)


def test_a_run_goes_on_where_its_output_cannot_be_written(config, tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))
    with pytest.warns(UserWarning, match=r"cannot be written \(No space left"):
        assert train(short, tmp_path).step == 2
