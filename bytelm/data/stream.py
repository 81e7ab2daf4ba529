"""Training rows from a dataset too large to pack: Grain reads its ArrayRecord shards."""

from collections.abc import Sequence

import grain
import numpy as np

from bytelm.data.config import DataConfig
from bytelm.data.order import source_seed
from bytelm.data.sources import Source
from bytelm.data.tfds_source import TfdsReader
from bytelm.errors import UserError
from bytelm.vocabulary import END, START, UNSCORED


def stream_rows(
    config: DataConfig,
    sources: Sequence[Source],
    seed: int,
    process_index: int,
    process_count: int,
) -> grain.IterDataset:
    """Endless rows for one process: dicts of int32 `[T]`, as `Rows` gives them.

    Documents are shuffled instead of rows, and packed after that, without losing a byte. Each
    process reads its own share of the documents.

    Raises:
        UserError: for a source without random access, or with too few documents.
    """
    streams = [
        _rows(config, source, source_seed(seed, number), process_index, process_count)
        for number, source in enumerate(sources)
    ]
    if len(streams) == 1:
        return streams[0]
    weights = [source.weight for source in config.source_configs]
    return grain.IterDataset.mix(streams, weights)


def _rows(
    config: DataConfig, source: Source, seed: int, process_index: int, process_count: int
) -> grain.IterDataset:
    reader = source.reader
    if not isinstance(reader, TfdsReader):
        raise UserError(
            f"--data.read stream needs a TFDS dataset, and {source.name} is a file: it has no "
            "random access; use --data.read packed."
        )
    documents = reader.random_access(source.stored_split("train"))
    readers = process_count * max(config.workers, 1)
    if len(documents) < readers:
        raise UserError(
            f"{source.name} has {len(documents)} documents to train on, too few for {readers} "
            "readers; use --data.read packed."
        )
    symbols = (
        grain.MapDataset.source(documents)
        .seed(seed)
        .shuffle()[process_index::process_count]
        .repeat()
        .filter(source.membership("train"))
        .map(_symbols)
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=16))
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
