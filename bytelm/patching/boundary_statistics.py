"""What learned boundaries have become: how many there are, and how they meet whitespace."""

from collections.abc import Mapping

import jax

from bytelm.core.statistics import Ratio, Statistic

RATE = Statistic("boundaries/rate", "share")
"""Share of the symbols that are boundaries."""
TARGET = Statistic("boundaries/target", "share")
"""The share that the loss of the boundaries asks for."""
PRECISION = Statistic("boundaries/precision", "share")
"""Share of the boundaries that are whitespace."""
RECALL = Statistic("boundaries/recall", "share")
"""Share of the whitespace that is a boundary."""
F1 = Statistic("boundaries/f1", "share")
"""Harmonic mean of precision and recall."""

COLLAPSED = (0.005, 0.9)
"""Below and above these rates learned boundaries have collapsed."""


def boundary_statistics(
    boundaries: jax.Array, whitespace: jax.Array, counted: jax.Array
) -> tuple[Ratio, ...]:
    """The rate of the boundaries, and how they meet whitespace; each argument is bool `[B, T]`.

    Args:
        boundaries: hard boundaries.
        whitespace: where a boundary at each run of whitespace would be.
        counted: the symbols that count.
    """
    boundaries, whitespace = boundaries & counted, whitespace & counted
    made, there = boundaries.sum(), whitespace.sum()
    hits = (boundaries & whitespace).sum()
    return (
        RATE(made, counted.sum(), warn=_collapse),
        PRECISION(hits, made),
        RECALL(hits, there),
        F1(2 * hits, made + there),
    )


def _collapse(values: Mapping[str, float]) -> str | None:
    rate = values[RATE.name]
    if COLLAPSED[0] < rate < COLLAPSED[1]:
        return None
    return (
        f"{rate:.1%} of the symbols are boundaries: the segmentation has collapsed; raise "
        "model.segmenter.weight, or lower the learning rate."
    )
