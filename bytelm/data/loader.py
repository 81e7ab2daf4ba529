"""Batches for training and validation, from packed text or from a stream."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import grain
import numpy as np

from bytelm.data.cache import packed_corpus
from bytelm.data.config import DataConfig, Split
from bytelm.data.order import ShuffledBatches
from bytelm.data.packing import Corpus, Rows, pack
from bytelm.data.sources import Source, open_sources
from bytelm.data.stream import StreamBatches
from bytelm.errors import UserError
from bytelm.models.contract import Batch


class TrainLoader(Protocol):
    """An endless iterator over this process's rows of the training batches.

    Each `next` gives a `Batch` of int32 numpy arrays `[batch_size / process_count, T]`.
    """

    fingerprint: str
    """Hex digest of the training text, for a checkpoint's provenance."""

    def __next__(self) -> Batch:
        """The next batch."""

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""

    def state(self) -> dict[str, Any]:
        """Where the batches handed out so far end, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on behind the batches that had been handed out when `state` was taken.

        Raises:
            UserError: where the state is of another way of reading, or of other processes.
        """

    def close(self) -> None:
        """Stops the threads and processes that prepare batches."""


def train_loader(
    config: DataConfig, seed: int, process_index: int = 0, process_count: int = 1
) -> TrainLoader:
    """The training batches of one of the processes of a run.

    Args:
        config: what to read, and the shape of the batches.
        seed: of the order of the rows.
        process_index: which of the processes this is, from 0.
        process_count: how many processes share each batch.

    Raises:
        UserError: for a bad source, or a batch that the processes cannot share evenly.
    """
    _check_divisible(config.batch_size, process_count)
    if config.read == "stream":
        return _StreamLoader(StreamBatches(config, seed, process_index, process_count))
    return _PackedLoader(config, seed, process_index, process_count)


class _PackedLoader:
    """Reads rows of packed text; its state is one integer, good for any number of processes."""

    def __init__(
        self, config: DataConfig, seed: int, process_index: int, process_count: int
    ) -> None:
        corpora = [
            packed_corpus(source, "train", config.cache_path) for source in open_sources(config)
        ]
        self.fingerprint = _combined([corpus.fingerprint for corpus in corpora])
        self._config = config
        self._rows = [Rows(corpus, config.sequence_length) for corpus in corpora]
        self._share = (seed, config.batch_size, process_index, process_count)
        self._start(first_row=0)

    def _start(self, first_row: int) -> None:
        weights = [source.weight for source in self._config.source_configs]
        batches = ShuffledBatches(self._rows, weights, *self._share, first_row)
        self._next_row = first_row
        self._iterator = iter(prefetched(grain.MapDataset.source(batches), self._config.workers))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._next_row += self._config.batch_size
        return Batch(**batch)

    def state(self) -> dict[str, Any]:
        return {"rows": self._next_row}

    def restore(self, state: dict[str, Any]) -> None:
        if "rows" not in state:
            raise UserError("the checkpoint was read with --data.read stream; resume it so.")
        self.close()
        self._start(first_row=state["rows"])

    def close(self) -> None:
        self._iterator.close()
