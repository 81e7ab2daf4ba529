"""Moving checkpoints out of a run that continues without them; they are never removed."""

import shutil
from pathlib import Path

from bytelm.training.run_directory import LOCK, new_run_directory

_NOT_COPIED = (LOCK, "wandb_id")
"""Files that belong to one run directory alone."""


def unreadable(folder: Path, steps: list[int]) -> None:
    """Moves unreadable checkpoints out of `folder`, each to a directory next to it."""
    for step in sorted(steps, reverse=True):
        aside = new_run_directory(folder.with_name(f"unreadable_checkpoint_{step}"))
        (folder / str(step)).rename(aside)


def as_run(folder: Path, steps: list[int], start: int) -> Path:
    """Makes a run of the checkpoints after the step `start`; returns its directory.

    This is inside the directory of the run, and has copies of its files, such as config and
    metrics, so it can be evaluated and resumed. The latest checkpoint is moved first, so that the
    rest is a whole run at any moment.
    """
    run = folder.parent
    aside = new_run_directory(run / f"after_step_{start}")
    (aside / folder.name).mkdir()
    try:
        for file in run.iterdir():
            if file.is_file() and file.name not in _NOT_COPIED:
                shutil.copy2(file, aside / file.name)
    except OSError:  # such as a full disk; nothing has been moved yet
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for step in sorted(steps, reverse=True):
        (folder / str(step)).rename(aside / folder.name / str(step))
    return aside
