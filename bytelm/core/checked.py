"""Types of config fields: a value is converted if nothing is lost, and otherwise refused.

This holds for configs from options, presets, saved JSON and Python programs.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, ClassVar, Literal

import numpy as np

from bytelm.core.errors import UserError


class Checked:
    """Base of config dataclasses, which converts fields to their types or raises UserError.

    `class Data(Checked, name="data", small=True)` sets the name in error messages, and requires
    whole numbers below 2**31, because arrays and counters on devices have 32 bits. Fields are
    converted before the subclass's own `__post_init__` checks values.
    """

    _config_name: ClassVar[str | None] = None
    _small: ClassVar[bool] = False

    def __init_subclass__(
        cls, name: str | None = None, small: bool | None = None, **arguments: Any
    ) -> None:
        super().__init_subclass__(**arguments)
        if name is not None:
            cls._config_name = name
        if small is not None:
            cls._small = small
        if "__post_init__" in vars(cls):
            cls.__post_init__ = _types_first(vars(cls)["__post_init__"])  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        _convert_fields(self)

    @classmethod
    def accepts(cls, value: Any) -> bool:
        """Whether a field of this type may hold a value of a subclass."""
        return False

    def require(
        self, rule: str, fits: Callable[[Any], bool], *names: str, where: str | None = None
    ) -> None:
        """Raises UserError, which states the rule, unless each named field is None or fits.

        `where` is the field that holds the config; None for its usual one.
        """
        where = where or self._config_name or type(self).__name__
        for name in names:
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise UserError(f"{where}.{name} is {value}; {rule}.")

    def require_positive(self, *names: str, where: str | None = None) -> None:
        """Raises UserError unless each named field is None or at least 1."""
        self.require("it must be at least 1", lambda x: x >= 1, *names, where=where)

    def require_share(self, *names: str, where: str | None = None) -> None:
        """Raises UserError unless each named field is None or between 0 and 1."""
        self.require("it must be between 0 and 1", lambda x: 0 < x < 1, *names, where=where)


def require_positive(where: str, value: float | None) -> None:
    """Raises UserError unless the value is None or at least 1."""
    if value is not None and value < 1:
        raise UserError(f"{where} is {value}; it must be at least 1.")


def _types_first(check_values: Any) -> Any:
    @functools.wraps(check_values)
    def check(self: Checked) -> None:
        _convert_fields(self)
        check_values(self)

    return check


def _convert_fields(config: Any) -> None:
    kind: Any = type(config)
    hints, name = field_types(kind), kind._config_name or kind.__name__
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        value = converted(given, hints[field.name], f"{name}.{field.name}")
        if value is not given:
            object.__setattr__(config, field.name, value)
        if kind._small:
            require_small(f"{name}.{field.name}", value)


def require_small(where: str, value: Any) -> None:
    """Raises UserError for a whole number that does not fit 32 bits."""
    if type(value) is int and value >= 2**31:
        raise UserError(f"{where} is {value}; it must be below 2**31.")


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return typing.get_type_hints(kind)


def converted(value: Any, kind: Any, where: str) -> Any:
    """Converts a value to the type of its field, if it has only one meaning in that type.

    Converts whole floats to `int` (1e3), whole numbers to `float`, a path to `str`, a list to a
    tuple, and NumPy's scalars to Python's.

    Args:
        value: as given.
        kind: an annotation: a scalar, `Literal`, a union, `tuple`, `Mapping` or a dataclass.
        where: name of the field, for the error.

    Raises:
        UserError: for a value of any other type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, np.generic):
        value = value.item()
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(value, arguments, kind, where)
    if origin is tuple and isinstance(value, tuple | list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            items = tuple(
                converted(item, item_kind, f"{where}[{i}]")
                for i, (item, item_kind) in enumerate(zip(value, kinds, strict=True))
            )
            same = isinstance(value, tuple) and all(map(lambda a, b: a is b, items, value))
            return value if same else items
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {
                converted(key, arguments[0], f"a key of {where}"): converted(
                    item, arguments[1], f"{where}[{key!r}]"
                )
                for key, item in value.items()
            }
    elif origin is Literal:
        if any(value == known and type(value) is type(known) for known in arguments):
            return value
    elif kind is float and type(value) in (int, float):
        with contextlib.suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    elif kind is int and type(value) is float and value.is_integer():
        return int(value)
    elif kind is str and isinstance(value, PurePath):
        return os.fspath(value)
    elif type(value) is kind or (
        isinstance(kind, type) and issubclass(kind, Checked) and kind.accepts(value)
    ):
        return value
    raise wrong_type(value, kind, where)


def _union(value: Any, kinds: tuple[Any, ...], kind: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    if value == "" and {str, type(None)} <= set(kinds):
        raise UserError(f"{where} is empty, as from a variable that is not set; leave it out.")
    others = [other for other in kinds if other is not type(None)]
    if type(value) in others:
        return value
    for other in others:
        try:
            return converted(value, other, where)
        except UserError:
            if len(others) == 1 and typing.get_origin(other) is tuple:
                raise  # this error names the item
    raise wrong_type(value, kind, where)


def wrong_type(value: Any, kind: Any, where: str) -> UserError:
    """The error for a value that cannot be converted to the type of its field."""
    shown = repr(value)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    close = ""
    if typing.get_origin(kind) is Literal and isinstance(value, str):
        close = did_you_mean(value, map(str, typing.get_args(kind)))
    return UserError(f"{where} is {shown}, and should be {_described(kind)}{close}.")


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(kind)))}"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(map(_described, typing.get_args(kind)))
    if kind is type(None):
        return "None"
    numbers = {int: "a whole number (int)", float: "a finite number (float)"}
    if kind in numbers:
        return numbers[kind]
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)', or '' if no known word is similar."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
