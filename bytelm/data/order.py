"""Which rows make up which batch: row r of global batch s depends on the seed, s and r alone."""

import hashlib
import sys
from collections.abc import Sequence

import grain
import numpy as np

from bytelm.data.packing import Rows


class ShuffledBatches:
    """One process's part of the endless sequence of training batches, by number.

    Every source is shuffled anew in each epoch, and sources are mixed by their weights. The
    batches of all processes side by side are the same for any number of processes.

    Attributes:
        sources: the rows of each source.
        first_row: place in the order of all rows where batch 0 begins.
    """

    def __init__(
        self,
        sources: Sequence[Rows],
        weights: Sequence[float],
        seed: int,
        batch_size: int,
        process_index: int,
        process_count: int,
        first_row: int,
    ) -> None:
        self.sources = sources
        self.first_row = first_row
        self._batch_size = batch_size
        self._local_size = batch_size // process_count
        self._offset = process_index * self._local_size
        self._ends = np.cumsum([len(rows) for rows in sources])
        orders = [
            grain.MapDataset.range(end - len(rows), end)
            .seed(source_seed(seed, number))
            .shuffle()
            .repeat()
            for number, (rows, end) in enumerate(zip(sources, self._ends, strict=True))
        ]
        self._order = orders[0] if len(orders) == 1 else grain.MapDataset.mix(orders, weights)

    def __len__(self) -> int:
        return (sys.maxsize - self.first_row) // self._batch_size

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """This process's rows of a batch, as `Rows.batch` gives them."""
        begin = self.first_row + number * self._batch_size + self._offset
        places = range(begin, begin + self._local_size)
        return rows_of(self.sources, self._ends, np.array([self._order[place] for place in places]))


def rows_of(
    sources: Sequence[Rows], ends: np.ndarray, indices: np.ndarray
) -> dict[str, np.ndarray]:
    """Rows of several sources, numbered on from one source to the next.

    Args:
        sources: the rows of each source.
        ends: int `[number of sources]`, how many rows there are up to the end of each source.
        indices: int `[B]`.

    Returns:
        What `Rows.batch` returns, in the order of `indices`.
    """
    owners = np.searchsorted(ends, indices, side="right")
    if len(sources) == 1:
        return sources[0].batch(indices)
    batch: dict[str, np.ndarray] = {}
    for number in np.unique(owners):
        mine = owners == number
        part = sources[number].batch(indices[mine] - (ends[number] - len(sources[number])))
        for name, rows in part.items():
            batch.setdefault(name, np.empty((len(indices), rows.shape[1]), rows.dtype))[mine] = rows
    return batch


def source_seed(seed: int, number: int) -> int:
    """A seed of 32 bits for one of the sources of a run."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest)
