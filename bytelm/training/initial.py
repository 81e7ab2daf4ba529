"""A run that starts from the parameters of another one, such as a converted checkpoint."""

from pathlib import Path
from typing import Any

import jax

from bytelm.errors import UserError
from bytelm.training.checkpoint import load_model
from bytelm.training.sharding import path_name


def start_from(run: str, params: Any, shardings: Any) -> Any:
    """Fresh parameters, with those in their place that the last checkpoint of another run has.

    Args:
        run: its run directory.
        params: of the new model.
        shardings: of them, in their structure.

    Raises:
        UserError: if there is no checkpoint, or it has parameters that the new model lacks or that
            have another shape there. What it lacks itself, such as a delete gate, stays fresh.
    """
    saved = {
        path_name(path): leaf
        for path, leaf in jax.tree.leaves_with_path(load_model(Path(run)).params)
    }
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

    def choose(path: Any, leaf: jax.Array, sharding: Any) -> jax.Array:
        name = path_name(path)
        return jax.device_put(saved[name], sharding) if name in saved else leaf

    return jax.tree.map_with_path(choose, params, shardings)
