"""Learning rates that jump when a run goes on with another config."""

import dataclasses

import pytest

from bytelm.models.transformer import TransformerConfig
from bytelm.training.compatibility import rate_change
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW


def config(steps: int, schedule: str = "cosine", **optimizer) -> ExperimentConfig:
    return ExperimentConfig(
        TransformerConfig(),
        optimizer=AdamW(schedule=schedule, learning_rate=0.01, **optimizer),
        train=TrainConfig(steps=steps),
    )


@pytest.mark.parametrize("schedule", ["cosine", "quarter_cosine"])
def test_extending_a_schedule_that_ends(schedule):
    old, new = config(100, schedule), config(200, schedule)
    told = rate_change(old, new, 100, 100)
    rates = [c.optimizer.learning_rates(c.train.steps)(100) for c in (new, old)]
    assert f"jumps: {rates[0]:.3g} at step 101, where the config before has {rates[1]:.3g}" in told
    assert rates[1] == pytest.approx(0.001)
    assert "choose --optimizer.schedule constant, or warmup_stable_decay" in told


def test_a_schedule_that_can_be_extended():
    assert rate_change(config(100, "constant"), config(200, "constant"), 100, 100) is None
    old, new = config(100, "warmup_stable_decay"), config(200, "warmup_stable_decay")
    assert rate_change(old, new, 79, 79) is None
    told = rate_change(old, new, 95, 95)
    assert "0.01 at step 96" in told and "resume before its decay, with --step up to 80" in told
    warming = config(100, "constant", warmup=0.5), config(200, "constant", warmup=0.5)
    assert "set optimizer.warmup" in rate_change(*warming, 50, 50)


def test_a_changed_optimizer_needs_no_advice():
    slower = dataclasses.replace(config(100), optimizer=AdamW(learning_rate=0.005))
    told = rate_change(config(100), slower, 10, 10)
    assert told.startswith("the learning rate jumps: 0.0049") and "choose" not in told
    assert rate_change(config(100), config(100, beta1=0.8), 10, 10) is None


def test_skipped_steps_do_not_move_the_schedule():
    told = rate_change(config(100), config(200), 50, 40)
    assert "at step 51" in told
    assert f"{config(200).optimizer.learning_rates(200)(40):.3g}" in told
