"""Changes to a config by the dotted paths of its fields."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError


def changed(config: Any, changes: Mapping[str, Any], where: str = "") -> Any:
    """A copy of a config dataclass with the fields at dotted paths changed, all at once.

    Raises:
        UserError: for a path that there is not.
    """
    names = [field.name for field in dataclasses.fields(config)]
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, dot, rest = path.partition(".")
        inner = direct.get(name, getattr(config, name, None))
        if name not in names or (dot and not dataclasses.is_dataclass(inner)):
            known = [f"{where}{known}" for known in names]
            raise UserError(
                f"there is no config field {where}{path}{did_you_mean(where + name, known)}."
            )
        if dot:
            nested.setdefault(name, {})[rest] = value
        else:
            direct[name] = value
    for name, inner_changes in nested.items():
        inner = direct.get(name, getattr(config, name))
        direct[name] = changed(inner, inner_changes, f"{where}{name}.")
    return dataclasses.replace(config, **direct)
