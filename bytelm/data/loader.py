"""Batches of every task for training."""

import abc
import json
import logging
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import grain

from bytelm.core.errors import UserError
from bytelm.data.corpus.packing import ConcatenatedRows
from bytelm.data.open_data import OpenData
from bytelm.data.order import ShuffledRows
from bytelm.data.run_text import all_packed
from bytelm.data.stream import stream_rows
from bytelm.data.windows import MixedWindows, PackingAhead
from bytelm.data.workers import WorkerIterator
from bytelm.models.contract import Batch

logger = logging.getLogger(__name__)


class TrainLoader(abc.ABC):
    """An endless iterator over this process's rows of the training batches.

    Each `next` gives a `Batch` of numpy arrays `[batch_size / process_count, T]`, with `scripts`
    if `data.scripts` names any, `boundaries` if there is a `data.unigram`, and `inputs`
    `[batch_size / process_count, S]` for a task with an encoder.

    Attributes:
        fingerprint: hex digest of the training text and its tokenizer or Unigram model, or the name
            of the diagnostic task; checkpoints record it.
    """

    fingerprint: str
    _iterator: WorkerIterator

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return Batch(**next(self._iterator))

    def reads(self, fingerprint: str) -> bool:
        """Whether a fingerprint, perhaps of a version before, is that of the training text."""
        return fingerprint == self.fingerprint

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """The position after the batches given so far, as JSON values."""

    @abc.abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Continues at a saved position; UserError if it cannot."""

    def close(self) -> None:
        """Stops the threads and processes that prepare batches."""
        self._iterator.close()


def train_loader(
    data: OpenData, seed: int, process_index: int = 0, process_count: int = 1
) -> TrainLoader:
    """The training batches of one of the processes that share each batch.

    `seed` decides the order of rows. UserError for a bad source, or a batch that the processes
    cannot share evenly.
    """
    batch_size = data.config.batch_size
    if batch_size % process_count:
        raise UserError(
            f"data.batch_size is {batch_size}, which {process_count} processes cannot share "
            "evenly; choose a multiple."
        )
    loader = StreamLoader if data.config.task.streamed else PackedLoader
    return loader(data, seed, process_index, process_count)


class PackedLoader(TrainLoader):
    """Reads rows by their indices, in a new order each epoch, or shard by shard.

    Its state is one integer, valid for any number of processes and any batch size.
    """

    def __init__(self, data: OpenData, seed: int, process_index: int, process_count: int) -> None:
        self._config, self._data = data.config, data
        self._rows: ShuffledRows | MixedWindows
        self._ahead: list[PackingAhead] = []
        if data.config.task.shards_together:
            # The order depends on how a source is divided too.
            self.fingerprint = data.join_fingerprints(
                [source.shards_fingerprint("train", data.shards(source)) for source in data.sources]
            )
            self._rows = MixedWindows(data, seed)
            if not all_packed(data):
                others = process_count * len(data.sources)
                self._ahead = [PackingAhead(data, source, others) for source in data.sources]
        else:
            rows = ConcatenatedRows(data.training_rows(seed))
            fingerprints = [source.fingerprint for source in rows.sources]
            self.fingerprint = data.join_fingerprints(fingerprints)
            self._rows = ShuffledRows(rows, data.weights, seed)
        self._local_size = data.config.batch_size // process_count
        self._offset = process_index * self._local_size
        self._start(first_row=0)

    def _start(self, first_row: int) -> None:
        self._next_row = first_row
        first_rows = grain.MapDataset.range(
            first_row + self._offset, sys.maxsize, self._config.batch_size
        )
        batches = first_rows.map(partial(self._rows.batch, count=self._local_size))
        prefetched = batches.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        )
        self._iterator = WorkerIterator(prefetched, self._config.workers)

    def __next__(self) -> Batch:
        batch = super().__next__()
        self._next_row += self._config.batch_size
        return batch

    def close(self) -> None:
        super().close()
        while self._ahead:
            self._ahead.pop().close()

    def reads(self, fingerprint: str) -> bool:
        data, task = self._data, self._config.task
        if fingerprint == self.fingerprint:
            return True
        others = fingerprint.split("-")
        if task.makes_text or task.needs_targets or task.shards_together:
            return False
        if len(others) < len(data.sources):
            return False
        corpora = [data.packed(source, "train") for source in data.sources]
        return fingerprint == data.join_fingerprints(
            [corpus.fingerprint_like(other) for corpus, other in zip(corpora, others, strict=False)]
        )

    def state(self) -> dict[str, Any]:
        return {"rows": self._next_row}

    def restore(self, state: dict[str, Any]) -> None:
        if "rows" not in state:
            raise UserError("the checkpoint is of --data.read stream; resume with the same option.")
        self._iterator.close()
        self._start(first_row=state["rows"])


class StreamLoader(TrainLoader):
    """Reads an unpacked dataset; its state is Grain's, valid only for the same processes."""

    def __init__(self, data: OpenData, seed: int, process_index: int, process_count: int) -> None:
        batch_size, workers = data.config.batch_size, data.config.workers
        self.fingerprint = data.join_fingerprints(
            [source.fingerprint("train") for source in data.sources]
        )
        self._layout = {
            "process_index": process_index,
            "process_count": process_count,
            "workers": workers,
        }
        batches = stream_rows(data, seed, process_index, process_count).batch(
            batch_size // process_count
        )
        if not workers:
            batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=4)
        self._iterator = WorkerIterator(batches, workers)
        if process_index == 0:
            logger.warning(
                "data.read is stream: this run resumes exactly on %d process(es) only, with "
                "--data.workers %d",
                process_count,
                workers,
            )

    def state(self) -> dict[str, Any]:
        # Through JSON, so that a state is the same before and after it is saved.
        grain_state = json.loads(json.dumps(self._iterator.get_state()))
        return {"layout": self._layout, "grain": grain_state}

    def restore(self, state: dict[str, Any]) -> None:
        if "layout" not in state:
            raise UserError("the checkpoint is of --data.read packed; resume with the same option.")
        saved, now = state["layout"], self._layout
        if saved != now:
            raise UserError(
                f"a streamed run resumes only on as many processes as before: the checkpoint has "
                f"{saved['process_count']} with --data.workers {saved['workers']} (this one was "
                f"number {saved['process_index']}), now there are {now['process_count']} with "
                f"{now['workers']} (this one is number {now['process_index']})."
            )
        self._iterator.set_state(_with_tuples(state["grain"]))


def _with_tuples(state: Any) -> Any:
    """Grain compares parts of its state with tuples, which JSON turns into lists."""
    if isinstance(state, dict):
        return {key: _with_tuples(value) for key, value in state.items()}
    return tuple(map(_with_tuples, state)) if isinstance(state, list) else state
