"""The text that a run reads, as its record."""

from typing import Any

import numpy as np

from bytelm.data.cache import find_packed
from bytelm.data.config import DIAGNOSTICS, DataConfig, Split
from bytelm.data.sources import Source, open_sources
from bytelm.data.text_record import PLACED, TextRecord, make_record, placed_passages
from bytelm.data.tfds_source import TfdsMissingError

READ_IN_TRAINING: tuple[Split, ...] = ("train", "validation")


def run_text(config: DataConfig) -> TextRecord:
    """The record of the text that training with a config reads.

    It holds what a split of the storage holds that training reads, so the test split too where it
    is taken from the train split. A streamed dataset is too large for it: the record is then not
    complete, and only says what the dataset is.

    Raises:
        UserError: for a bad source.
    """
    if config.task in DIAGNOSTICS:
        return make_record([], complete=True, sources=[])
    sources = open_sources(config)
    listed = config.read == "packed"
    rows, described = [], []
    for source in sources:
        about: dict[str, Any] = {"name": source.name, "splits": {}}
        for split in READ_IN_TRAINING:
            about["splits"][split] = {
                "fingerprint": packed_name(source, split),
                "inputs": _inputs(source, split),
            }
            if listed and source.stored_split(split) == split:
                rows.append(_passages(source, split, config))
        described.append(about)
    return make_record(rows, listed, described)


def packed_name(source: Source, split: Split) -> str | None:
    """The fingerprint of a source's split; None where TFDS is needed for it and not installed."""
    try:
        return source.fingerprint(split)
    except TfdsMissingError:
        return None


def _inputs(source: Source, split: Split) -> object:
    """What the storage of a split is: of files their real paths and sizes."""
    try:
        return source.reader.inputs(source.stored_split(split))
    except TfdsMissingError:
        return None


def _passages(source: Source, split: Split, config: DataConfig) -> np.ndarray:
    if config.task != "pairs":
        return find_packed(source, split, config.cache_path).passages
    content = b"".join(placed_passages(p.document.text, p.split) for p in source.placed(split))
    return np.frombuffer(content, PLACED)
