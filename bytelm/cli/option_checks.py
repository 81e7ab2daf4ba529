"""Checks of a command's options: bounds, lists given twice, old names."""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from bytelm.cli.variant_options import Option, options_of
from bytelm.core.errors import UserError
from bytelm.core.renamed import new_option

MOST = 2**63 - 1
"""Larger numbers do not fit into an array."""


@dataclass(frozen=True)
class Bounds:
    """Annotation of an option: its range."""

    least: int = -MOST
    most: int = MOST


Count = Annotated[int, Bounds(1)]
"""A count: at least 1."""


def check_numbers(command: Any) -> None:
    """Raises UserError if an option of a command, or of a config in it, is out of bounds."""
    for option in _all_options(command):
        value = option.value
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        bounds = _bounds(option.hint)
        if value < bounds.least:
            raise UserError(f"{option.name} is {value}; it must be at least {bounds.least}.")
        if value > bounds.most:
            raise UserError(f"{option.name} is {value}; it must be at most {bounds.most}.")


def check_lists(command: Any, arguments: Sequence[str]) -> None:
    """Raises UserError if an option with a list is given twice: only the last would count."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    for option in _all_options(command):
        if isinstance(option.value, tuple) and names.count(name := option.name) > 1:
            raise UserError(f"{name} is given twice; give all its values after one {name}.")


def check_renamed(arguments: Sequence[str]) -> None:
    """Raises UserError for an option that has been renamed."""
    for name in (argument.partition("=")[0] for argument in arguments):
        if new := new_option(name):
            raise UserError(f"{name} has been renamed to {new}.")


def _all_options(config: Any, prefix: str = "--") -> Iterator[Option]:
    for option in options_of(config, prefix):
        if dataclasses.is_dataclass(option.value):
            yield from _all_options(option.value, option.below)
        else:
            yield option


def _bounds(hint: Any) -> Bounds:
    """The bounds in an annotation, or in a member of a union."""
    for kind in (hint, *typing.get_args(hint)):
        for extra in getattr(kind, "__metadata__", ()):
            if isinstance(extra, Bounds):
                return extra
    return Bounds()
