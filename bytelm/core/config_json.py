"""Configs as JSON values and back: dataclasses become objects, variants say which they are."""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from bytelm.core.checked import converted, did_you_mean, field_types
from bytelm.core.errors import UserError
from bytelm.core.variants import Variant

T = TypeVar("T")

_DEFINED_IN = "defined_in"
"""Key of a saved variant of a user's own: the file that defines it."""


def to_dict(config: Any) -> Any:
    """A config as dicts, lists and scalars; a variant has its key, a user's also its file.

    Raises:
        UserError: for a variant without a name of its own, which could not be loaded again.
    """
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {**_variant_keys(config), **fields} if isinstance(config, Variant) else fields
    if isinstance(config, tuple):
        return [to_dict(item) for item in config]
    return config


def _variant_keys(config: Variant) -> dict[str, str]:
    kind, key = type(config), config.variant_key
    if key not in vars(kind):
        raise UserError(
            f"{kind.__qualname__} has no {key} of its own, by which it could be loaded; give the "
            f'class one, as in `{key}: ClassVar[str] = "mine"`.'
        )
    origin = config.origin
    return {key: getattr(kind, key), **({} if origin is None else {_DEFINED_IN: origin})}


def from_dict(saved: Any, kind: Any, where: str = "config") -> Any:
    """Rebuilds what `to_dict` made of a config of type `kind`.

    Raises:
        UserError: for an unknown or missing key, or a value of a wrong type.
    """
    arguments = typing.get_args(kind)
    nested = [k for k in (kind, *arguments) if _is_config(k)]
    if saved is None and type(None) in arguments:
        return None
    if nested and typing.get_origin(kind) is tuple and isinstance(saved, list):
        return tuple(from_dict(item, nested[0], f"{where}[{i}]") for i, item in enumerate(saved))
    if nested and typing.get_origin(kind) is not tuple:
        return _config_from_dict(saved, nested[0], where)
    return converted(saved, kind, where)


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, Variant))


def _config_from_dict(saved: Any, kind: Any, where: str) -> Any:
    if not isinstance(saved, dict):
        raise UserError(f"{where} is {saved!r} in the saved config, and should be an object.")
    if issubclass(kind, Variant):
        key = kind.variant_key
        origin = saved.get(_DEFINED_IN)
        kind = kind.variant(saved.get(key), f"{where}.{key}", origin)
        saved = {name: value for name, value in saved.items() if name not in (key, _DEFINED_IN)}
        kind.check_saved(saved, where, origin)
    hints = field_types(kind)
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


def files_needed(config: Any) -> list[str]:
    """The user's files that a config needs when it is loaded, each once, as for `--import`."""

    def walk(saved: Any) -> Iterator[str]:
        if isinstance(saved, dict):
            yield from [saved[_DEFINED_IN]] if saved.get(_DEFINED_IN) else []
            saved = list(saved.values())
        if isinstance(saved, list):
            for item in saved:
                yield from walk(item)

    return list(dict.fromkeys(walk(to_dict(config))))


def mapped(config: Any, kind: type[T], function: Callable[[T], T]) -> Any:
    """The config with `function(part)` in place of each part of a type, wherever in it."""
    if isinstance(config, kind):
        return function(config)
    if isinstance(config, tuple):
        return tuple(mapped(item, kind, function) for item in config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    old = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    new = {name: mapped(value, kind, function) for name, value in old.items()}
    return config if new == old else dataclasses.replace(config, **new)


def differences(old: Any, new: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every field in which the `to_dict` forms of two configs differ.

    The file of a user's variant is not compared: it may move.
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
