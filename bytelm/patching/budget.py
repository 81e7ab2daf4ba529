"""The slots of rows that are being decoded: the number of a symbol alone decides how many.

A whole row of N symbols has `capacity(N)` slots for patches. A row that is being decoded has no
length yet. At its symbol of number n, from 0, it has the slots of the shortest row that holds n + 1
symbols, in a fixed series of lengths: `SHORTEST`, twice that, and so on. So whether a patch opens
depends on the symbols so far, and neither on how many may follow nor on other rows. A row that has
used up its slots opens patches again where the next longer row of the series begins.

The symbols of an inner level are the slots of the level around it, and so is its series.

Where all rows are known to be read as whole rows of one length, as in scoring, `whole_rows` gives
them the slots of that length from the first symbol on.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import jax
import jax.numpy as jnp

SHORTEST = 512
"""Symbols of the shortest row; few fill its slots by chance."""

_are_whole = ContextVar("_are_whole", default=False)


@contextlib.contextmanager
def whole_rows(whole: bool = True) -> Iterator[None]:
    """States that are made here have at every symbol the slots of a whole row of their length."""
    before = _are_whole.set(whole)
    try:
        yield
    finally:
        _are_whole.reset(before)


@dataclass(frozen=True)
class Budget:
    """The slots of one level. Static and hashable."""

    lengths: tuple[int, ...]  # of the series, rising, in symbols of the level
    slots: tuple[int, ...]  # of rows of these lengths
    entries: int  # slots that can be filled at all, for which there is memory

    @classmethod
    def of(cls, capacity: Callable[[int], int], length: int) -> "Budget":
        """For rows of at most `length` symbols."""
        lengths = [length if _are_whole.get() else SHORTEST]
        while lengths[-1] < length:
            lengths.append(2 * lengths[-1])
        return cls._of(capacity, tuple(lengths), length)

    def inside(self, capacity: Callable[[int], int]) -> "Budget":
        """For the level whose symbols are the patches of this one."""
        return self._of(capacity, self.slots, self.entries)

    @classmethod
    def _of(cls, capacity: Callable[[int], int], lengths: tuple[int, ...], most: int) -> "Budget":
        slots = tuple(capacity(length) for length in lengths)
        # A symbol opens one patch at most; some families put a null vector before the first.
        return cls(lengths, slots, min(slots[-1], most + 1))

    def at(self, numbers: jax.Array) -> jax.Array:
        """Slots at symbols of these numbers, int32 of any shape."""
        slots = jnp.full_like(numbers, self.slots[0])
        for length, fewer, more in zip(self.lengths, self.slots, self.slots[1:], strict=False):
            slots += (numbers >= length) * (more - fewer)
        return slots
