"""Experiment configs: typed, frozen, saved as JSON and rebuilt from it alone."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytelm.core.checked import Checked, converted, did_you_mean, field_types, wrong_type
from bytelm.core.errors import UserError
from bytelm.core.variants import check_known, defined_in
from bytelm.data.config import DataConfig
from bytelm.models import ModelConfig
from bytelm.models.t5.shortening import ShorteningConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.patching.segmenter import BoundaryConfig
from bytelm.training.budget import parse_budget
from bytelm.training.optimizer import OptimizerConfig


@dataclass(frozen=True)
class TrainConfig(Checked, name="train", small=True):
    """How long to train, and what to do at which steps."""

    steps: int = 1000
    """Optimiser steps."""
    budget: str | None = None
    """Text or work to spend, in place of `steps`, which follow from it: such as "10e9 bytes",
    "2 epochs" or "1e18 flops"; none = as many as `steps` says."""
    seed: int = 0
    """Seed of the parameters and of the order of the data."""
    initial: str | None = None
    """Run directory of another run whose last parameters this one starts from; what that model
    lacks, such as a delete gate, starts fresh. None = all parameters start fresh."""
    initial_differences: tuple[str, ...] = ()
    """Fields of the model, such as window or boundary, in which the run of train.initial may differ
    though parameters then mean something else."""
    accumulation: int = 1
    """Into how many pieces, run one after another, each batch is cut to save memory."""
    log_every: int = 10
    """Steps between two records in metrics.jsonl and the display."""
    validate_every: int = 250
    """Steps between two validations; there is one after the last step in any case."""
    validation_rows: int = 64
    """About how many rows each validation scores, the same ones each time: spread over the
    documents of the validation split, and in a mixture over its sources by their weights."""
    sample_bytes: int = 200
    """Bytes of text generated after each validation; 0 for none."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; there is one after the last step in any case, and one when
    validation is the best so far."""
    keep: int = 2
    """How many of the last checkpoints are kept, besides the best."""
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
    """What it is trained and validated on."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How it is trained."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Over which devices."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """For how long."""


_VARIANTS: dict[type, tuple[str, dict[str, Any]]] = {
    ModelConfig: ("family", ModelConfig.families),
    BoundaryConfig: ("kind", BoundaryConfig.kinds),
    ShorteningConfig: ("kind", ShorteningConfig.kinds),
}
"""Classes that stand for their registered subclasses: the key that names one, and all of them."""

_DEFINED_IN = "defined_in"
"""Key of a saved variant of a user's own: the file or module that defines it."""
_ADDED: dict[str, Any] = {"split_above": None, "budget": None, "initial_differences": []}
"""Fields that configs saved before they existed lack, and what those runs did."""


def to_dict(config: Any) -> Any:
    """A config as JSON-able dicts, lists and scalars; a model's says its family.

    A family of a user's own says where it is defined too.

    Raises:
        UserError: for a variant that has no name of its own, and so could not be told on loading.
    """
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        for base, (key, _) in _VARIANTS.items():
            if isinstance(config, base):
                kind = type(config)
                if key not in vars(kind):
                    raise UserError(
                        f"{kind.__qualname__} derives from {base.__name__} and has no {key} of its "
                        f"own, by which it could be loaded; give the class one, as in `{key}: "
                        'ClassVar[str] = "mine"`.'
                    )
                origin = defined_in(kind)
                return {
                    key: getattr(kind, key),
                    **({} if origin is None else {_DEFINED_IN: origin}),
                    **fields,
                }
        return fields
    if isinstance(config, tuple):
        return [to_dict(item) for item in config]
    return config


def to_json(config: ExperimentConfig) -> str:
    """The config as JSON text."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def saved_form(config: Any) -> ExperimentConfig:
    """An experiment's config as a run that is saved and loaded has it.

    Raises:
        UserError: if it is no config that can be saved and loaded; nothing should run with it.
    """
    if not isinstance(config, ExperimentConfig):
        raise wrong_type(config, ExperimentConfig, "the config")
    try:
        saved = to_json(config)
    except (TypeError, ValueError) as error:  # of json
        raise UserError(f"the config cannot be saved as JSON: {error}.") from None
    loaded = from_dict(json.loads(saved))
    if changed := differences(to_dict(config), to_dict(loaded)):
        path, before, after = changed[0]
        raise UserError(
            f"config.{path} is {before!r}, which a saved config gives back as {after!r}; give it "
            "a type that JSON knows."
        )
    return loaded


def from_dict(saved: Any, kind: Any = ExperimentConfig, where: str = "config") -> Any:
    """Rebuilds what `to_dict` saved, of type `kind`.

    Raises:
        UserError: for a key that is unknown or missing, or a value of a wrong type; it names it.
    """
    arguments = typing.get_args(kind)
    nested = [k for k in (kind, *arguments) if isinstance(k, type) and dataclasses.is_dataclass(k)]
    if saved is None and type(None) in arguments:
        return None
    if nested and typing.get_origin(kind) is tuple and isinstance(saved, list):
        return tuple(from_dict(item, nested[0], f"{where}[{i}]") for i, item in enumerate(saved))
    if nested and typing.get_origin(kind) is not tuple:
        return _dataclass_from_dict(saved, nested[0], where)
    return converted(saved, kind, where)


def _dataclass_from_dict(saved: Any, kind: Any, where: str) -> Any:
    if not isinstance(saved, dict):
        raise UserError(f"{where} is {saved!r} in the saved config, and should be an object.")
    if kind in _VARIANTS:
        named, variants = _VARIANTS[kind]
        check_known(variants, saved.get(named), f"{where}.{named}", saved.get(_DEFINED_IN))
        kind = variants[saved[named]]
        saved = {key: value for key, value in saved.items() if key not in (named, _DEFINED_IN)}
    hints = field_types(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    for key in saved:
        if key not in names:
            raise UserError(
                f"the saved config has an unknown key {where}.{key}{did_you_mean(key, names)}; "
                "it was written by another version of bytelm."
            )
    saved = {name: _ADDED[name] for name in names if name in _ADDED} | saved
    for name in names:
        if name not in saved:
            raise UserError(
                f"the saved config lacks the key {where}.{name}; it was written by another "
                "version of bytelm."
            )
    return kind(**{name: from_dict(saved[name], hints[name], f"{where}.{name}") for name in names})


def load_json(path: Path) -> ExperimentConfig:
    """Reads a config that `to_json` wrote."""
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable JSON config: {error}.") from None
    try:
        return from_dict(saved)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def differences(old: Any, new: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every field in which two configs' `to_dict` forms differ.

    Where a user's family is defined is no field: its file may be moved.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in {**old, **new}
            if key != _DEFINED_IN
            for difference in differences(
                old.get(key), new.get(key), f"{where}.{key}" if where else key
            )
        ]
    return [] if old == new else [(where, old, new)]
