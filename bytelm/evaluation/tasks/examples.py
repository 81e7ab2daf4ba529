"""Examples before the questions (few shots), and the choice of the items that are scored."""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of
from bytelm.evaluation.tasks.item import Item, ItemSet

SEED = 2**32


def draw_examples(
    scored: ItemSet, others: Sequence[ItemSet], shots: int, seed: int
) -> tuple[ItemSet, dict[str, bytes]]:
    """The items to score, and the examples before the questions of each task.

    A task has the same examples for all its items, so that a model reads them once.

    Args:
        scored: items of a file.
        others: items from which examples are drawn, of the same tasks; none to draw them from
            `scored`, which then leaves them out.
        shots: examples of each task.
        seed: of the draw.

    Raises:
        UserError: if a task has too few items.
    """
    if not shots:
        return scored, {}
    left: list[Item] = []
    examples: dict[str, bytes] = {}
    for task, items in scored.by_task.items():
        pool = [item for other in others for item in other.by_task.get(task, ())]
        pool = pool if others else items
        if len(pool) < shots + (not others):
            raise UserError(
                f"there are {number_of(len(pool), 'item')} for the examples of {scored.name} "
                f"{task}".rstrip()
                + f"; lower tasks.shots ({shots}), or name other files with "
                "tasks.shots-from."
            )
        rng = np.random.RandomState([seed % SEED, zlib.crc32(f"{scored.name} {task}".encode())])
        drawn = [pool[place] for place in rng.permutation(len(pool))[:shots]]
        examples[task] = b"".join(item.example for item in drawn)
        left += items if others else [item for item in items if item not in drawn]
    return dataclasses.replace(scored, items=left), examples


def spread(scored: ItemSet, most: int | None) -> ItemSet:
    """At most so many items of each task, spread evenly over them; None for all."""
    if most is None:
        return scored
    kept: list[Item] = []
    for items in scored.by_task.values():
        count = min(most, len(items))
        kept += [items[place * len(items) // count] for place in range(count)]
    return dataclasses.replace(scored, items=kept)
