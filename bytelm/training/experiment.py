"""Configs of experiments, which are saved as JSON and rebuilt from it."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytelm.core.checked import Checked, wrong_type
from bytelm.core.config_json import differences, from_dict, to_dict
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.models import ModelConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.optimizer import AdamW, OptimizerConfig
from bytelm.training.upgrades import SCHEMA, upgraded

_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_FORM = re.compile(rf"\s*({_NUMBER})\s*(byte|epoch|flop)s?\s*", re.IGNORECASE)


def parse_budget(text: str) -> tuple[float, str]:
    """Number and unit of "10e9 bytes", "2 epochs" or "1e18 flops"; UserError for other text."""
    form = _FORM.fullmatch(text)
    amount = float(form[1]) if form else 0.0
    if form is None or not 0 < amount < float("inf"):
        raise UserError(
            f"train.budget is {text!r}; give a number and its unit, such as '10e9 bytes', "
            "'2 epochs' or '1e18 flops'."
        )
    return amount, f"{form[2].lower()}s"


@dataclass(frozen=True)
class TrainConfig(Checked, name="train", small=True):
    """How long to train, and when to validate and save."""

    steps: int = 1000
    """Optimiser steps."""
    budget: str | None = None
    """Text or work to spend, such as "10e9 bytes", "2 epochs" or "1e18 flops"; none = `steps`."""
    seed: int = 0
    """Seed of the parameters and of the order of the data."""
    initial: str | None = None
    """Start from the last parameters of this run directory; parameters that the other model lacks,
    such as those of draft heads or a delete gate, start fresh. None = all start fresh."""
    initial_differences: tuple[str, ...] = ()
    """Fields of the model, such as window or segmenter, in which the run of train.initial may
    differ, even though its parameters then mean something else."""
    accumulation: int = 1
    """Divide each batch into so many micro-batches, run one after another to save memory."""
    log_every: int = 10
    """Steps between two records in metrics.jsonl and the display."""
    validate_every: int = 250
    """Steps between two validations; there is always one after the last step."""
    validation_rows: int = 64
    """About how many rows each validation scores, always the same ones: spread over the documents
    of the validation split, and in a mixture over its sources by their weights."""
    evaluations: tuple[str, ...] = ()
    """Evaluations to run during training (`bytelm eval --suite list`), each as its name or as one
    text with options, such as "robustness kinds=case,delete rates=0.1"."""
    evaluate_every: int = 1000
    """Steps between two runs of `evaluations`; there is always one after the last step."""
    evaluation_bytes: int | None = 100_000
    """They read the first so many bytes of the validation split; none = all."""
    sample_bytes: int = 200
    """Bytes of text to generate after each validation; 0 for none."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; there is always one after the last step, and after the best
    validation so far."""
    keep: int = 2
    """How many of the last checkpoints to keep; the best one is kept too."""
    max_skipped: int = 10
    """Steps with a non-finite loss or gradient are skipped; after this many in a row the run
    stops."""
    tensorboard: bool = True
    """Whether to write metrics to TensorBoard files."""
    wandb_project: str | None = None
    """Project of Weights & Biases to log metrics to."""

    def __post_init__(self) -> None:
        may_be_0 = ("seed", "sample_bytes")
        counts = [name for name, value in vars(self).items() if type(value) is int]
        self.require("it must be at least 0", lambda x: x >= 0, *may_be_0)
        self.require_positive(*(name for name in counts if name not in may_be_0))
        if self.budget is not None:
            parse_budget(self.budget)


@dataclass(frozen=True)
class ExperimentConfig(Checked, name="config"):
    """The config of a training run."""

    model: ModelConfig
    """The model; its type is the family."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text to train and validate on."""
    optimizer: OptimizerConfig = field(default_factory=AdamW)
    """The optimiser; its type is the kind."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """The devices."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long to train, and when to validate and save."""


def as_saved(config: ExperimentConfig) -> dict[str, Any]:
    """The config as JSON values, with their schema."""
    return {"schema": SCHEMA, **to_dict(config)}


def from_saved(saved: Any) -> ExperimentConfig:
    """The config of JSON values that this version or an older one saved.

    Raises:
        UserError: for a newer schema, an unknown or missing key, or a value of a wrong type.
    """
    config: ExperimentConfig = from_dict(upgraded(saved), ExperimentConfig)
    return config


def to_json(config: ExperimentConfig) -> str:
    """The config as JSON text."""
    return json.dumps(as_saved(config), indent=2) + "\n"


def saved_form(config: Any) -> ExperimentConfig:
    """The config after it is saved and loaded; UserError if it then differs."""
    if not isinstance(config, ExperimentConfig):
        raise wrong_type(config, ExperimentConfig, "the config")
    try:
        saved = to_json(config)
    except (TypeError, ValueError) as error:  # of json
        raise UserError(f"the config cannot be saved as JSON: {error}.") from None
    loaded = from_saved(json.loads(saved))
    if changed := differences(to_dict(config), to_dict(loaded)):
        path, before, after = changed[0]
        raise UserError(
            f"config.{path} is {before!r}, which a saved config gives back as {after!r}; give it "
            "a type that JSON knows."
        )
    return loaded


def load_json(path: Path) -> ExperimentConfig:
    """Reads a config that `to_json` wrote."""
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable JSON config: {error}.") from None
    try:
        return from_saved(saved)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
