"""Packs all splits before a run, for `bytelm data pack`."""

import time

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of, printable_name, say
from bytelm.data.corpus.cache import NoTextError, is_packed
from bytelm.data.open_data import OpenData
from bytelm.data.sources.source import Source
from bytelm.data.text_record import SPLITS, Split


def pack_splits(data: OpenData) -> None:
    """Packs each split of each source, also as tokens or pieces, and says what it holds.

    Raises:
        UserError: for a task that reads no packed text, a train split without text, a full disk, or
            a bad source.
    """
    task = data.config.task
    if task.makes_text or task.needs_targets or task.streamed:
        why = "--data.read stream" if task.streamed else f"the task {task.kind}"
        raise UserError(f"{why} reads no packed text, so there is nothing to pack.")
    _ = data.tokenizer, data.unigram  # a mistake is told before hours of packing
    begin, size = time.monotonic(), 0
    for source in data.sources:
        for split in SPLITS:
            size += _packed(data, source, split)
    if size:
        speed = size / 1e6 / (time.monotonic() - begin)
        say(f"packed {size / 1e6:,.1f} MB of text at {speed:,.1f} MB/s")


def _packed(data: OpenData, source: Source, split: Split) -> int:
    """Packs a split, and says so; returns its bytes, 0 if it was packed before."""
    was_packed = is_packed(source, split, data.config.cache_path)
    try:
        corpus = data.packed(source, split)
        data.corpus(source, split)
    except NoTextError:
        if split == "train":
            raise
        say(f"{source.name} ({split}): no text")
        return 0
    about = [number_of(corpus.num_documents, "document"), f"{corpus.num_bytes / 1e6:,.1f} MB"]
    about += [f"{corpus.skipped:,} skipped"] * bool(corpus.skipped)
    about += [f"{corpus.repeated:,} repeated"] * bool(corpus.repeated)
    about += ["packed before"] * was_packed
    where = printable_name(corpus.directory)
    say(f"{printable_name(source.name)} ({split}): {', '.join(about)}; in {where}")
    return 0 if was_packed else corpus.num_bytes
