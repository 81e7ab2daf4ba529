"""Training rows from a dataset too large to pack: Grain reads its ArrayRecord shards."""

from collections.abc import Sequence
from functools import partial

import grain
import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START, UNSCORED
from bytelm.data.config import DataConfig
from bytelm.data.order import source_seed
from bytelm.data.sources.source import Source
from bytelm.data.sources.tfds import TfdsReader
from bytelm.data.writing_systems import script_ids
from bytelm.tokenizers.unigram import Unigram


def stream_rows(
    config: DataConfig,
    sources: Sequence[Source],
    unigram: Unigram | None,
    seed: int,
    process_index: int,
    process_count: int,
) -> grain.IterDataset:
    """Endless rows for one process: dicts of arrays `[T]`, as `Rows` gives them.

    Documents are shuffled instead of rows, and packed after that, without losing a byte. Each
    process reads its own share of the documents.

    Raises:
        UserError: for a source without random access, with too few documents, or of a script that
            `data.scripts` does not have.
    """
    streams = [
        _rows(config, source, unigram, source_seed(seed, number), process_index, process_count)
        for number, source in enumerate(sources)
    ]
    if len(streams) == 1:
        return streams[0]
    weights = [source.weight for source in config.source_configs]
    return grain.IterDataset.mix(streams, weights)


def _rows(
    config: DataConfig,
    source: Source,
    unigram: Unigram | None,
    seed: int,
    process_index: int,
    process_count: int,
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
    script = stream_script(source, config.scripts)
    symbols = (
        grain.MapDataset.source(documents)
        .seed(seed)
        .shuffle()[process_index::process_count]
        .repeat()
        .map(partial(source.placement.part_in, "train"))
        .filter(_is_there)
        .map(partial(_symbols, script=script, unigram=unigram))
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=16))
    )
    names = ["ids", "targets"] + ["scripts"] * bool(config.scripts) + ["boundaries"] * bool(unigram)
    return grain.experimental.ConcatThenSplitIterDataset(
        symbols, length_struct=dict.fromkeys(names, config.sequence_length)
    ).map(partial(_row, names=names))


def stream_script(source: Source, scripts: Sequence[str]) -> int | None:
    """The number of a source's script in `data.scripts`; None where that names none.

    Raises:
        UserError: for a source without a script, or of another one.
    """
    if not scripts:
        return None
    return int(script_ids(source.script and [source.script], scripts, source.name)[0])


def _is_there(text: bytes | None) -> bool:
    return text is not None


def _symbols(document: bytes, script: int | None, unigram: Unigram | None) -> dict[str, np.ndarray]:
    """A document's symbols, the symbol after each of them, and what else rows carry."""
    text = np.frombuffer(document, np.uint8)
    symbols = np.concatenate([[START], text, [END, UNSCORED]], dtype=np.int32)
    found = {"ids": symbols[:-1], "targets": symbols[1:]}
    if script is not None:
        found["scripts"] = np.full(len(text) + 2, script, np.int32)
    if unigram is not None:
        found["boundaries"] = unigram.boundaries(document)
    return found


def _row(packed: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    row = {name: packed[name] for name in names}
    return row | {"document_ids": packed["ids_segment_ids"]}
