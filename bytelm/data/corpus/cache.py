"""Packed text on disk: each split of a source is packed once, and memory-mapped from then on."""

import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.core.errors import UserError
from bytelm.data.config import SPLITS, DataConfig, Split
from bytelm.data.corpus.blocks import SUMMARY, read_summary
from bytelm.data.corpus.build_once import Entry, build_once, open_or_build
from bytelm.data.corpus.packing import FILLER, Corpus
from bytelm.data.corpus.progress import TextProgress
from bytelm.data.corpus.resumable import ResumableFiles
from bytelm.data.corpus.text_record import PLACED, placed_passages
from bytelm.data.sources.source import Source
from bytelm.data.sources.tfds import TfdsMissingError
from bytelm.data.writing_systems import script_ids
from bytelm.tokenizers.unigram import Unigram

FORMAT = 3
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
        self,
        directory: Path,
        scripts: Sequence[str] = (),
        boundaries: Path | None = None,
        name: str | None = None,
    ) -> None:
        """Maps the files.

        Args:
            directory: of the packed text.
            scripts: the names that count, in the order of their numbers; none = leave them out.
            boundaries: directory of the boundaries of its pieces; none = leave them out.
            name: of the source; none = the one that it was packed from.

        Raises:
            FileNotFoundError: if a directory is not complete.
            DamagedError: for starts or scripts that are damaged; symbols are checked when read.
            UserError: for documents without a script, or of one that `scripts` does not have.
        """
        entry = Entry(directory)
        summary = entry.summary
        self.name: str = name or summary["name"]
        numbers = None
        if scripts:
            ids = script_ids(summary.get("scripts"), scripts, self.name)
            numbers = ids[entry.checked(SCRIPTS, "<i4")]
        marks = None if boundaries is None else Entry(boundaries)
        super().__init__(
            symbols=entry.array(SYMBOLS, np.uint8),
            starts=entry.checked(STARTS, "<i8"),
            scripts=numbers,
            boundaries=None if marks is None else marks.array(BOUNDARIES, np.bool_),
        )
        self.directory = directory
        self.fingerprint: str = summary["fingerprint"]
        self.skipped: int = summary["skipped"]
        self.cut: int = summary["cut"]
        self._entries = entry, marks  # held, so that no other process removes them
        self._origin = (directory, scripts, boundaries, self.name)

    @property
    def passages(self) -> np.ndarray:
        """The passages of all documents that were read to pack this split, as PLACED."""
        return self._entries[0].checked(PASSAGES, PLACED)

    def __reduce__(self) -> tuple[type["PackedCorpus"], tuple[object, ...]]:
        """Worker processes map the files themselves."""
        return PackedCorpus, self._origin


def packed_corpus(
    source: Source, split: Split, cache_path: Path, scripts: Sequence[str] = ()
) -> PackedCorpus:
    """As `find_packed`; and says what was skipped, and which documents were cut."""
    corpus = find_packed(source, split, cache_path, scripts)
    if corpus.skipped:
        logger.warning(
            "%s (%s): %d bad lines or files were skipped", source.name, split, corpus.skipped
        )
    if corpus.cut and split == "train" and source.record is None:
        _say_once(corpus.directory, f"{source.name}: {_how_it_is_cut(source, corpus.cut)}")
    return corpus


def find_packed(
    source: Source, split: Split, cache_path: Path, scripts: Sequence[str] = ()
) -> PackedCorpus:
    """Opens the packed documents of a split, and packs them first if they have changed or are new.

    Any number of processes may ask at once: one packs, the others wait for it. Where TFDS is not
    installed, what was packed of the same dataset before is taken as it is. What is damaged is
    packed again.

    Args:
        source: of the documents.
        split: of the source.
        cache_path: of the cache.
        scripts: as `PackedCorpus` has them.

    Raises:
        UserError: for a split without text, too little room on the disk, or a bad source.
    """
    directory = _directory(source, split, cache_path / "packed")

    def build() -> None:
        content = f"the packed text of {source.name} ({split})"
        stored = source.stored_split(split)
        size = source.reader.size(stored) * (1 if stored == split else source.held_out)

        def pack(partial: Path) -> dict[str, Any]:
            summary = _pack(source, split, partial)
            if _directory(source, split, cache_path / "packed") != directory:
                raise UserError(
                    f"{source.name} changed while it was packed; give the command again when "
                    "nothing writes to it any more."
                )
            return summary

        build_once(directory, content, size, pack)

    return open_or_build(lambda: PackedCorpus(directory, scripts, name=source.name), build)


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
    # The scripts are looked at before the pieces, which take longer.
    corpus = packed_corpus(source, split, config.cache_path, config.scripts)
    if unigram is None:
        return corpus
    boundaries = config.cache_path / "boundaries" / f"{corpus.fingerprint}-{unigram.digest}"

    def build() -> None:
        content = f"the pieces of {source.name} ({split})"
        size = corpus.num_symbols
        build_once(
            boundaries,
            content,
            size,
            lambda partial: _segment(corpus, unigram, partial),
            resumes=True,
        )

    return open_or_build(
        lambda: PackedCorpus(corpus.directory, config.scripts, boundaries, source.name), build
    )


def _directory(source: Source, split: Split, root: Path) -> Path:
    try:
        fingerprint = source.fingerprint(split)
    except TfdsMissingError:
        for summary in sorted(root.glob(f"*-v{FORMAT}/{SUMMARY}")):
            saved = read_summary(summary.parent)
            if saved is not None and saved["settings"] == source.settings(split):
                return summary.parent
        raise
    # Without the source's name: a copy of a file under another name is the same text.
    return root / f"{split}-{fingerprint}-v{FORMAT}"


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
        TextProgress(
            f"packing {source.name} ({split})", source.reader.size(source.stored_split(split))
        ) as progress,
    ):
        for (text, script, _), its_split, is_part in source.placed(split):
            passages.write(placed_passages(text, its_split))
            progress.advance(len(text))
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


@functools.cache
def _say_once(directory: Path, message: str) -> None:
    """Says something of packed text, which a process may open many times."""
    logger.warning("%s", message)


def _how_it_is_cut(source: Source, documents: int) -> str:
    held_out = [split for split in SPLITS if split not in (*source.reader.own_splits, "train")]
    return (
        f"{documents} document(s) longer than {source.split_above:,} bytes: the last "
        f"{source.held_out * len(held_out):.1%} of each is held out for {' and '.join(held_out)} "
        "(--data.split-above changes that; None keeps documents whole)"
    )


def _segment(corpus: PackedCorpus, unigram: Unigram, directory: Path) -> dict[str, Any]:
    """Writes the boundaries of the pieces; returns the summary."""
    content = f"the pieces of {corpus.name}"
    with (
        ResumableFiles(directory, [BOUNDARIES], content) as written,
        document_progress(f"cutting {corpus.name} into pieces", corpus, written.done) as progress,
    ):
        for index in range(written.done, corpus.num_documents):
            text = corpus.document(index)
            written.files[BOUNDARIES].write(unigram.boundaries(text).tobytes())
            written.advance()
            progress.advance(len(text))
    return {"name": corpus.name, "model": unigram.digest}


def document_progress(action: str, corpus: Corpus, done: int) -> TextProgress:
    """Shows how far work on a corpus is of which `done` documents were done before."""
    before = int(corpus.starts[done]) - 2 * done
    return TextProgress(action, corpus.num_bytes, done=before)


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
