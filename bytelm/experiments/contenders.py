"""Shared by the declarations of ablations and comparisons: contenders, changes to configs."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.renamed import OPTIONS, RESHAPED


class Declaration(Protocol):
    """An ablation or a comparison, as its file declares it."""

    @property
    def contenders(self) -> Mapping[str, Any]: ...
    @property
    def learning_rates(self) -> tuple[float, ...]: ...
    @property
    def runs_each(self) -> int: ...


def count_tasks(declared: Declaration) -> tuple[int, int]:
    """How many runs the sweep of learning rates has, and how many runs there are in all."""
    contenders, rates = len(declared.contenders), len(declared.learning_rates)
    sweep = contenders * rates if rates > 1 else 0
    return sweep, sweep + contenders * declared.runs_each


def check_lists(what: str, **lists: Sequence[Any] | Mapping[Any, Any]) -> None:
    """Raises UserError for a list that is empty, repeats itself, or must be above 0."""
    for name, values in lists.items():
        if not values:
            raise UserError(f"the {what} has no {name}; give at least one.")
        if len(set(values)) < len(values):
            raise UserError(f"the {what} names one of its {name} twice: {values}.")
        if name in ("budgets", "learning_rates") and min(values) <= 0:
            raise UserError(f"{name} of the {what} must be above 0, and are {values}.")


def check_names(
    what: str, baseline: str, contenders: Iterable[str], others: Iterable[str] = (), marks: str = ""
) -> None:
    """Raises UserError for a name that no directory can have, or a baseline that is no contender.

    A name has letters, digits and `marks`.
    """
    for name in (*contenders, *others):
        if not re.fullmatch(rf"\w[\w{re.escape(marks)}]*", name):
            raise UserError(
                f"the {what} has the name {name!r}; a directory gets it, so use only letters, "
                f"digits and {' '.join(marks)}."
            )
    if baseline not in contenders:
        raise UserError(
            f"the baseline {baseline!r} is not a contender of the {what}; it must be one of "
            f"{', '.join(contenders)}."
        )


def changed(config: Any, changes: Mapping[str, Any], where: str = "") -> Any:
    """A copy of a config dataclass with the fields at dotted paths changed, all at once.

    Raises:
        UserError: for a path that does not exist.
    """
    names = [field.name for field in dataclasses.fields(config)]
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, dot, rest = path.partition(".")
        inner = direct.get(name, getattr(config, name, None))
        if name not in names or (dot and not dataclasses.is_dataclass(inner)):
            old, known = where + path, [f"{where}{known}" for known in names]
            if old in (renamed := OPTIONS | RESHAPED):
                raise UserError(f"the config field {old} is now {renamed[old]}.")
            raise UserError(f"there is no config field {old}{did_you_mean(where + name, known)}.")
        if dot:
            nested.setdefault(name, {})[rest] = value
        else:
            direct[name] = value
    for name, inner_changes in nested.items():
        inner = direct.get(name, getattr(config, name))
        direct[name] = changed(inner, inner_changes, f"{where}{name}.")
    return dataclasses.replace(config, **direct)
