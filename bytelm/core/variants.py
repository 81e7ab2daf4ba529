"""Configs with registered variants, such as families of models: bytelm's own and users'.

A base sets the key that names the variant in a saved config. A subclass that sets this attribute is
registered:

    class Shape(Variant, name="shape", key="kind"): ...

    @dataclass(frozen=True)
    class Circle(Shape):
        kind: ClassVar[str] = "circle"
        radius: float = 1.0
"""

import abc
import sys
from typing import Any, ClassVar, Self

from bytelm.core.checked import Checked, did_you_mean
from bytelm.core.errors import UserError

OWN_FILE = (
    "If a file of your own defines it, add --import FILE (in Python, import it before loading)."
)
"""Ends the error for a name that is not registered."""


class Variant(Checked, abc.ABC):
    """Base of a config that stands for its registered subclasses.

    Attributes:
        variant_key: the attribute that names a subclass, and its key in a saved config.
        variants: the registered subclasses by name.
    """

    variant_key: ClassVar[str]
    variants: ClassVar[dict[str, type[Self]]]

    def __init_subclass__(cls, key: str | None = None, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if key is not None:
            cls.variant_key, cls.variants = key, {}
        elif cls.variant_key in vars(cls):
            _register(cls.variants, getattr(cls, cls.variant_key), cls)

    @classmethod
    def accepts(cls, value: Any) -> bool:
        """A field whose type is a base may hold any of its variants."""
        return isinstance(value, cls) and cls.variant_key not in vars(cls)

    @classmethod
    def variant(cls, name: Any, where: str, origin: Any = None) -> type[Self]:
        """The registered subclass of this name in a saved config; UserError if there is none.

        The error names the field `where` and the file `origin`, from `defined_in`, if it is given.
        """
        if isinstance(name, str) and name in cls.variants:
            return cls.variants[name]
        if isinstance(origin, str):
            raise not_imported(where, name, origin)
        raise UserError(
            f"{where} is {name!r}{did_you_mean(str(name), cls.variants)}; this version of "
            f"bytelm has {', '.join(sorted(cls.variants))}. {OWN_FILE}"
        )

    @property
    def origin(self) -> str | None:
        """`defined_in` of what the config names: its class, or more in a subclass."""
        return defined_in(type(self))

    @classmethod
    def check_saved(cls, fields: dict[str, Any], where: str, origin: Any) -> None:
        """Raises UserError if saved fields name something else that is not registered.

        The error names the config `where` and its saved `origin`.
        """


def not_imported(where: str, name: Any, origin: str) -> UserError:
    """The error for the name of a field `where`, if the file that defines it is not imported.

    `origin` is the saved result of `defined_in`.
    """
    place = (
        f"in {origin}: add --import {origin}"
        if origin
        else "in no file, such as a notebook: put it into one and add --import FILE"
    )
    return UserError(
        f"{where} is {name!r}, which is not bytelm's own. It was defined {place} (in Python, "
        "import it before loading). Nothing is imported unless you name it."
    )


def _register(variants: dict[str, Any], name: str, variant: type) -> None:
    """Adds a class under its name; UserError if another class has the name.

    A class that is defined again, such as in a notebook, replaces the old one.
    """
    old = variants.get(name)
    if old is not None and place_of(old) != place_of(variant):
        raise UserError(
            f"{variant.__qualname__} calls itself {name!r}, and so does "
            f"{old.__module__}.{old.__qualname__}; give it another name."
        )
    variants[name] = variant


def place_of(variant: Any) -> tuple[str | None, str]:
    """Where a class or function is defined: file and name; the same if it is defined again."""
    return file_of(variant) or variant.__module__, variant.__qualname__


def file_of(variant: Any) -> str | None:
    """The file that defines a class or function; None if there is none, as in a notebook."""
    return getattr(sys.modules.get(variant.__module__), "__file__", None)


def defined_in(variant: Any) -> str | None:
    """The file that defines a user's class or function, "" for a notebook; None for bytelm's."""
    if variant.__module__.partition(".")[0] == "bytelm":
        return None
    return file_of(variant) or ""
