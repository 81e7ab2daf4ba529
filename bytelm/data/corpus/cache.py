"""Packed text on disk: each split of a source is packed once, and memory-mapped after that.

Its symbols are those of its packed shards: the same files, under a second name.
"""

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of
from bytelm.data.corpus import input_shards as shard_files
from bytelm.data.corpus.entries import (
    SUMMARY,
    CheckedArray,
    Entry,
    build_once,
    is_complete,
    open_or_build,
    read_summary,
)
from bytelm.data.corpus.fingerprints import DocumentsDigest, fingerprint_like
from bytelm.data.corpus.input_shards import (
    PackedShard,
    changed,
    file_of,
    pack_shard,
    shard_directory,
)
from bytelm.data.corpus.joined import JoinedArray
from bytelm.data.corpus.packers import pack_shards
from bytelm.data.corpus.packing import Corpus, script_ids
from bytelm.data.sources.reader import InputShard, NotInstalledError
from bytelm.data.sources.source import Source
from bytelm.data.text_record import PLACED, SPLITS, Split

FORMAT = 5
"""Version of the files below; raise it when their meaning changes."""
WHOLE_FORMAT = 4
"""The version before, with all symbols in one file, and all passages in another; it is read."""
SYMBOLS = "symbols.bin"
"""The symbols of a version 4; `symbols-0.bin` and so on are those of each shard with documents."""
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
"""The passages of all documents that were read and their splits, as `text_record.PLACED`; the
numbered files are those of each shard, of a stored split alone."""

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
            symbols=self._symbols(),
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

    def fingerprint_like(self, other: str) -> str:
        """Its fingerprint in the version of another; all text is read if that is not its own."""
        return fingerprint_like(other, self.fingerprint, self.documents())

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

    def _symbols(self) -> CheckedArray | JoinedArray:
        lengths = self._entry.summary.get("lengths")
        if lengths is None:
            return self._entry.array(SYMBOLS, np.uint8)
        return JoinedArray(
            np.uint8, lengths, lambda index: self._entry.array(numbered(SYMBOLS, index), np.uint8)
        )

    def passages(self) -> Iterator[np.ndarray]:
        """The passages of all documents of a stored split, as arrays of PLACED."""
        files = self._entry.summary.get("passages")
        for name in (
            [PASSAGES] if files is None else [numbered(PASSAGES, index) for index in range(files)]
        ):
            yield self._entry.checked(name, PLACED)

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


def packed_corpus(
    source: Source,
    split: Split,
    cache_path: Path,
    processes: int | None = None,
    some: Sequence[InputShard] | None = None,
) -> PackedCorpus:
    """Opens the packed documents of a split, and packs them if they are new, changed or damaged.

    With `some` shards of the stored split, only their documents.

    Warns about skipped records and cut documents. Of several processes that ask at once, each packs
    shards that no other one packs; each starts `processes`, as `pack_shards` says. If TFDS is not
    installed, earlier packed text of the same dataset is used.

    Raises:
        UserError: for a split without text, a full disk, or a bad source.
    """
    root = cache_path / "packed"
    directory = _directory(source, split, root, some)

    def build() -> None:
        stored, digests = source.stored_split(split), dict[str, bytes]()
        shards = source.reader.shards(stored) if some is None else some
        new = pack_shards(source, stored, shards, cache_path, processes)

        def join(partial: Path) -> dict[str, Any]:
            joining = _Join(source, split, cache_path, partial, new)
            summary = joining.join(shards)
            digests.update(joining.digests)
            if _directory(source, split, root, some) != directory:
                raise changed(source)
            return summary

        # The tables take a hundredth of the text, or a little more.
        size = sum(shard.size for shard in shards) / 50
        build_once(directory, f"the packed text of {source.name} ({split})", size, join, digests)

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


def is_packed(source: Source, split: Split, cache_path: Path) -> bool:
    """Whether a split is packed and complete."""
    return is_complete(_directory(source, split, cache_path / "packed"))


def _directory(
    source: Source, split: Split, root: Path, some: Sequence[InputShard] | None = None
) -> Path:
    if some is not None:
        return root / f"{split}-{source.shards_fingerprint(split, some)}-v{FORMAT}"
    try:
        fingerprint = source.fingerprint(split)
    except NotInstalledError:
        for summary in sorted(root.glob(f"*-v*/{SUMMARY}")):
            saved = read_summary(summary.parent)
            if saved is not None and saved["settings"] == source.settings(split):
                return summary.parent
        raise
    # The source's name is left out: a copy of a file is the same text.
    former = root / f"{split}-{fingerprint}-v{WHOLE_FORMAT}"
    is_new = read_summary(former) is None
    return root / f"{split}-{fingerprint}-v{FORMAT}" if is_new else former


