"""Choosing a checkpoint of a run: that of a step, the last, or the best."""

from pathlib import Path
from typing import Literal

from bytelm.core.errors import UserError

Step = int | Literal["best"]
"""A checkpoint's step, or the checkpoint that was best in validation."""


def step_of(text: str) -> Step:
    """The value of --step; UserError if it is neither a number nor "best"."""
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise UserError(f"--step is {text!r}; it must be the number of a step, or best.")
    return int(text)


def chosen_step(run: Path, step: Step | None) -> int | None:
    """The step of the chosen checkpoint; None for the last one.

    Raises:
        UserError: if the best one is wanted and none was validated.
    """
    if step != "best":
        return step
    # Here, so that reading options does not wait for the import of Orbax.
    from bytelm.training.checkpoints.checkpoint import FOLDER
    from bytelm.training.checkpoints.scores import best_step

    best = best_step(run.absolute() / FOLDER)
    if best is None:
        raise UserError(
            f"{run} has no checkpoint that was validated; name a step, or leave out --step for "
            "the last one."
        )
    return best
