"""Registered variants of a config (families, kinds of boundaries): bytelm's own and users'."""

import sys
from typing import Any

from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError


def register(variants: dict[str, Any], name: str, variant: type) -> None:
    """Adds a class to the variants of its base under its name.

    Raises:
        UserError: if another class has the name. The same class from the same place, run again as
            in a notebook, takes its own place.
    """
    old = variants.get(name)
    if old is not None and _place(old) != _place(variant):
        raise UserError(
            f"{variant.__qualname__} calls itself {name!r}, as {old.__module__}.{old.__qualname__} "
            "does already; give it another name."
        )
    variants[name] = variant


def _place(variant: type) -> tuple[str | None, str]:
    return file_of(variant) or variant.__module__, variant.__qualname__


def file_of(variant: type) -> str | None:
    """The file that defines a class; None if there is none, as in a notebook."""
    return getattr(sys.modules.get(variant.__module__), "__file__", None)


def defined_in(variant: type) -> str | None:
    """The file that a user's class comes from, "" for a notebook's; None for bytelm's own."""
    if variant.__module__.partition(".")[0] == "bytelm":
        return None
    return file_of(variant) or ""


def check_known(variants: dict[str, Any], name: Any, where: str, origin: Any) -> None:
    """Raises UserError unless a variant of this name is registered.

    Args:
        where: the field, for the error.
        origin: what `defined_in` said when the config was saved; None if nothing.
    """
    if isinstance(name, str) and name in variants:
        return
    if not isinstance(origin, str):
        raise UserError(
            f"{where} is {name!r}{did_you_mean(str(name), variants)}; this version of bytelm has "
            f"{', '.join(sorted(variants))}. If a file of your own defines it, add --import FILE."
        )
    place = (
        f"in {origin}: add --import {origin}"
        if origin
        else ("in no file, such as a notebook: put its class into one and add --import FILE")
    )
    raise UserError(
        f"{where} is {name!r}, which is not bytelm's own. It was defined {place} (in Python, "
        "import it before loading). Nothing is imported unless you name it."
    )
