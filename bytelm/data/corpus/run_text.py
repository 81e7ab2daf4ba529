"""The text that a run reads, as its record."""

import hashlib
import json
from typing import Any

import numpy as np

from bytelm.data.config import DIAGNOSTICS, DataConfig, Split
from bytelm.data.corpus.cache import find_packed
from bytelm.data.corpus.text_record import PLACED, TextRecord, make_record, placed_passages
from bytelm.data.sources.source import Source, open_sources
from bytelm.data.sources.tfds import TfdsMissingError

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
    described = [describe_source(source) for source in sources]
    if config.read == "stream":
        return make_record([], complete=False, sources=described)
    rows = [
        _passages(source, split, config)
        for source in sources
        for split in READ_IN_TRAINING
        if source.stored_split(split) == split
    ]
    return make_record(rows, complete=True, sources=described)


def describe_source(source: Source) -> dict[str, Any]:
    """What a source is, ready for JSON.

    `text` changes with what is stored and how it is read, not with how it is split, and `test` with
    a test split of its own, which training does not read; `places` are the real paths and sizes of
    files, or the version of a dataset. All are None where TFDS is needed to tell and not installed.
    """
    about = {
        "name": source.name,
        "held_out": source.held_out,
        "split_above": source.split_above,
        "text": None,
        "test": None,
        "places": None,
    }
    try:
        own = source.reader.own_splits
        read = [split for split in READ_IN_TRAINING if split in own]
        stored = [source.reader.inputs(split) for split in read]
        places = {split: source.reader.places(split) for split in read}
    except TfdsMissingError:
        return about
    text = _digest([source.reader.settings, sorted(own), stored])
    test = _digest(source.reader.inputs("test")) if "test" in own else None
    return about | {"text": text, "test": test, "places": places}


def _digest(value: Any) -> str:
    """Hex digest of a JSON value."""
    content = json.dumps(value, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _passages(source: Source, split: Split, config: DataConfig) -> np.ndarray:
    if config.task != "pairs":
        return find_packed(source, split, config.cache_path).passages
    content = b"".join(placed_passages(p.document.text, p.split) for p in source.placed(split))
    return np.frombuffer(content, PLACED)
