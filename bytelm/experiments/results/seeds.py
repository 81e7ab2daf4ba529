"""Runs that differ in the seed alone: means, spreads, and differences from other such runs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bytelm.core.figure import Figure
from bytelm.core.intervals import bootstrap_interval
from bytelm.experiments.results.collect import Measured
from bytelm.training.compatibility import FREE

SEED = "train.seed"
SAME = (*FREE, "data.source.", "data.sources.", "data.cache_dir", "data.task.tokenizer")
"""Beginnings of options in which runs may differ and still be of one setting: those that change no
result, and those that say where text lies."""


@dataclass(frozen=True)
class Setting:
    """Rows of one group and step with the same options, one for each seed."""

    rows: tuple[Measured, ...]

    def mean(self, name: str) -> Figure | None:
        """The mean of a figure over seeds, also of the ends of its intervals; None if unknown."""
        found = [row.figures[name] for row in self.rows if name in row.figures]
        if not found:
            return None
        ends = [figure.interval for figure in found if figure.interval is not None]
        whole = len(ends) == len(found)
        low, high = map(statistics.fmean, zip(*ends, strict=True)) if whole else (None, None)
        value = statistics.fmean(figure.value for figure in found)
        bound = any(figure.bound for figure in found)
        return replace(found[0], value=value, low=low, high=high, bound=bound)

    def spread(self, name: str) -> tuple[Figure, Figure] | None:
        """The lowest and the highest of several seeds; None for fewer than two."""
        found = [row.figures[name] for row in self.rows if name in row.figures]
        ordered = sorted(found, key=lambda figure: figure.value)
        return (ordered[0], ordered[-1]) if len(found) > 1 else None

    def less(self, base: "Setting", name: str) -> tuple[Figure, tuple[float, float]] | None:
        """The mean difference over the seeds of both, paired by document, and its spread.

        The interval is a bootstrap over documents of the mean over seeds.

        Returns:
            None for the base itself, or if the parts of a figure are unknown or differ.
        """
        ours, theirs = (
            {row.run.options[SEED]: row.items[name] for row in setting.rows if name in row.items}
            for setting in (self, base)
        )
        pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        if self is base or not pairs:
            return None
        counts = pairs[0][0].counts
        if not counts.sum() or not all(
            np.array_equal(counts, items.counts) for pair in pairs for items in pair
        ):
            return None
        less = np.array([one.sums - other.sums for one, other in pairs])  # [seeds, documents]
        by_seed = less.sum(axis=1) / counts.sum()
        low, high = bootstrap_interval(less.mean(axis=0), counts) or (None, None)
        spread = float(by_seed.min()), float(by_seed.max())
        return Figure(name, float(by_seed.mean()), low=low, high=high), spread


def settings_of(group: Sequence[Measured]) -> list[Setting]:
    """The settings in a group, in order of first mention; of equal runs, the last counts."""
    found: dict[tuple[int, str], dict[int, Measured]] = {}
    for row in group:
        options = row.run.options
        if SEED not in options:
            continue  # a report whose run is not there
        same = {n: v for n, v in options.items() if n != SEED and not n.startswith(SAME)}
        found.setdefault((row.step, repr(sorted(same.items()))), {})[options[SEED]] = row
    return [Setting(tuple(by_seed.values())) for by_seed in found.values()]
