"""Packed text on disk: each split of a source is packed once, and memory-mapped after that."""

import copy
import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of
from bytelm.data.corpus.entries import SUMMARY, Entry, build_once, open_or_build, read_summary
from bytelm.data.corpus.packing import FILLER, Corpus, script_ids
from bytelm.data.progress import TextProgress
from bytelm.data.sources.reader import NotInstalledError
from bytelm.data.sources.source import Source
from bytelm.data.text_record import PLACED, SPLITS, Split, placed_passages

FORMAT = 4
"""Version of the files below; raise it when their meaning changes."""
SYMBOLS = "symbols.bin"
STARTS = "starts.bin"
SCRIPTS = "scripts.bin"
"""Index of each document's script in the summary's `scripts`, if scripts are known."""
BOUNDARIES = "boundaries.bin"
"""Whether a piece ends with each symbol; each Unigram model has its own directory."""
ENTROPIES = "entropies.bin"
"""The entropy after each symbol; each entropy model and length of rows has its own directory."""
START_BYTES = 8
SCRIPT_BYTES = 4
PASSAGES = "passages.bin"
"""The passages of all documents that were read and their splits, as `text_record.PLACED`."""

logger = logging.getLogger(__name__)


class PackedCorpus(Corpus):
    """A corpus in a directory, memory-mapped.

    Attributes:
        name: the source's name.
        skipped: number of bad records that packing skipped.
        repeated: number of documents that were left out because they came before.
        cut: number of parts of long documents.
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Maps the files of a source with this name.

        Raises:
            FileNotFoundError: if the directory is not complete.
            DamagedError: for damaged starts or scripts; symbols are checked when read.
        """
        self._entry = Entry(directory)  # kept, so that no other process removes it
        summary = self._entry.summary
        super().__init__(
            symbols=self._entry.array(SYMBOLS, np.uint8),
            starts=self._entry.checked(STARTS, "<i8"),
            fingerprint=summary["fingerprint"],
        )
        self.directory = directory
        self.name = name
        self.skipped: int = summary["skipped"]
        self.repeated: int = summary.get("repeated", 0)
        self.cut: int = summary["cut"]
        # Small files are checked now, because damaged text is repacked only on opening.
        known = summary.get("scripts")
        self._script_numbers = self._entry.checked(SCRIPTS, "<i4") if known else None
        self._script_names: Sequence[str] = ()
        self._boundaries: Entry | None = None
        self._entropies: Entry | None = None

    def about_repeated(self, split: Split) -> str:
        """How many documents were left out, in words."""
        size = self._entry.summary["repeated_bytes"]
        return (
            f"{self.name}: {number_of(self.repeated, 'document')} of what holds the {split} split, "
            f"{number_of(size, 'byte')}, came before or are held out, and were left out"
        )

    def with_scripts(self, names: Sequence[str]) -> "PackedCorpus":
        """The same corpus with the index in `names` of each document's script.

        Raises:
            UserError: for documents without a script, or with one that is not in `names`.
        """
        if not names:
            return self
        ids = script_ids(self._entry.summary.get("scripts"), names, self.name)
        found = copy.copy(self)
        found.scripts = ids[self._script_numbers]
        found._script_names = names
        return found

    def with_boundaries(self, directory: Path) -> "PackedCorpus":
        """The same corpus with boundaries; FileNotFoundError if `directory` is not complete."""
        found = copy.copy(self)
        found._boundaries = Entry(directory)
        found.boundaries = found._boundaries.array(BOUNDARIES, np.bool_)
        return found

    def with_entropies(self, directory: Path) -> "PackedCorpus":
        """The same corpus with entropies; FileNotFoundError if `directory` is not complete."""
        found = copy.copy(self)
        found._entropies = Entry(directory)
        found.entropies = found._entropies.array(ENTROPIES, "<i2")
        return found

    @property
    def passages(self) -> np.ndarray:
        """The passages of all documents that were read to pack this split, as PLACED."""
        return self._entry.checked(PASSAGES, PLACED)

    def __reduce__(self) -> tuple[Callable[..., "PackedCorpus"], tuple[object, ...]]:
        """Worker processes map the files themselves."""
        boundaries = self._boundaries and self._boundaries.directory
        entropies = self._entropies and self._entropies.directory
        return _reopened, (self.directory, self.name, self._script_names, boundaries, entropies)


