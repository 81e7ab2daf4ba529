"""Starting a run from the parameters of another run, such as a converted checkpoint."""

from pathlib import Path
from typing import Any

import jax

from bytelm.core.config_json import differences, to_dict
from bytelm.core.errors import UserError
from bytelm.nn.mesh import path_name
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.checkpoints.checkpoint import SavedModel, load_model
from bytelm.training.compatibility import listed
from bytelm.training.distributed import gather_json
from bytelm.training.experiment import ExperimentConfig

_SAME_MEANING = (
    "attention",
    "boundary_gradient",
    "bytes_per_slot",
    "compute_dtype",
    "remat",
    "scaled_init",
    "scan",
    "segmenter.temperature",
    "segmenter.weight",
    "shortening.bias",
    "shortening.integral",
    "shortening.noise",
    "shortening.proportional",
    "shortening.score_weight",
    "shortening.target",
    "shortening.weight",
)
"""Fields of models that may change without changing the meaning of parameters."""


def start_from(
    config: ExperimentConfig,
    params: Any,
    shardings: Any,
    *,
    tokenizer: Tokenizer | None = None,
    verify: bool = True,
) -> tuple[Any, list[str]]:
    """The parameters of the last checkpoint of `train.initial`, and fresh ones that it lacks.

    Args:
        params, shardings: fresh parameters of the new model, and where they are placed.
        tokenizer: of the new run; None for bytes.
        verify: whether to compare the checkpoint with its digests.

    Returns:
        the parameters; and the differences between the two models, as "field: old -> new".

    Raises:
        UserError: if there is no checkpoint; if its parameters mean something else in the new
            model, and `train.initial_differences` does not allow it; or if the new model lacks
            some of them, or has them in other shapes.
    """
    saved, changes = read_initial(config, params, tokenizer=tokenizer, verify=verify)

    def choose(path: Any, leaf: jax.Array, sharding: Any) -> jax.Array:
        name = path_name(path)
        return jax.device_put(saved[name], sharding) if name in saved else leaf

    return jax.tree.map_with_path(choose, params, shardings), changes


def read_initial(
    config: ExperimentConfig, params: Any, *, tokenizer: Tokenizer | None = None, verify: bool
) -> tuple[dict[str, Any], list[str]]:
    """The other run's parameters by name, and the differences; `params` may be abstract."""
    run = str(config.train.initial)
    found = load_model(Path(run), verify=verify)
    if len(set(gather_json(found.step))) > 1:
        raise UserError(f"processes read different checkpoints of train.initial {run}.")
    saved = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(found.params)}
    names = {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    for name, leaf in saved.items():
        if name not in names:
            raise UserError(
                f"train.initial {run} has the parameters {name}, which this model lacks; choose "
                "the family and the sizes that it was trained with."
            )
        if leaf.shape != names[name]:
            raise UserError(
                f"train.initial {run} has {name} of shape {list(leaf.shape)}, and this model has "
                f"{list(names[name])}; choose the sizes that it was trained with."
            )
    return saved, _check_meaning(found, config, tokenizer)


def _check_meaning(
    old: SavedModel, new: ExperimentConfig, tokenizer: Tokenizer | None
) -> list[str]:
    """The differences between two models; UserError if they change the meaning of parameters."""
    before, after = to_dict(old.config.model), to_dict(new.model)
    if isinstance(new.model, type(old.config.model)):
        # A family derived from the old one, such as MrT5 from ByT5, has more fields.
        after = {name: after[name] for name in before if name != "family"}
        before = {name: before[name] for name in after}
    digests = [None if t is None else t.digest for t in (old.tokenizer, tokenizer)]
    found = differences({**before, "tokenizer": digests[0]}, {**after, "tokenizer": digests[1]})
    allowed = (*_SAME_MEANING, *new.train.initial_differences)
    refused = [
        (path, a, b)
        for path, a, b in found
        if not any(path == name or path.startswith(f"{name}.") for name in allowed)
    ]
    if refused:
        names = " ".join(path for path, _, _ in refused)
        raise UserError(
            f"train.initial {new.train.initial} is another model ({'; '.join(listed(refused))}), "
            "in which its parameters mean something else; undo the change, or allow it with "
            f"--train.initial-differences {names}."
        )
    return listed(found)
