"""How long the rows are in which windows are scored: short texts do not fill a whole context.

Rows have the full length T, or a half, a quarter, ... of it, so that few shapes are compiled.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

SHORTEST = 64
"""No row is shorter: it would save less than one more compilation costs."""


def shortest_row(inputs: int, length: int) -> int:
    """The length of a row for so many inputs: T over a power of two, `SHORTEST` at least."""
    while length % 2 == 0 and length // 2 >= max(inputs, SHORTEST):
        length //= 2
    return length


def by_length(
    items: Iterable[Item], inputs: Callable[[Item], int], length: int, batch_size: int
) -> Iterator[tuple[list[Item], int]]:
    """Groups items that need rows of one length, as they come.

    A batch of shorter rows has more of them, so that all batches hold about as many symbols. What
    is left at the end may go in longer rows.

    Args:
        items: read as they are needed; those of a few batches are held.
        inputs: how many places of a row an item fills.
        length: T.
        batch_size: rows of length T in a batch.

    Yields:
        items, and the rows of the batch that they are for; there may be fewer items than rows.
    """
    waiting: dict[int, list[Item]] = {}
    for item in items:
        row = shortest_row(inputs(item), length)
        group = waiting.setdefault(row, [])
        group.append(item)
        if len(group) == batch_size * length // row:
            yield waiting.pop(row), len(group)
    group = []
    for row, longer in itertools.zip_longest(sorted(waiting), sorted(waiting)[1:]):
        group = [*group, *waiting[row]]
        # A batch in longer rows costs less than a shape of its own, which is compiled.
        if longer is None or len(group) > batch_size * length // longer:
            rows = batch_size if len(group) <= batch_size else batch_size * length // row
            yield from ((group[at : at + rows], rows) for at in range(0, len(group), rows))
            group = []
