"""How long the rows are in which windows are scored: short texts do not fill a whole context.

Rows have the full length T, or a half, a quarter, ... of it, rounded up, so that few shapes are
compiled.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

SHORTEST = 64
"""No row is shorter: it would save less than one more compilation costs."""

MOST_EMPTY = 4
"""A batch with so many times the rows that are needed costs more than to compile a smaller one."""


def shortest_row(inputs: int, length: int) -> int:
    """The length of a row for so many inputs: T halved, and rounded up, down to `SHORTEST`."""
    while (half := -(-length // 2)) >= max(inputs, SHORTEST):
        length = half
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
        if len(group) == _rows(row, length, batch_size):
            yield waiting.pop(row), len(group)
    group = []
    for row, longer in itertools.zip_longest(sorted(waiting), sorted(waiting)[1:]):
        group = [*group, *waiting[row]]
        # A batch in longer rows costs less than a shape of its own, which is compiled.
        if longer is None or len(group) > _rows(longer, length, batch_size):
            rows = _rows_for(len(group), batch_size, _rows(row, length, batch_size))
            yield from ((group[at : at + rows], rows) for at in range(0, len(group), rows))
            group = []


def _rows(row: int, length: int, batch_size: int) -> int:
    """Rows of a full batch: twice as many each time that the length is halved."""
    return batch_size << round(math.log2(length / row))


def _rows_for(count: int, batch_size: int, full: int) -> int:
    """Rows of the batches for what is left: those of a full one, unless most would be empty."""
    if full <= MOST_EMPTY * count:
        return full
    rows = batch_size
    while rows < count:
        rows *= 2
    return min(rows, full)
