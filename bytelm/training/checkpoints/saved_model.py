"""A stored model: its config, parameters and provenance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import SingleDeviceSharding

from bytelm.models.parameters import abstract_model
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.loop_state import LoopState


@dataclass(frozen=True)
class SavedModel:
    """A model from a checkpoint: `nnx.merge(graphdef, params)` is the model."""

    config: ExperimentConfig
    step: int
    graphdef: nnx.GraphDef
    params: dict[str, Any]
    provenance: dict[str, Any]
    loop: LoopState | None = None
    """State of the training loop; None for a model that was not trained by bytelm."""
    tokenizer: Tokenizer | None = None
    run: Path | None = None
    """Its run directory or exported folder."""


def restore_target(config: ExperimentConfig) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model of a config without its parameters, and their shapes and dtypes, on one device."""
    graphdef, abstract = abstract_model(config.model)
    device = SingleDeviceSharding(jax.local_devices()[0])
    return graphdef, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        nnx.to_pure_dict(abstract),
    )
