"""Training rows from a dataset too large to pack: Grain reads its examples by index.

Worker processes import this module, so it imports no models.
"""

from collections.abc import Sequence
from functools import partial

import grain
import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTE_VOCABULARY, UNSCORED
from bytelm.data.corpus.packing import Arrays
from bytelm.data.open_data import OpenData
from bytelm.data.order import source_seed
from bytelm.data.sources.source import Source
from bytelm.data.tasks.next_byte import source_script
from bytelm.tokenizers.unigram import Unigram


def stream_rows(
    data: OpenData, seed: int, process_index: int, process_count: int
) -> grain.IterDataset:
    """Endless rows for one process: dicts of arrays `[T]`, as `Rows` gives them.

    Documents are shuffled first and then packed into rows, without losing a byte. Each process
    reads its own share of the documents.
    """
    streams = [
        _stream_of_source(data, source, source_seed(seed, index), process_index, process_count)
        for index, source in enumerate(data.sources)
    ]
    return streams[0] if len(streams) == 1 else grain.IterDataset.mix(streams, data.weights)


def _stream_of_source(
    data: OpenData, source: Source, seed: int, process_index: int, process_count: int
) -> grain.IterDataset:
    config, unigram = data.config, data.unigram
    documents = source.reader.random_access(source.stored_split("train"))
    if documents is None:
        raise UserError(
            "--data.read stream needs a dataset of TFDS or of Hugging Face on this machine, and "
            f"{source.name} has no random access; use --data.read packed."
        )
    readers = process_count * max(config.workers, 1)
    if len(documents) < readers:
        raise UserError(
            f"{source.name} has {len(documents)} documents to train on, too few for {readers} "
            "readers; use --data.read packed."
        )
    script = source_script(source, config.scripts)
    symbols = (
        grain.MapDataset.source(documents)
        .seed(seed)
        .shuffle()[process_index::process_count]
        .repeat()
        # Grain leaves out elements that are None.
        .map(partial(source.placement.part_in, "train"))
        .map(partial(_symbols, script=script, unigram=unigram))
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=16))
    )
    names = ["ids", "targets"] + ["scripts"] * bool(config.scripts) + ["boundaries"] * bool(unigram)
    return grain.experimental.ConcatThenSplitIterDataset(
        symbols, length_struct=dict.fromkeys(names, config.sequence_length)
    ).map(partial(_row, names=names))


def _symbols(document: bytes, script: int | None, unigram: Unigram | None) -> Arrays:
    """A document's symbols, their targets, scripts and boundaries, each `[N]`."""
    ids = BYTE_VOCABULARY.frame(np.frombuffer(document, np.uint8))
    found = {"ids": ids, "targets": np.append(ids[1:], np.int32(UNSCORED))}
    if script is not None:
        found["scripts"] = np.full(len(ids), script, np.int32)
    if unigram is not None:
        found["boundaries"] = unigram.boundaries(document)
    return found


def _row(packed: Arrays, names: Sequence[str]) -> Arrays:
    row = {name: packed[name] for name in names}
    return row | {"document_ids": packed["ids_segment_ids"]}
