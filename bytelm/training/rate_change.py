"""What a changed config does to the learning rate of a run that is resumed."""

import math

from bytelm.training.experiment import ExperimentConfig

TOLERANCE = 0.01
"""Relative difference of two rates up to which nobody needs to be told."""


def rate_change(
    old: ExperimentConfig, new: ExperimentConfig, step: int, updates: int
) -> str | None:
    """A sentence on how the learning rate jumps, with both rates; None if it does not.

    Args:
        old: the config so far.
        new: the config from now on.
        step: the last one that was done.
        updates: how often the schedule has moved on; it stands still in a step that is skipped.
    """
    before, after = (
        float(config.optimizer.learning_rates(config.train.steps)(updates)) for config in (old, new)
    )
    if math.isclose(before, after, rel_tol=TOLERANCE):
        return None
    told = (
        f"the learning rate jumps: {after:.3g} at step {step + 1}, where the config before has "
        f"{before:.3g}"
    )
    if new.train.steps == old.train.steps or new.optimizer != old.optimizer:
        return told
    return f"{told}; {_advice(old, step)}"


def _advice(old: ExperimentConfig, step: int) -> str:
    """How a run of the same optimiser is trained longer without a jump."""
    schedule = old.optimizer.schedule
    decay = old.train.steps - max(1, round(old.optimizer.decay * old.train.steps))
    if schedule == "warmup_stable_decay" and step >= decay:
        return f"to train longer without a jump, resume before its decay, with --step up to {decay}"
    if schedule in ("warmup_stable_decay", "constant"):
        return "its warm-up is a share of all steps; set optimizer.warmup to one that is over"
    return (
        f"a {schedule} schedule ends with its run: for one that can be trained longer choose "
        "--optimizer.schedule constant, or warmup_stable_decay, which goes on before its decay"
    )
