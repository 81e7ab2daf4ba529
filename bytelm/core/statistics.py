"""Statistics: ratios that a model reports, summed over steps and divided once.

A `Statistic` is declared once, in the module that measures it, and called with a sum and a count:

    OVERFLOW = Statistic("overflow", "share")
    ModelOutput(..., statistics=(OVERFLOW(overflow, wanted),))

The trainer sums ratios over devices, micro-batches and steps, divides them at the end, and records
and shows the results. It knows no names.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import numpy as np

from bytelm.core.figure import Figure

Tree = TypeVar("Tree")
Warn = Callable[[Mapping[str, float]], str | None]
"""From the values of a record, by name, to a warning; None if all is well."""

STATISTICS: dict[str, "Statistic"] = {}
"""All declared statistics, by name."""


def name_at(name: str, level: int) -> str:
    """The name of a figure of a level: the plain one for 1, the outermost; else "NAME/level_2"."""
    return name if level == 1 else f"{name}/level_{level}"


@dataclass(frozen=True)
class Statistic:
    """The name and unit of a ratio.

    Attributes:
        name: in a record, such as "boundaries/rate"; with a slash, it is not shown in training.
        unit: one of `bytelm.core.figure.UNITS`.
        divisor: the ratio is the sum divided by this times the count.
        empty: the ratio where the count is 0.
    """

    name: str
    unit: str = ""
    divisor: float = 1.0
    empty: float = 0.0

    def __post_init__(self) -> None:
        STATISTICS[self.name] = self

    def __call__(
        self, total: Any, count: Any, *, parts: Iterable[str] = (), warn: Warn | None = None
    ) -> "Ratio":
        """A ratio of this name.

        Args:
            total: scalar, or `[N]` with parts.
            count: scalar, or `[N]`.
            parts: names of N ratios, recorded as "NAME/PART" if their count is not 0.
            warn: hashable and comparable, such as a function or a frozen dataclass.
        """
        return Ratio(total, count, self, tuple(parts), warn)

    def at(self, level: int) -> "Statistic":
        """The same of a level: itself for 1, the outermost, else named as in "overflow/level_2"."""
        return dataclasses.replace(self, name=name_at(self.name, level)) if level > 1 else self


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ratio:
    """A sum and a count, which are summed before they are divided. Made by a `Statistic`."""

    total: Any
    count: Any
    statistic: Statistic = field(metadata={"static": True})
    parts: tuple[str, ...] = field(default=(), metadata={"static": True})
    warn: Warn | None = field(default=None, metadata={"static": True})

    @property
    def value(self) -> float:
        """The ratio, of a statistic without parts."""
        return self._divided(self.total, self.count)

    @property
    def figures(self) -> list[Figure]:
        """The ratio, or one for each part whose count is not 0."""
        name, unit = self.statistic.name, self.statistic.unit
        if not self.parts:
            return [Figure(name, self.value, unit)]
        counts = np.broadcast_to(self.count, len(self.parts))
        return [
            Figure(f"{name}/{part}", self._divided(total, count), unit)
            for part, total, count in zip(self.parts, self.total, counts, strict=True)
            if count
        ]

    def _divided(self, total: Any, count: Any) -> float:
        if not count:
            return self.statistic.empty
        return float(total) / (self.statistic.divisor * float(count))


_bits = functools.partial(Statistic, divisor=math.log(2), empty=math.nan)
BPB = _bits("bpb", "bpb")
"""Nats of the text over its bytes, without END."""
BPB_WITH_END = _bits("bpb_with_end", "bpb with END")
"""Nats of the text and of END, over the bytes of the text."""
BITS_PER_TARGET_BYTE = _bits("bits_per_target_byte", "bits/target byte")
"""With an encoder: nats of the targets without END, over their bytes and sentinels."""
BITS_PER_TARGET_BYTE_WITH_END = _bits("bits_per_target_byte_with_end", "bits/target byte with END")
"""The same with END, which counts as a byte of the target."""


def added(total: Tree | None, sums: Tree, factor: float = 1.0) -> Tree:
    """`total + factor * sums`, leaf by leaf in float64; a `total` of None counts as 0."""
    scaled = jax.tree.map(lambda x: factor * np.asarray(x, np.float64), sums)
    return scaled if total is None else jax.tree.map(np.add, total, scaled)


def warnings(ratios: Iterable[Ratio]) -> dict[str, str]:
    """The warnings of summed ratios, by the statistics' names."""
    ratios = tuple(ratios)
    values = {figure.name: figure.value for ratio in ratios for figure in ratio.figures}
    found = {ratio.statistic.name: ratio.warn(values) for ratio in ratios if ratio.warn}
    return {name: text for name, text in found.items() if text is not None}


def recorded(name: str, value: float | None) -> Figure:
    """A number of metrics.jsonl as a figure, with the unit of the statistic of that name."""
    plain = name.removeprefix("validation_").removeprefix("validation/")
    known = STATISTICS.get(plain) or STATISTICS.get(plain.rpartition("/")[0])
    return Figure(name, math.nan if value is None else value, known.unit if known else "")
