"""Which checkpoint of a run is meant: a step, the last, or the best."""

from pathlib import Path
from typing import Literal

from bytelm.errors import UserError

Step = int | Literal["best"]
"""A checkpoint's step, or the checkpoint that was best in validation."""


def step_of(text: str) -> Step:
    """What --step says; UserError for neither a number nor "best"."""
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise UserError(f"--step is {text!r}; it must be the number of a step, or best.")
    return int(text)


def chosen_step(run: Path, step: Step | None) -> int | None:
    """The step of the checkpoint that is meant; None for the last one.

    Raises:
        UserError: if the best one is wanted, and none was validated.
    """
    if step != "best":
        return step
    # Here, so that reading a command's options does not wait for Orbax.
    import orbax.checkpoint as ocp

    from bytelm.training.checkpoint import FOLDER, METRIC
    from bytelm.training.plain_path import plain_path

    folder = run.absolute() / FOLDER
    best = None
    if folder.is_dir():
        options = ocp.CheckpointManagerOptions(
            read_only=True, best_fn=lambda metrics: metrics[METRIC], best_mode="min"
        )
        with ocp.CheckpointManager(plain_path(folder), options=options) as manager:
            best = manager.best_step()
    if best is None:
        raise UserError(
            f"{run} has no checkpoint that was validated; name a step, or leave out --step for "
            "the last one."
        )
    return best
