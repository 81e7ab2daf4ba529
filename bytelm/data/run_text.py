"""The text that a run reads: its size and its record."""

import json
from typing import Any, NamedTuple

from bytelm.data.corpus.entries import digest_of, is_complete
from bytelm.data.corpus.input_shards import shard_directory
from bytelm.data.open_data import OpenData
from bytelm.data.sources.reader import NotInstalledError
from bytelm.data.sources.source import Source
from bytelm.data.text_record import WAITING, Split, TextRecord, make_record

READ_IN_TRAINING: tuple[Split, ...] = ("train", "validation")


class TextSize(NamedTuple):
    """The training text of a run."""

    bytes: int | None
    """Bytes of all sources; None if unknown (a stream, or shard by shard) or endless."""
    rows: int | None
    """Rows of one pass over all sources; None as above."""
    bytes_per_row: float
    """Mean by the weights of the mixture; the maximum if `bytes` is None."""


def text_size(data: OpenData) -> TextSize:
    """The size of the train split, which is packed if needed; UserError for a bad source."""
    task, length = data.config.task, data.config.sequence_length
    if task.streamed or task.shards_together:
        return TextSize(None, None, length)
    if task.makes_text:
        return TextSize(None, None, length - 1)  # each row has an END
    rows = data.training_rows(seed=0)
    sizes = [each.num_bytes or 0 for each in rows]
    per_row = [size / len(each) for size, each in zip(sizes, rows, strict=True)]
    mean = sum(map(float.__mul__, data.weights, per_row)) / sum(data.weights)
    return TextSize(sum(sizes), sum(map(len, rows)), mean)


def run_text(data: OpenData) -> TextRecord:
    """The record of the text that training reads; UserError for a bad source.

    It has all documents of the stored splits that training reads. Those include the test split if
    it is taken from the train split. A streamed dataset is too large: its record is not complete,
    and only names the dataset. So is that of a source of which some shards are not packed yet.
    """
    task = data.config.task
    described = [describe_source(source) for source in data.sources]
    if task.streamed:
        return make_record([], complete=False, sources=described)
    if task.shards_together and not all_packed(data):
        waiting = [about | {WAITING: True} for about in described]
        return make_record([], complete=False, sources=waiting)
    rows = (
        each
        for source in data.sources
        for split in READ_IN_TRAINING
        if source.stored_split(split) == split
        for each in task.passages(data, source, split)
    )
    return make_record(rows, complete=True, sources=described)


def all_packed(data: OpenData) -> bool:
    """Whether all shards are packed that training reads one after another."""
    path = data.config.cache_path
    return all(
        is_complete(shard_directory(source, "train", shard, path))
        for source in data.sources
        for shard in data.shards(source)
    )


def describe_source(source: Source) -> dict[str, Any]:
    """What identifies a source, as JSON values.

    `text` is a digest of the stored text and of how it is read, but not of how it is split. `test`
    is the digest of a test split of its own. `places` are the real paths and sizes of files, or the
    version of a dataset. All are None if they need TFDS and it is not installed.
    """
    about: dict[str, Any] = {
        "name": source.name,
        "held_out": source.held_out,
        "split_above": source.split_above,
    }
    try:
        own = source.reader.own_splits
        read = [split for split in READ_IN_TRAINING if split in own]
        stored = [source.reader.inputs(split) for split in read]
        places = {split: source.reader.places(split) for split in read}
    except NotInstalledError:
        return about | dict.fromkeys(("text", "test", "places"))
    text = _digest([source.reader.settings, sorted(own), stored])
    test = _digest(source.reader.inputs("test")) if "test" in own else None
    return about | {"text": text, "test": test, "places": places}


def _digest(value: Any) -> str:
    return digest_of(json.dumps(value, sort_keys=True).encode()).hex()
