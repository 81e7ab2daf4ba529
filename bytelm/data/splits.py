"""The names of the splits of text."""

from typing import Literal

from bytelm.core.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def check_split(name: str) -> Split:
    """The name, if it is that of a split; UserError otherwise."""
    for split in SPLITS:
        if split == name:
            return split
    raise UserError(f"there is no split {name!r}; choose one of {', '.join(SPLITS)}.")
