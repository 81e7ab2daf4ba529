"""The length of the rows in which windows are scored: short texts do not fill a whole context.

Rows have the full length T, or half of it, a quarter, ..., rounded up, so few shapes are compiled.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

SHORTEST = 64
"""No row is shorter: one more compilation would cost more than it saves."""

MOST_EMPTY = 4
"""A batch with more than this many times the rows it needs costs more than a compilation."""


def shortest_row(inputs: int, length: int) -> int:
    """The length of a row for this many inputs: T halved repeatedly, at least `SHORTEST`."""
    while (half := -(-length // 2)) >= max(inputs, SHORTEST):
        length = half
    return length


def by_length(
    items: Iterable[Item], inputs: Callable[[Item], int], length: int, batch_size: int
) -> Iterator[tuple[list[Item], int]]:
    """Groups items that need rows of the same length, in their order.

    `inputs` gives the positions that an item fills of a row of `length` T. A batch has `batch_size`
    rows of length T, or more of shorter ones, so all batches hold about as many symbols. Items left
    at the end may go into longer rows. Only a few batches of items are held in memory.

    Yields:
        items, and the rows of their batch, which may be more than the items.
    """
    waiting: dict[int, list[Item]] = {}
    for item in items:
        row = shortest_row(inputs(item), length)
        group = waiting.setdefault(row, [])
        group.append(item)
        if len(group) == _rows(row, length, batch_size):
            yield waiting.pop(row), len(group)
    group = []
    for row, longer in itertools.zip_longest(sorted(waiting), sorted(waiting)[1:]):
        group = [*group, *waiting[row]]
        # Longer rows cost less than compiling another shape.
        if longer is None or len(group) > _rows(longer, length, batch_size):
            rows = _rows_for(len(group), batch_size, _rows(row, length, batch_size))
            yield from ((group[at : at + rows], rows) for at in range(0, len(group), rows))
            group = []


def _rows(row: int, length: int, batch_size: int) -> int:
    """Rows of a full batch: twice as many for half the length."""
    return batch_size << round(math.log2(length / row))


def _rows_for(count: int, batch_size: int, full: int) -> int:
    """Rows of a batch for the items that are left: a full batch, unless most would be empty."""
    if full <= MOST_EMPTY * count:
        return full
    rows = batch_size
    while rows < count:
        rows *= 2
    return min(rows, full)
