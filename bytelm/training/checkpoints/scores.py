"""Scores of checkpoints, and choosing one: that of a step, the last, or the best."""

import json
import math
import warnings
from pathlib import Path
from typing import Any, Literal

from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.core.places import is_address
from bytelm.training.checkpoints.digests import DIGESTS, LOOP, digest_json
from bytelm.training.run_directory import COMMIT

FOLDER = "checkpoints"
"""Where a run directory keeps its checkpoints."""
METRIC = "validation_bits"
"""Key of the score: bits per byte, so lower is better."""
MEASURED_ON = "measured_on"
"""Key of the validation's identity: scores with the same identity can be compared."""
ITEM = "metrics"
"""The item of a checkpoint that holds both."""

Step = int | Literal["best"]
"""A checkpoint's step, or the checkpoint with the best validation."""


def chosen_step(run: Path, step: Step | None) -> int | None:
    """The number of a step (None: the last one); UserError for "best" if none was validated."""
    if step != "best":
        return step
    best = best_step(run.absolute() / FOLDER)
    if best is None:
        raise UserError(
            f"{run} has no checkpoint that was validated; name a step, or leave out --step for "
            "the last one."
        )
    return best


def score_of(bits: float | None, measured_on: str | None) -> dict[str, Any]:
    """A score as JSON values."""
    return {METRIC: bits, MEASURED_ON: measured_on}


def rank(score: dict[str, Any], measured_on: str | None) -> float:
    """The bits of a score; infinite if it was measured on other text."""
    bits: float = score[METRIC]
    return bits if score.get(MEASURED_ON) == measured_on else math.inf


def best_step(folder: Path) -> int | None:
    """The best step of those whose validation is that of the last one; None if there is none."""
    scores = {
        int(path.parents[1].name): _read(path)
        for path in folder.glob(f"*/{ITEM}/{ITEM}")
        # Others are still being written.
        if path.parents[1].name.isdecimal()
        and (not is_address(folder) or (path.parents[1] / COMMIT).exists())
    }
    known = {step: scores[step] for step in sorted(scores) if _is_score(scores[step])}
    if not known:
        return None
    measured_on = known[max(known)].get(MEASURED_ON)
    return min(known, key=lambda step: (rank(known[step], measured_on), -step))


def mend_scores(folder: Path) -> None:
    """Repairs damaged scores of the checkpoints in `folder`, with a warning.

    With a wrong score Orbax would remove the best checkpoint, or open none. The item `loop` holds
    the score too; if that is damaged as well, the checkpoint has none.
    """
    for path in sorted(folder.glob(f"*/{ITEM}/metrics")):
        step = path.parents[1]
        score, digests = _read(path), _read(step / DIGESTS / "metadata")
        wanted = digests.get(ITEM) if isinstance(digests, dict) else None
        if wanted == _digest(score) or (wanted is None and _is_score(score)):
            continue
        known = _read(step / LOOP / "metadata")
        other = None
        if isinstance(known, dict):
            other = score_of(known.get("last_validation"), known.get("validation_identity"))
        if wanted == _digest(other) and _is_score(other):
            write_whole(path, json.dumps(other))
            warnings.warn(f"{path} was damaged and has been repaired.", stacklevel=3)
        else:
            path.parent.rename(step / f"damaged_{ITEM}")
            warnings.warn(
                f"{path} is damaged: checkpoint {step.name} is kept as one without validation.",
                stacklevel=3,
            )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _digest(score: Any) -> str:
    return digest_json(ITEM, score)[ITEM]


def _is_score(score: Any) -> bool:
    return isinstance(score, dict) and isinstance(score.get(METRIC), float)