def _reopened(
    directory: Path,
    name: str,
    scripts: Sequence[str],
    boundaries: Path | None,
    entropies: Path | None,
) -> PackedCorpus:
    corpus = PackedCorpus(directory, name).with_scripts(scripts)
    corpus = corpus if boundaries is None else corpus.with_boundaries(boundaries)
    return corpus if entropies is None else corpus.with_entropies(entropies)


def packed_corpus(source: Source, split: Split, cache_path: Path) -> PackedCorpus:
    """Opens the packed documents of a split, and packs them if they are new, changed or damaged.

    Warns about skipped records and cut documents. If several processes ask at once, one packs and
    the others wait. If TFDS is not installed, earlier packed text of the same dataset is used.

    Raises:
        UserError: for a split without text, a full disk, or a bad source.
    """
    root = cache_path / "packed"
    directory = _directory(source, split, root)

    def pack(partial: Path) -> dict[str, Any]:
        summary = _pack(source, split, partial)
        if _directory(source, split, root) != directory:
            raise UserError(
                f"{source.name} changed while it was packed; give the command again when "
                "nothing writes to it any more."
            )
        return summary

    def build() -> None:
        stored = source.stored_split(split)
        size = source.reader.size(stored) * (1 if stored == split else source.held_out)
        build_once(directory, f"the packed text of {source.name} ({split})", size, pack)

    corpus = open_or_build(lambda: PackedCorpus(directory, source.name), build)
    if corpus.skipped:
        logger.warning(
            "%s (%s): %d bad lines or files were skipped", source.name, split, corpus.skipped
        )
    if corpus.repeated:
        _say_once(corpus.directory, corpus.about_repeated(split))
    if corpus.cut and split == "train" and source.record is None:
        _say_once(corpus.directory, _how_it_is_cut(source, corpus.cut))
    return corpus


def _directory(source: Source, split: Split, root: Path) -> Path:
    try:
        fingerprint = source.fingerprint(split)
    except NotInstalledError:
        for summary in sorted(root.glob(f"*-v{FORMAT}/{SUMMARY}")):
            saved = read_summary(summary.parent)
            if saved is not None and saved["settings"] == source.settings(split):
                return summary.parent
        raise
    # The source's name is left out: a copy of a file is the same text.
    return root / f"{split}-{fingerprint}-v{FORMAT}"


def _pack(source: Source, split: Split, directory: Path) -> dict[str, Any]:
    """Writes the symbol stream, the starts and the scripts; returns the summary."""
    position, documents, digest = 0, 0, hashlib.blake2b(digest_size=16)
    names: dict[str, int] = {}
    cut = 0
    size = source.reader.size(source.stored_split(split))
    with (
        open(directory / SYMBOLS, "wb") as symbols,
        open(directory / STARTS, "wb") as starts,
        open(directory / SCRIPTS, "wb") as scripts,
        open(directory / PASSAGES, "wb") as passages,
        TextProgress(f"packing {source.name} ({split})", size) as progress,
    ):
        for (text, script, _), its_split, is_part in source.placed(split):
            passages.write(placed_passages(text, its_split))
            progress.advance(len(text))
            if its_split != split:
                continue
            cut += is_part
            starts.write(position.to_bytes(START_BYTES, "little"))
            # Written separately, because joining would copy a long text.
            for part in (FILLER, text, FILLER):
                symbols.write(part)
            digest.update(len(text).to_bytes(START_BYTES, "little"))
            digest.update(text)
            position += len(text) + 2
            documents += 1
            if script is not None:
                index = names.setdefault(script, len(names))
                scripts.write(index.to_bytes(SCRIPT_BYTES, "little"))
        starts.write(position.to_bytes(START_BYTES, "little"))
    if position == 2 * documents:
        raise no_text(source, split)
    summary: dict[str, Any] = {
        "name": source.name,
        "fingerprint": digest.hexdigest(),
        "skipped": source.reader.skipped,
        "repeated": source.reader.repeated,
        "repeated_bytes": source.reader.repeated_bytes,
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
    """A warning about packed text, which a process may open many times."""
    logger.warning("%s", message)


def _how_it_is_cut(source: Source, documents: int) -> str:
    held_out = [split for split in SPLITS if split not in (*source.reader.own_splits, "train")]
    return (
        f"{source.name}: {documents} document(s) longer than {source.split_above:,} bytes: the "
        f"last {source.held_out * len(held_out):.1%} of each is held out for "
        f"{' and '.join(held_out)} (--data.split-above changes that; None keeps documents whole)"
    )


def no_text(source: Source, split: Split) -> UserError:
    """The error for an empty split."""
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
