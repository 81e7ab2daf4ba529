"""Which drafter a user's options name, checked against the model."""

from typing import Literal

from bytelm.core.errors import UserError
from bytelm.inference.drafters import Drafter, Heads, Lookup, Stale
from bytelm.inference.generation import Draft

DraftKind = Literal["none", "auto", "heads", "stale", "lookup"]
"""`auto` takes the first of heads, the stale backbone and lookup that the model can draft by, and
nothing with an encoder."""
LONGEST_DRAFT = 64
"""Most drafts of a round."""


def choose_draft(
    kind: DraftKind,
    most: int,
    *,
    heads: int = 0,
    has_patches: bool = False,
    small: Drafter | None = None,
) -> Draft | None:
    """What drafts for a model; None for nothing.

    Args:
        kind: the user's choice.
        most: drafts of a round at most.
        heads: symbols that the model's draft heads predict; 0 without such heads.
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
    if kind == "auto":
        kind = "heads" if heads else "stale" if has_patches else "lookup"
    if kind == "heads" and not heads:
        raise UserError(
            "draft heads needs a model with draft heads, and this one has none; train some "
            "(model.draft), or choose another drafter."
        )
    if kind == "stale" and not has_patches:
        raise UserError(
            "draft stale needs a model with patches, whose backbone it leaves out, and this one "
            "is flat; choose lookup."
        )
    drafts = {
        "none": None,
        "heads": Draft(Heads(), min(most, heads)),
        "stale": Draft(Stale(), most),
        "lookup": Draft(Lookup(), most),
    }
    return drafts[kind]
