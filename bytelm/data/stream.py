"""Training batches from a dataset too large to pack: Grain reads its ArrayRecord shards."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from bytelm.data.config import DataConfig
from bytelm.data.order import in_workers, source_seed
from bytelm.data.sources import Source, open_sources
from bytelm.data.tfds_source import TfdsReader
from bytelm.errors import UserError
from bytelm.models.contract import Batch
from bytelm.vocabulary import END, START, UNSCORED

logger = logging.getLogger(__name__)


class StreamLoader:
    """Shuffles documents instead of rows, then packs them; loses no byte between the two.

    Each process reads its own share of the documents, so the state, which is Grain's, is good for
    the same number of processes and workers only.
    """

    def __init__(
        self, config: DataConfig, seed: int, process_index: int, process_count: int
    ) -> None:
        sources = open_sources(config)
        self.fingerprint = "-".join(source.fingerprint("train") for source in sources)
        self._layout = {
            "process_index": process_index,
            "process_count": process_count,
            "workers": config.workers,
        }
        streams = [
            _rows(source, source_seed(seed, number), process_index, process_count, config)
            for number, source in enumerate(sources)
        ]
        weights = [source.weight for source in config.source_configs]
        rows = streams[0] if len(streams) == 1 else grain.IterDataset.mix(streams, weights)
        batches = rows.batch(config.batch_size // process_count)
        if not config.workers:
            batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=4)
        self._iterator = iter(in_workers(batches, config.workers))
        logger.warning(
            "data.read is stream: this run resumes exactly on %d process(es) only, with "
            "--data.workers %d",
            process_count,
            config.workers,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        return Batch(**next(self._iterator))

    def state(self) -> dict[str, Any]:
        """Grain's position, and the processes that it holds for."""
        # Through JSON here, so that a state is the same before and after it is saved.
        grain_state = json.loads(json.dumps(self._iterator.get_state()))
        return {"layout": self._layout, "grain": grain_state}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on at the saved position.

        Raises:
            UserError: where the state is of packed text, or of another number of processes or
                workers.
        """
        if "layout" not in state:
            raise UserError("the checkpoint was read with --data.read packed; resume it so.")
        if state["layout"] != self._layout:
            saved = state["layout"]
            raise UserError(
                f"a streamed run resumes only on as many processes as before: the checkpoint has "
                f"{saved['process_count']} with --data.workers {saved['workers']} (this one was "
                f"number {saved['process_index']}), now there are "
                f"{self._layout['process_count']} with {self._layout['workers']} (this one is "
                f"number {self._layout['process_index']})."
            )
        self._iterator.set_state(_with_tuples(state["grain"]))

    def close(self) -> None:
        """Stops the threads and processes that prepare batches."""
        self._iterator.close()


def _rows(
    source: Source, seed: int, process_index: int, process_count: int, config: DataConfig
) -> grain.IterDataset:
    """Endless rows of one source for one process: dicts of int32 `[T]` as `Rows` gives them."""
    reader = source.reader
    if not isinstance(reader, TfdsReader):
        raise UserError(
            f"--data.read stream needs a TFDS dataset, and {source.name} is a file: it has no "
            "random access; use --data.read packed."
        )
    documents = reader.random_access(source.stored_split("train"))
    shard = max(process_count, 1) * max(config.workers, 1)
    if len(documents) < shard:
        raise UserError(
            f"{source.name} has {len(documents)} documents to train on, too few for {shard} "
            "readers; use --data.read packed."
        )
    symbols = (
        grain.MapDataset.source(documents)
        .seed(seed)
        .shuffle()[process_index::process_count]
        .repeat()
        .filter(source.membership("train"))
        .map(_symbols)
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=64))
    )
    length = config.sequence_length
    return grain.experimental.ConcatThenSplitIterDataset(
        symbols, length_struct={"ids": length, "targets": length}
    ).map(_row)


def _symbols(document: bytes) -> dict[str, np.ndarray]:
    """A document's symbols, and the symbol after each of them."""
    text = np.frombuffer(document, np.uint8)
    symbols = np.concatenate([[START], text, [END, UNSCORED]], dtype=np.int32)
    return {"ids": symbols[:-1], "targets": symbols[1:]}


def _row(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "ids": packed["ids"],
        "targets": packed["targets"],
        "segment_ids": packed["ids_segment_ids"],
    }


def _with_tuples(state: Any) -> Any:
    """Grain compares parts of its state with tuples, which JSON turns into lists."""
    if isinstance(state, dict):
        return {key: _with_tuples(value) for key, value in state.items()}
    return tuple(map(_with_tuples, state)) if isinstance(state, list) else state
