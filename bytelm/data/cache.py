"""Packed text on disk: each split of a source is packed once, and memory-mapped from then on."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.data.build_once import SUMMARY, build_once, is_complete
from bytelm.data.config import SPLITS, DataConfig, Split
from bytelm.data.packing import FILLER, Corpus
from bytelm.data.scripts import script_ids
from bytelm.data.sources import Source
from bytelm.data.text_record import PLACED, placed_passages
from bytelm.data.tfds_source import TfdsMissingError
from bytelm.data.unigram import Unigram
from bytelm.errors import UserError
from bytelm.file_names import name_part

FORMAT = 2
"""Version of the files below; raise it when their meaning changes."""
SYMBOLS = "symbols.bin"
STARTS = "starts.bin"
SCRIPTS = "scripts.bin"
"""Number of each document's script in the summary's `scripts`, where they are known."""
BOUNDARIES = "boundaries.bin"
"""Whether a piece ends with each symbol; in a directory of its own, for each Unigram model."""
START_BYTES = 8
SCRIPT_BYTES = 4
PASSAGES = "passages.bin"
"""The passages of all documents that were read, as `text_record.PLACED`, with their splits."""

logger = logging.getLogger(__name__)


class PackedCorpus(Corpus):
    """A corpus in a directory, memory-mapped.

    Attributes:
        name: the source's name.
        fingerprint: hex digest of the documents' bytes and order.
        skipped: bad records that were left out when it was packed.
        cut: parts of long documents that it has.
    """

    def __init__(
        self, directory: Path, scripts: Sequence[str] = (), boundaries: Path | None = None
    ) -> None:
        """Maps the files.

        Args:
            directory: of the packed text.
            scripts: the names that count, in the order of their numbers; none = leave them out.
            boundaries: directory of the boundaries of its pieces; none = leave them out.

        Raises:
            UserError: for documents without a script, or of one that `scripts` does not have.
        """
        summary = json.loads((directory / SUMMARY).read_text())
        numbers = None
        if scripts:
            ids = script_ids(summary.get("scripts"), scripts, summary["name"])
            numbers = ids[mapped(directory / SCRIPTS, "<i4")]
        super().__init__(
            symbols=mapped(directory / SYMBOLS, np.uint8),
            starts=mapped(directory / STARTS, "<i8"),
            scripts=numbers,
            boundaries=mapped(boundaries / BOUNDARIES, np.bool_) if boundaries else None,
        )
        self.directory = directory
        self.name: str = summary["name"]
        self.fingerprint: str = summary["fingerprint"]
        self.skipped: int = summary["skipped"]
        self.cut: int = summary["cut"]
        self._origin = (directory, scripts, boundaries)

    @property
    def passages(self) -> np.ndarray:
        """The passages of all documents that were read to pack this split, as PLACED."""
        return np.fromfile(self.directory / PASSAGES, PLACED)

    def __reduce__(self) -> tuple[type["PackedCorpus"], tuple[object, ...]]:
        """Worker processes map the files themselves."""
        return PackedCorpus, self._origin


def mapped(path: Path, dtype: Any) -> np.ndarray:
    """The numbers of a file, `[its length]`, which are read when they are looked at."""
    # Slices of plain arrays are made several times faster than slices of np.memmap.
    return np.asarray(np.memmap(path, dtype, mode="r"))


def packed_corpus(source: Source, split: Split, cache_path: Path) -> PackedCorpus:
    """As `find_packed`; and says what was skipped, and which documents were cut."""
    corpus = find_packed(source, split, cache_path)
    if corpus.skipped:
        logger.warning(
            "%s (%s): %d bad lines or files were skipped", source.name, split, corpus.skipped
        )
    if corpus.cut and split == "train" and source.record is None:
        logger.warning("%s: %s", source.name, _how_it_is_cut(source, corpus.cut))
    return corpus


def find_packed(source: Source, split: Split, cache_path: Path) -> PackedCorpus:
    """Opens the packed documents of a split, and packs them first if they have changed or are new.

    Any number of processes may ask at once: one packs, the others wait for it. Where TFDS is not
    installed, what was packed of the same dataset before is taken as it is.

    Raises:
        UserError: for a split without text, too little room on the disk, or a bad source.
    """
    directory = _directory(source, split, cache_path / "packed")
    if not is_complete(directory):
        content = f"the packed text of {source.name} ({split})"
        stored = source.stored_split(split)
        size = source.reader.size(stored) * (1 if stored == split else source.held_out)
        build_once(directory, content, size, lambda partial: _pack(source, split, partial))
    return PackedCorpus(directory)


def training_corpus(
    source: Source, split: Split, config: DataConfig, unigram: Unigram | None
) -> PackedCorpus:
    """The packed documents with what rows carry of them besides: scripts and boundaries.

    Args:
        source: of the documents.
        split: of the source.
        config: has the names of the scripts.
        unigram: the model of `data.unigram`.

    Raises:
        UserError: as `packed_corpus`, and for a document whose script `data.scripts` lacks.
    """
    corpus = packed_corpus(source, split, config.cache_path)
    # The scripts are looked at before the pieces, which take longer.
    corpus = PackedCorpus(corpus.directory, config.scripts)
    if unigram is None:
        return corpus
    boundaries = config.cache_path / "boundaries" / f"{corpus.fingerprint}-{unigram.digest}"
    if not is_complete(boundaries):
        content = f"the pieces of {source.name} ({split})"
        size = corpus.num_symbols
        build_once(boundaries, content, size, lambda partial: _segment(corpus, unigram, partial))
    return PackedCorpus(corpus.directory, config.scripts, boundaries)


def _directory(source: Source, split: Split, root: Path) -> Path:
    try:
        fingerprint = source.fingerprint(split)
    except TfdsMissingError:
        for summary in sorted(root.glob(f"*/{SUMMARY}")):
            saved = json.loads(summary.read_text())
            if saved["settings"] == source.settings(split) and is_complete(summary.parent):
                return summary.parent
        raise
    return root / f"{name_part(source.name)}-{split}-{fingerprint}-v{FORMAT}"


def _pack(source: Source, split: Split, directory: Path) -> dict[str, Any]:
    """Writes the symbol stream, the starts and the scripts; returns the summary."""
    position, documents, digest = 0, 0, hashlib.blake2b(digest_size=16)
    names: dict[str, int] = {}
    cut = 0
    with (
        open(directory / SYMBOLS, "wb") as symbols,
        open(directory / STARTS, "wb") as starts,
        open(directory / SCRIPTS, "wb") as scripts,
        open(directory / PASSAGES, "wb") as passages,
    ):
        for (text, script, _), its_split, is_part in source.placed(split):
            passages.write(placed_passages(text, its_split))
            if its_split != split:
                continue
            cut += is_part
            starts.write(position.to_bytes(START_BYTES, "little"))
            # One after another: joined, a long text would be copied.
            for part in (FILLER, text, FILLER):
                symbols.write(part)
            digest.update(len(text).to_bytes(START_BYTES, "little"))
            digest.update(text)
            position += len(text) + 2
            documents += 1
            if script is not None:
                number = names.setdefault(script, len(names))
                scripts.write(number.to_bytes(SCRIPT_BYTES, "little"))
        starts.write(position.to_bytes(START_BYTES, "little"))
    if position == 2 * documents:
        raise no_text(source, split)
    summary: dict[str, Any] = {
        "name": source.name,
        "fingerprint": digest.hexdigest(),
        "skipped": source.reader.skipped,
        "settings": source.settings(split),
        "documents": documents,
        "bytes": position - 2 * documents,
        "cut": cut,
    }
    if names:
        summary["scripts"] = list(names)
    else:
        (directory / SCRIPTS).unlink()
    return summary


def _how_it_is_cut(source: Source, documents: int) -> str:
    held_out = [split for split in SPLITS if split not in (*source.reader.own_splits, "train")]
    return (
        f"{documents} document(s) longer than {source.split_above:,} bytes: the end of each, "
        f"{source.held_out:.1%} for each of {' and '.join(held_out)}, is held out "
        "(--data.split-above changes that, None takes it back)"
    )


def _segment(corpus: PackedCorpus, unigram: Unigram, directory: Path) -> dict[str, Any]:
    """Writes the boundaries of the pieces; returns the summary."""
    begin = time.monotonic()
    with open(directory / BOUNDARIES, "wb") as boundaries:
        for text in corpus.documents():
            boundaries.write(unigram.boundaries(text).tobytes())
    seconds = time.monotonic() - begin
    speed = corpus.num_bytes / 1e6 / seconds
    logger.info("cut %s into pieces at %.1f MB/s", corpus.name, speed)
    return {"name": corpus.name, "model": unigram.digest}


def no_text(source: Source, split: Split) -> UserError:
    """What to tell of a split that has nothing in it."""
    if split == "train":
        return UserError(f"{source.name} has no text to train on; choose another source.")
    if source.record is not None:
        return UserError(
            f"{source.name} has no text of the run's {split} split, and nothing that is new; score "
            "another split of it with --split, or other text."
        )
    return UserError(
        f"{source.name} has no text in its {split} split; name one with --data.{split}-files or "
        f"--data.{split}-split, or raise --data.held-out ({source.held_out}), or, where documents "
        f"are few and long, lower --data.split-above ({source.split_above}), above which the end "
        "of a document is held out."
    )
