"""Hooks of the training loop: when they are due, and that a new one needs no edit of the loop."""

import pytest

from bytelm.training import loop
from bytelm.training.loop import train
from bytelm.training.metrics.record import LoopState
from bytelm.training.run import Hook, standard_hooks
from tests.training.tiny_run import STEPS, stop_after, tiny_config


class Between:
    """A run between two steps."""

    def __init__(self, step, *, hooks_step=0, is_done=False, is_stopping=False):
        self.step, self.is_done, self.is_stopping = step, is_done, is_stopping
        self.loop = LoopState(hooks_step=hooks_step)


@pytest.mark.parametrize(
    ("run", "is_due"),
    [
        (Between(0), False),
        (Between(3), False),
        (Between(4), True),
        (Between(3, is_done=True), True),
        (Between(4, hooks_step=4), False),  # resumed where the hook has run
        (Between(4, hooks_step=3), True),  # or where a stop left it out
        (Between(4, is_stopping=True), False),
    ],
)
def test_when_a_hook_is_due(run, is_due):
    assert Hook(print, every=4).is_due(run) == is_due
    assert Hook(print, every=4, when_stopping=True).is_due(run) == (is_due or run.is_stopping)


def test_a_hook_that_a_stop_leaves_out_is_called_when_the_run_resumes(tmp_path, monkeypatch):
    calls = []
    new = Hook(lambda run: calls.append(run.step), every=2)
    monkeypatch.setattr(loop, "standard_hooks", lambda *a, **b: [new, *standard_hooks(*a, **b)])
    config = tiny_config(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train(config, tmp_path / "run")
    assert calls == [2]
    train(config, tmp_path / "run", resume=True)
    assert calls == [2, 4, STEPS]
