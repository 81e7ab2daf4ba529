"""The score that a checkpoint is saved with, by which the best one is kept."""

import json
import warnings
from pathlib import Path
from typing import Any

from bytelm.training.digests import digest_json
from bytelm.training.reading import DIGESTS
from bytelm.whole_file import write_whole

METRIC = "validation_bits"
"""The metric, lower is better, by which the best checkpoint is kept."""
ITEM = "metrics"
"""The item of a checkpoint that holds it."""


def mend_scores(folder: Path) -> None:
    """Puts damaged scores of the checkpoints in `folder` right, with a warning.

    Orbax reads them as they are, and would remove the best checkpoint because of a wrong one, or
    open none. A checkpoint's provenance has its score too; where that is damaged as well, the
    checkpoint goes on without one.
    """
    for path in sorted(folder.glob(f"*/{ITEM}/metrics")):
        step = path.parents[1]
        score, digests = _read(path), _read(step / DIGESTS / "metadata")
        wanted = digests.get(ITEM) if isinstance(digests, dict) else None
        if wanted == _digest(score) or (wanted is None and _is_score(score)):
            continue
        known = _read(step / "provenance" / "metadata")
        other = {METRIC: known.get("last_validation_bits")} if isinstance(known, dict) else None
        if wanted == _digest(other) and _is_score(other):
            write_whole(path, json.dumps(other))
            warnings.warn(f"{path} was damaged and is put right.", stacklevel=3)
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
