"""The options of a command: fields of its dataclass and of the configs in it, and their checks."""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from bytelm.core.errors import UserError
from bytelm.core.places import is_place, local
from bytelm.core.renamed import new_option
from bytelm.core.variants import Variant

MOST = 2**63 - 1
"""Larger numbers do not fit into an array."""


@dataclass(frozen=True)
class Bounds:
    """Annotation of an option: its range."""

    least: int = -MOST
    most: int = MOST


Count = Annotated[int, Bounds(1)]
"""A count: at least 1."""


@dataclass(frozen=True)
class Addressable:
    """Annotation of an option: it may be an address, such as `gs://bucket/run`."""


Place = Annotated[Path, Addressable()]
"""A path of this machine or an address; other options with paths refuse addresses."""


class Option(NamedTuple):
    """A field of a command, or of a config in it."""

    field: str
    name: str
    """Such as `--data.task`."""
    below: str
    """The prefix of the options of its own fields, such as `--data.task.`."""
    hint: Any
    """Its type, with annotations."""
    value: Any

    @property
    def spelling(self) -> str:
        """As one types it: a switch that is on is turned off with `no-`."""
        field = dashed(self.field)
        off = f"{self.name.removesuffix(field)}no-{field}"
        return off if self.value is True else self.name

    @property
    def base(self) -> type[Variant] | None:
        """Its type, if that is a base of variants, not a variant itself."""
        kind = getattr(self.hint, "__origin__", self.hint)
        if not isinstance(kind, type) or not issubclass(kind, Variant):
            return None
        return None if kind.variant_key in vars(kind) else kind

    @property
    def extras(self) -> Iterator[Any]:
        """The annotations in its type, or in a member of a union."""
        for kind in (self.hint, *typing.get_args(self.hint)):
            yield from getattr(kind, "__metadata__", ())

    @property
    def bounds(self) -> Bounds:
        """Those of a number."""
        return next((extra for extra in self.extras if isinstance(extra, Bounds)), Bounds())


def options_of(config: Any, prefix: str = "--") -> Iterator[Option]:
    """The options of the fields of a dataclass, or of a class of them with its defaults."""
    kind = config if isinstance(config, type) else type(config)
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], prefix + dashed(field.name)
        extras = getattr(hint, "__metadata__", ())
        is_flat = any(getattr(extra, "name", None) == "" for extra in extras)  # of tyro.conf.arg
        below = prefix if is_flat else f"{name}."
        yield Option(field.name, name, below, hint, getattr(config, field.name, None))


def all_options(config: Any, prefix: str = "--") -> Iterator[Option]:
    """`options_of` a config and of the configs in it; not of those that hold others."""
    for option in options_of(config, prefix):
        if dataclasses.is_dataclass(option.value):
            yield from all_options(option.value, option.below)
        else:
            yield option


def configs_in(config: Any, prefix: str = "--") -> Iterator[Option]:
    """The options that hold configs with options of their own, each before those in it."""
    for option in options_of(config, prefix):
        if dataclasses.is_dataclass(option.value):
            yield option
            yield from configs_in(option.value, option.below)


def dashed(name: str) -> str:
    """The spelling of options: tyro takes `_` for `-` too."""
    return name.replace("_", "-")


def names_of(arguments: Sequence[str]) -> list[str]:
    """Each argument without its `=VALUE`, spelled with dashes."""
    return [dashed(argument.partition("=")[0]) for argument in arguments]


def check_numbers(command: Any) -> None:
    """Raises UserError if an option of a command, or of a config in it, is out of bounds."""
    for option in all_options(command):
        name, value, bounds = option.name, option.value, option.bounds
        is_bounded = any(isinstance(extra, Bounds) for extra in option.extras)
        if isinstance(value, bool) or not isinstance(value, (int, float) if is_bounded else int):
            continue
        if not value >= bounds.least:  # also of "nan"
            raise UserError(f"{name} is {value}; it must be at least {bounds.least}.")
        if value > bounds.most:
            raise UserError(f"{name} is {value}; it must be at most {bounds.most}.")


def check_places(command: Any) -> None:
    """Raises UserError if an option names an address that cannot be one."""
    for option in options_of(command):
        is_free = any(isinstance(extra, Addressable) for extra in option.extras)
        if is_place(option.value) and not is_free:
            local(option.value, option.name)


def check_lists(command: Any, arguments: Sequence[str]) -> None:
    """Raises UserError if an option with a list is given twice: only the last would count."""
    names = names_of(arguments)
    for option in all_options(command):
        if isinstance(option.value, tuple) and names.count(name := option.name) > 1:
            raise UserError(f"{name} is given twice; give all its values after one {name}.")


def check_renamed(arguments: Sequence[str]) -> None:
    """Raises UserError for an option that has been renamed."""
    for name in names_of(arguments):
        if new := new_option(name):
            raise UserError(f"{name} has been renamed to {new}.")
