"""Uncertainty of a ratio of sums over documents, such as bits per byte, by the bootstrap."""

import numpy as np
from numpy.typing import ArrayLike

_CHUNK = 1 << 20
"""Resampled documents drawn at a time: what bounds the memory, to about 20 MB."""


def bootstrap_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `sum(numerators) / sum(denominators)`.

    Documents are resampled whole, with replacement, so that the bytes of one document need not
    be independent (Efron & Tibshirani 1993, chapter 13). For the difference of two models on
    the same documents (a paired bootstrap) pass the per-document differences as numerators.

    A single document says nothing of the spread between documents: low and high are then both
    the ratio itself. Resamples whose denominators sum to zero (empty documents alone) have no
    ratio and are left out.

    Args:
      numerators: float [documents], for instance the bits of each document.
      denominators: non-negative float [documents], for instance its raw bytes.
      samples: number of resamples.
      confidence: coverage of the interval, between 0 and 1.
      seed: seed of the resampling; the same seed gives the same interval.

    Returns:
      The low and the high end of the interval, in units of the ratio.

    Raises:
      ValueError: the arrays differ in shape, are not 1-D, or the denominators sum to zero.
    """
    numerators = np.asarray(numerators, np.float64)
    denominators = np.asarray(denominators, np.float64)
    if numerators.ndim != 1 or numerators.shape != denominators.shape:
        raise ValueError(
            f"numerators and denominators must be 1-D and of one length, not of shapes "
            f"{numerators.shape} and {denominators.shape}"
        )
    if not denominators.sum() > 0:
        raise ValueError("the denominators must sum to more than zero")

    documents = len(numerators)
    generator = np.random.default_rng(seed)
    sums = np.empty((2, samples))
    rows = max(1, _CHUNK // documents)
    for first in range(0, samples, rows):
        chunk = slice(first, min(first + rows, samples))
        size = (chunk.stop - chunk.start, documents)
        drawn = generator.integers(documents, size=size, dtype=np.int32)
        sums[0, chunk] = numerators[drawn].sum(axis=1)
        sums[1, chunk] = denominators[drawn].sum(axis=1)
    numerator_sums, denominator_sums = sums[:, sums[1] > 0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(numerator_sums / denominator_sums, [tail, 1 - tail])
    return float(low), float(high)
