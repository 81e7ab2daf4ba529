"""Which drafter a user's options name, checked against the model."""

from typing import Any, Literal

from bytelm.core.errors import UserError
from bytelm.inference.drafters import Drafter, Lookup, Stale
from bytelm.inference.generation import Draft

DraftKind = Literal["none", "auto", "stale", "lookup"]
"""`auto` drafts with the stale backbone in a model with patches, else by lookup."""
LONGEST_DRAFT = 64
"""Most drafts of a round."""


def choose_draft(
    kind: DraftKind, most: int, *, has_patches: bool, small: Drafter | None = None
) -> Draft | None:
    """What drafts for a model; None for nothing.

    Args:
        kind: the user's choice.
        most: drafts of a round at most.
        has_patches: whether the model has patches.
        small: another model as drafter, in place of a kind.

    Raises:
        UserError: if the model cannot draft so.
    """
    if not 1 <= most <= LONGEST_DRAFT:
        raise UserError(f"draft-length is {most}; it must be from 1 to {LONGEST_DRAFT}.")
    if small is not None:
        if kind not in ("none", "auto"):
            raise UserError(f"draft {kind} and a draft checkpoint are two drafters; give one.")
        return Draft(small, most)
    if kind == "none":
        return None
    if kind == "stale" and not has_patches:
        raise UserError(
            "draft stale needs a model with patches, whose backbone it leaves out, and this one "
            "is flat; choose lookup."
        )
    drafters: dict[Any, Drafter] = {"stale": Stale(), "lookup": Lookup()}
    drafters["auto"] = drafters["stale" if has_patches else "lookup"]
    return Draft(drafters[kind], most)
