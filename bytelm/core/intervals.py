"""Confidence intervals: of a ratio of sums over documents (bootstrap), and of a share (Wilson)."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from bytelm.core.errors import UserError
from bytelm.core.figure import Figure

LEAST_DOCUMENTS = 10
"""With fewer, there is no interval: it would be far too narrow."""

CONFIDENCE = 0.95
SAMPLES = 1000
"""Resamples of a bootstrap."""
_CHUNK = 1 << 20
"""Resampled documents drawn at a time; bounds the memory to about 20 MB."""


def bootstrap_interval(
    numerators: ArrayLike, denominators: ArrayLike
) -> tuple[float, float] | None:
    """95% percentile bootstrap interval of `sum(numerators) / sum(denominators)`.

    Documents are resampled whole, with replacement, so that the bytes of one document need not
    be independent (Efron & Tibshirani 1993, chapter 13). For the difference of two models on
    the same documents (a paired bootstrap) pass the per-document differences as numerators.

    Args:
      numerators: float `[documents]`, such as the bits of each document.
      denominators: non-negative float `[documents]`, such as its raw bytes.

    Returns:
      Both ends of the interval; None for fewer than `LEAST_DOCUMENTS` documents that are not empty.

    Raises:
      ValueError: if the arrays differ in shape, are not 1-D, or the denominators sum to zero.
    """
    numerators = np.asarray(numerators, np.float64)
    denominators = np.asarray(denominators, np.float64)
    if numerators.ndim != 1 or numerators.shape != denominators.shape:
        raise ValueError(
            "numerators and denominators must be 1-D and of one length, not of shapes "
            f"{numerators.shape} and {denominators.shape}"
        )
    if not denominators.sum() > 0:
        raise ValueError("the denominators must sum to more than zero")

    return bootstrap(lambda sums: sums[0] / sums[1], numerators, denominators)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], *columns: ArrayLike
) -> tuple[float, float] | None:
    """95% percentile bootstrap interval of a function of sums over documents.

    Documents are resampled whole, as in `bootstrap_interval`, of all columns together.

    Args:
      statistic: from the sums of the columns, float64 `[columns, samples]`, to `[samples]`.
      columns: float `[documents]` each. The last one says what counts, such as raw bytes: a
        document with 0 does not, nor does a resample of only such documents.

    Returns:
      Both ends of the interval; None for fewer than `LEAST_DOCUMENTS` documents that count.
    """
    values = np.array(columns, np.float64)  # [columns, documents]
    if np.count_nonzero(values[-1]) < LEAST_DOCUMENTS:
        return None
    documents = values.shape[1]
    generator = np.random.default_rng(0)
    sums = np.empty((len(values), SAMPLES))
    rows = max(1, _CHUNK // documents)
    for first in range(0, SAMPLES, rows):
        chunk = slice(first, min(first + rows, SAMPLES))
        size = (chunk.stop - chunk.start, documents)
        drawn = generator.integers(documents, size=size, dtype=np.int32)  # [chunk, documents]
        for column, sums_of_column in zip(values, sums, strict=True):
            sums_of_column[chunk] = column[drawn].sum(axis=1)
    found = statistic(sums[:, sums[-1] > 0])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def ratio(
    name: str,
    numerators: ArrayLike,
    denominators: ArrayLike,
    unit: str = "",
    *,
    empty: float | None = None,
) -> Figure:
    """The figure `sum(numerators) / sum(denominators)`, with its `bootstrap_interval`.

    `empty` is the ratio if the denominators sum to zero.

    Raises:
      UserError: if they do, and `empty` is None.
    """
    count = np.sum(denominators)
    if not count > 0 and empty is not None:
        return Figure(name, empty, unit)
    if not count > 0:
        raise UserError(
            f"the documents hold no bytes that count for {name}; choose a source or split that has "
            "text."
        )
    low, high = bootstrap_interval(numerators, denominators) or (None, None)
    return Figure(name, float(np.sum(numerators) / count), unit, low, high)


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of the share `hits / count`, which has a width even for 0 or 1."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, correction = hits / count, z * z / count
    middle = share + correction / 2
    half = z * np.sqrt((share * (1 - share) + correction / 4) / count)
    low, high = (middle - half) / (1 + correction), (middle + half) / (1 + correction)
    return max(0.0, float(low)), min(1.0, float(high))
