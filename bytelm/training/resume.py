"""Whether a run may go on with a config that differs from the one it was started with."""

from typing import Any

import jax

from bytelm.config import ExperimentConfig, differences, to_dict
from bytelm.errors import UserError
from bytelm.training.sharding import path_name

FREE = (
    "mesh.",
    "data.cache_dir",
    "data.tokenizer",  # where it is; what it is, the fingerprint of the data tells
    "data.workers",
    "train.log_every",
    "train.validate_every",
    "train.sample_bytes",
    "train.checkpoint_every",
    "train.keep",
    "train.max_skipped",
    "train.tensorboard",
    "train.wandb_project",
)
"""Fields that decide where a run happens and what it reports, not what it computes."""


def outcome_changes(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """The fields that change the outcome in which two configs differ, as "path: old -> new"."""
    return [
        f"{path}: {before!r} -> {after!r}"
        for path, before, after in differences(to_dict(old), to_dict(new))
        if not path.startswith(FREE)
    ]


def check_change(
    old: ExperimentConfig,
    new: ExperimentConfig,
    *,
    allowed: bool,
    old_state: Any,
    new_state: Any,
) -> None:
    """Raises UserError unless a run of config `old` may resume with config `new`.

    Args:
        allowed: the user's word that fields that change the outcome may differ.
        old_state, new_state: the abstract training states of the two; if they differ in
            structure or shapes, nothing can be carried over, whatever is allowed.
    """
    changed = outcome_changes(old, new)
    if not changed:
        return
    listed = "; ".join(changed)
    if _shapes(old_state) != _shapes(new_state):
        raise UserError(
            f"the run was started with another model or optimiser ({listed}), whose saved "
            "parameters do not fit; undo the change, or start a new run."
        )
    if not allowed:
        raise UserError(
            f"the run was started with another config ({listed}); undo the change, or add "
            "--allow-config-change to go on with it."
        )


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(state)}
