"""Evaluations during training: those that `train.evaluations` names, with their options."""

import dataclasses
import json
import shlex
import typing
import warnings
from typing import Any

from bytelm.api import LoadedModel
from bytelm.core.checked import did_you_mean, field_types
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.data.open_data import OpenData
from bytelm.evaluation.suite import Evaluation, Scoring, named
from bytelm.evaluation.text import SplitText
from bytelm.training.checkpoints.exported import SavedModel
from bytelm.training.run import Evaluator


def while_training(model: SavedModel, data: OpenData) -> Evaluator:
    """The evaluator of a run, for `bytelm.training.loop.train`.

    Raises:
        UserError: for an evaluation that does not exist, is named twice or does not fit the model.
    """
    suite = [described(words) for words in model.config.train.evaluations]
    names = [evaluation.name for evaluation in suite]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"train.evaluations names {twice} twice; leave one out.")
    loaded = LoadedModel(model)
    for evaluation in suite:
        evaluation.check(loaded)
    scoring = Scoring(max_bytes=model.config.train.evaluation_bytes)
    text = SplitText(data, "validation", record=None)

    def evaluate(saved: SavedModel) -> dict[str, tuple[Figure, ...]]:
        found: dict[str, tuple[Figure, ...]] = {}
        loaded = LoadedModel(saved)
        for evaluation in suite:
            try:
                found[evaluation.name] = evaluation.run(loaded, text, scoring).figures
            except UserError as error:  # such as for a text without words
                warnings.warn(
                    f"the evaluation {evaluation.name} of step {saved.step} failed, and the run "
                    f"goes on: {error}",
                    stacklevel=2,
                )
        return found

    return evaluate


def described(words: str) -> Evaluation:
    """The evaluation of a text such as "robustness kinds=case,delete rates=0.1".

    Raises:
        UserError: for a name or an option that does not exist, or a value of a wrong type.
    """
    try:
        name, *options = shlex.split(words)
    except ValueError:
        raise UserError(
            f"train.evaluations has {words!r}; give the name of an evaluation, and then options as "
            "NAME=VALUE."
        ) from None
    evaluation = named(name)
    kinds = field_types(type(evaluation))
    known = [field.name for field in dataclasses.fields(evaluation)]  # type: ignore[arg-type]
    chosen: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in known:
            have = f"its options are {', '.join(known)}" if known else "it has no options"
            raise UserError(
                f"the evaluation {name} has no option {key}{did_you_mean(key, known)} in "
                f"train.evaluations {words!r}; {have}, each given as NAME=VALUE."
            )
        chosen[key] = _value(value, kinds[key])
    return dataclasses.replace(evaluation, **chosen)  # type: ignore[type-var]


def _value(text: str, kind: Any) -> Any:
    """An option's value: words for texts, numbers and such as JSON, commas between several."""
    if typing.get_origin(kind) is tuple:
        return tuple(_value(part, typing.get_args(kind)[0]) for part in text.split(",") if part)
    if kind is str or typing.get_origin(kind) is typing.Literal:
        return text
    try:
        return json.loads(text.lower().replace("none", "null"))
    except ValueError:
        return text