class _Join:
    """Writes the tables of a split, and links the files of its shards, into a directory."""

    def __init__(
        self,
        source: Source,
        split: Split,
        cache_path: Path,
        directory: Path,
        new: Container[Path] = (),
    ) -> None:
        """Writes nothing yet; shards in the folders `new` are not checked: they are just packed."""
        self._source, self._split, self._cache_path = source, split, cache_path
        self._new = new
        self._stored, self._directory = source.stored_split(split), directory
        self.digests: dict[str, bytes] = {}
        """Of the blocks of linked files, by name."""
        self._digest = DocumentsDigest()
        self._lengths: list[int] = []
        self._scripts: dict[str, int] = {}
        self._counts = dict.fromkeys(("skipped", "repeated", "repeated_bytes", "cut"), 0)
        self._passages = self._documents = 0

    def join(self, shards: Sequence[InputShard]) -> dict[str, Any]:
        """Joins packed shards; returns the summary."""
        with contextlib.ExitStack() as stack:
            self._files = {
                name: stack.enter_context((self._directory / name).open("wb"))
                for name in (STARTS, SCRIPTS)
            }
            for shard in shards:
                self._add(self._checked(shard))
            position = sum(self._lengths)
            self._files[STARTS].write(position.to_bytes(START_BYTES, "little"))
        if position == 2 * self._documents:
            raise no_text(self._source, self._split)
        summary: dict[str, Any] = {
            "name": self._source.name,
            "fingerprint": self._digest.fingerprint,
            "settings": self._source.settings(self._split),
            "documents": self._documents,
            "bytes": position - 2 * self._documents,
            **self._counts,
            "lengths": self._lengths,
            "passages": self._passages,
        }
        if self._scripts:
            summary["scripts"] = list(self._scripts)
        else:
            (self._directory / SCRIPTS).unlink()
        return summary

    def _checked(self, shard: InputShard) -> PackedShard:
        """A shard, packed once more if its symbols are damaged."""
        source, stored, split = self._source, self._stored, self._split
        directory = shard_directory(source, stored, shard, self._cache_path)

        def read() -> PackedShard:
            packed = PackedShard(directory)
            if packed.summary["splits"][split]["documents"] and directory not in self._new:
                packed.symbols(split)[:]
            return packed

        return open_or_build(read, lambda: pack_shard(source, stored, shard, self._cache_path))

    def _add(self, packed: PackedShard) -> None:
        split, about = self._split, packed.summary["splits"][self._split]
        for name in self._counts:
            self._counts[name] += about["cut"] if name == "cut" else packed.summary[name]
        if split == self._stored and packed.summary["sizes"][shard_files.PASSAGES]:
            self._link(packed, shard_files.PASSAGES, numbered(PASSAGES, self._passages))
            self._passages += 1
        if not about["documents"]:
            return
        self._digest = self._digest.followed_by(packed.digest(split))
        self._link(packed, file_of("symbols", split), numbered(SYMBOLS, len(self._lengths)))
        starts = packed.starts(split)
        (starts[:-1] + sum(self._lengths)).astype("<i8").tofile(self._files[STARTS])
        self._lengths.append(int(starts[-1]))
        self._documents += about["documents"]
        if "scripts" in about:
            own = [self._scripts.setdefault(name, len(self._scripts)) for name in about["scripts"]]
            np.array(own, "<i4")[packed.scripts(split)].tofile(self._files[SCRIPTS])

    def _link(self, packed: PackedShard, name: str, link: str) -> None:
        self.digests[link] = packed.link(name, self._directory / link)


def numbered(name: str, index: int) -> str:
    """The name of the file of one shard."""
    stem, _, ending = name.partition(".")
    return f"{stem}-{index}.{ending}"


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


class NoTextError(UserError):
    """A split has no text."""


def no_text(source: Source, split: Split) -> NoTextError:
    """The error for an empty split."""
    if split == "train":
        return NoTextError(f"{source.name} has no text to train on; choose another source.")
    if source.record is not None:
        return NoTextError(
            f"{source.name} has no text of the run's {split} split, and nothing that is new; score "
            "another split of it with --split, or other text."
        )
    return NoTextError(
        f"{source.name} has no text in its {split} split; name one with --data.{split}-files or "
        f"--data.{split}-split, or raise --data.held-out ({source.held_out}), or, where documents "
        f"are few and long, lower --data.split-above ({source.split_above}), above which the end "
        "of a document is held out."
    )
