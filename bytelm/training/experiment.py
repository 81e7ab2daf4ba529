"""Experiment configs: typed, frozen, saved as JSON and rebuilt from it alone."""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bytelm.core.checked import Checked, wrong_type
from bytelm.core.config_json import differences, from_dict, to_dict
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.models import ModelConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.optimizer import AdamW, OptimizerConfig
from bytelm.training.upgrades import SCHEMA, upgraded

BudgetUnit = Literal["bytes", "epochs", "flops"]
_FORM = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(byte|epoch|flop)s?\s*", re.IGNORECASE)


class Budget(NamedTuple):
    """An amount of text or work: bytes, passes over the text, or FLOPs of training."""

    amount: float
    unit: BudgetUnit


def parse_budget(text: str) -> Budget:
    """Reads a budget such as "10e9 bytes", "2 epochs" or "1e18 flops".

    Raises:
        UserError: for anything else.
    """
    form = _FORM.fullmatch(text)
    try:
        amount = float(form[1]) if form else 0.0
    except ValueError:
        amount = 0.0
    if form is None or not 0 < amount < float("inf"):
        raise UserError(
            f"train.budget is {text!r}; give a number and its unit, such as '10e9 bytes', "
            "'2 epochs' or '1e18 flops'."
        )
    units: dict[str, BudgetUnit] = {"byte": "bytes", "epoch": "epochs", "flop": "flops"}
    return Budget(amount, units[form[2].lower()])


@dataclass(frozen=True)
class TrainConfig(Checked, name="train", small=True):
    """How long to train, and what to do at which steps."""

    steps: int = 1000
    """Optimiser steps."""
    budget: str | None = None
    """Text or work to spend, which sets `steps`: such as "10e9 bytes", "2 epochs" or "1e18 flops";
    none = as many steps as `steps` says."""
    seed: int = 0
    """Seed of the parameters and of the order of the data."""
    initial: str | None = None
    """Run directory of another run whose last parameters this one starts from; parameters that the
    other model lacks, such as a delete gate, start fresh. None = all parameters start fresh."""
    initial_differences: tuple[str, ...] = ()
    """Fields of the model, such as window or segmenter, in which the run of train.initial may
    differ, though its parameters then mean something else."""
    accumulation: int = 1
    """Micro-batches, run one after another to save memory, that each batch is divided into."""
    log_every: int = 10
    """Steps between two records in metrics.jsonl and the display."""
    validate_every: int = 250
    """Steps between two validations; the last step is always followed by one."""
    validation_rows: int = 64
    """About how many rows each validation scores, the same ones each time: spread over the
    documents of the validation split, and in a mixture over its sources by their weights."""
    sample_bytes: int = 200
    """Bytes of text generated after each validation; 0 for none."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; there is always one after the last step, and one when the
    validation is the best so far."""
    keep: int = 2
    """How many of the last checkpoints are kept; the best one is kept too."""
    max_skipped: int = 10
    """Steps with a non-finite loss or gradient are skipped; after this many in a row the run
    stops."""
    tensorboard: bool = True
    """Whether metrics go to TensorBoard files too."""
    wandb_project: str | None = None
    """Weights & Biases project that metrics go to too."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            least = 0 if item.name in ("seed", "sample_bytes") else 1
            if type(value) is int and value < least:
                raise UserError(f"train.{item.name} is {value}; it must be at least {least}.")
        if self.budget is not None:
            parse_budget(self.budget)


@dataclass(frozen=True)
class ExperimentConfig(Checked, name="config"):
    """Everything that decides the outcome of a training run."""

    model: ModelConfig
    """The model; its type is the family."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text that it is trained and validated on."""
    optimizer: OptimizerConfig = field(default_factory=AdamW)
    """How it is trained."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """The devices that it is trained on."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long it is trained, and when it is validated and saved."""


def as_saved(config: ExperimentConfig) -> dict[str, Any]:
    """The config as JSON values, with the schema they are in."""
    return {"schema": SCHEMA, **to_dict(config)}


def from_saved(saved: Any) -> ExperimentConfig:
    """The config of JSON values that this version or an older one saved.

    Raises:
        UserError: for a newer schema, a key that is unknown or missing, or a value of a wrong type.
    """
    config: ExperimentConfig = from_dict(upgraded(saved), ExperimentConfig)
    return config


def to_json(config: ExperimentConfig) -> str:
    """The config as JSON text."""
    return json.dumps(as_saved(config), indent=2) + "\n"


def saved_form(config: Any) -> ExperimentConfig:
    """The config as it comes back when it is saved and loaded.

    Raises:
        UserError: if it cannot be saved and loaded; nothing should run with it.
    """
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
