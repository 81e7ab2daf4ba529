"""Values at every symbol of whole documents, one document at a time.

Documents are read in sliding windows, as in `bytelm.inference.scoring`: each value comes from the
window that scores it. Only documents with windows in the last few batches are held in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from bytelm.core.vocabulary import UNSCORED
from bytelm.inference.scoring import Window, in_flight
from bytelm.models.contract import Batch


class Document(NamedTuple):
    """A document that was read.

    Attributes:
        number: in the order of the documents, from 0.
        bytes: length of its text.
        symbols: integers `[N]`, its bytes or tokens.
        values: arrays `[N + 1, ...]`: at START and at each symbol, of the target that follows it.
            The last one is that of END.
    """

    number: int
    bytes: int
    symbols: np.ndarray
    values: Any


def by_document(
    run: Callable[[Batch], Any], batches: Iterable[tuple[list[Window], Batch]]
) -> Iterator[Document]:
    """Yields each document when all its windows have been scored, about in order.

    Args:
        run: gives a tree of arrays `[B, T, ...]` for a batch, such as a `Scorer` that runs a
            function.
        batches: from `window_batches`.
    """
    found: dict[int, list[np.ndarray]] = {}  # by document: the arrays of its tree
    left: dict[int, int] = {}  # by document: values that are missing
    for windows, batch, result in in_flight(run, batches):
        leaves, structure = jax.tree.flatten(result)
        arrays = [np.asarray(leaf) for leaf in leaves]
        for row, window in enumerate(windows):
            number, size = window.document, len(window.symbols) + 1
            if number not in found:
                left[number] = size
                found[number] = [np.empty((size, *each.shape[2:]), each.dtype) for each in arrays]
            positions = np.flatnonzero(batch.targets[row] != UNSCORED)  # [scored]
            for values, array in zip(found[number], arrays, strict=True):
                values[window.first + positions] = array[row, positions]
            left[number] -= len(positions)
            if not left[number]:
                del left[number]
                tree = jax.tree.unflatten(structure, found.pop(number))
                yield Document(number, window.bytes, window.symbols, tree)
