"""Experiment configs: typed, frozen, saved as JSON and rebuilt from it alone."""

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bytelm.data.config import DataConfig
from bytelm.errors import UserError
from bytelm.models import ModelConfig
from bytelm.models.boundary_kinds import BoundaryConfig
from bytelm.models.shortening import ShorteningConfig
from bytelm.training.optimizer import OptimizerConfig
from bytelm.training.sharding import MeshConfig


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to do at which steps."""

    steps: int = 1000
    """Optimiser steps."""
    seed: int = 0
    """Seed of the parameters and of the order of the data."""
    initial: str | None = None
    """Run directory of another run whose last parameters this one starts from; what that model
    lacks, such as a delete gate, starts fresh. None = all parameters start fresh."""
    accumulation: int = 1
    """Into how many pieces, run one after another, each batch is cut to save memory."""
    log_every: int = 10
    """Steps between two records in metrics.jsonl and the display."""
    validate_every: int = 250
    """Steps between two validations; there is one after the last step in any case."""
    validation_rows: int = 64
    """Rows of the validation split that each validation scores, the same ones each time."""
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
        if self.seed >= 2**31:
            raise UserError(f"train.seed is {self.seed}; it must be below 2**31.")


@dataclass(frozen=True)
class ExperimentConfig:
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


def to_dict(config: Any) -> Any:
    """A config as JSON-able dicts, lists and scalars; a model's says its family."""
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        for base, (key, _) in _VARIANTS.items():
            if isinstance(config, base):
                return {key: getattr(config, key), **fields}
        return fields
    if isinstance(config, tuple):
        return [to_dict(item) for item in config]
    return config


def to_json(config: ExperimentConfig) -> str:
    """The config as JSON text."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_dict(saved: Any, kind: Any = ExperimentConfig, where: str = "config") -> Any:
    """Rebuilds what `to_dict` saved.

    Raises:
        UserError: for a key that is unknown or missing, or a value of a wrong type; it names it.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from_dict(saved, kind, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if saved in arguments:
            return saved
    elif origin in (typing.Union, types.UnionType):
        if saved is None and type(None) in arguments:
            return None
        return from_dict(saved, next(a for a in arguments if a is not type(None)), where)
    elif origin is tuple:
        if isinstance(saved, list):
            kinds = arguments[:1] * len(saved) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(saved):
                return tuple(
                    from_dict(item, item_kind, f"{where}[{i}]")
                    for i, (item, item_kind) in enumerate(zip(saved, kinds, strict=True))
                )
    elif kind is float and type(saved) is int:
        return float(saved)
    elif type(saved) is kind:
        return saved
    raise UserError(f"{where} is {saved!r} in the saved config, and should be {_name(kind)}.")


def _dataclass_from_dict(saved: Any, kind: Any, where: str) -> Any:
    if not isinstance(saved, dict):
        raise UserError(f"{where} is {saved!r} in the saved config, and should be an object.")
    if kind in _VARIANTS:
        named, variants = _VARIANTS[kind]
        variant = saved.get(named)
        if variant not in variants:
            raise UserError(
                f"{where}.{named} is {variant!r} in the saved config; this version of bytelm has "
                f"{', '.join(sorted(variants))}."
            )
        kind = variants[variant]
        saved = {key: value for key, value in saved.items() if key != named}
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    for key in saved:
        if key not in names:
            raise UserError(
                f"the saved config has an unknown key {where}.{key}{did_you_mean(key, names)}; "
                "it was written by another version of bytelm."
            )
    for name in names:
        if name not in saved:
            raise UserError(
                f"the saved config lacks the key {where}.{name}; it was written by another "
                "version of bytelm."
            )
    return kind(**{name: from_dict(saved[name], hints[name], f"{where}.{name}") for name in names})


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def load_json(path: Path) -> ExperimentConfig:
    """Reads a config that `to_json` wrote."""
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable JSON config: {error}.") from None
    return from_dict(saved)


def differences(old: Any, new: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every field in which two configs' `to_dict` forms differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in {**old, **new}
            for difference in differences(
                old.get(key), new.get(key), f"{where}.{key}" if where else key
            )
        ]
    return [] if old == new else [(where, old, new)]


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """' (did you mean X?)', or '' if nothing known resembles the word."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
