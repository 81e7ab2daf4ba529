"""Packed text on disk: each split of a source is packed once, and memory-mapped from then on."""

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bytelm.data.config import Split
from bytelm.data.packing import FILLER, Corpus
from bytelm.data.sources import Source
from bytelm.data.tfds_source import TfdsMissingError
from bytelm.errors import UserError

FORMAT = 1
"""Version of the files below; raise it when their meaning changes."""
SYMBOLS = "symbols.bin"
STARTS = "starts.bin"
SUMMARY = "summary.json"
START_BYTES = 8

logger = logging.getLogger(__name__)


class PackedCorpus(Corpus):
    """A corpus in a directory, memory-mapped.

    Attributes:
        name: the source's name.
        fingerprint: hex digest of the documents' bytes and order.
        skipped: bad records that were left out when it was packed.
    """

    def __init__(self, directory: Path) -> None:
        summary = json.loads((directory / SUMMARY).read_text())
        super().__init__(
            # Slices of plain arrays are made several times faster than slices of np.memmap.
            symbols=np.asarray(np.memmap(directory / SYMBOLS, np.uint8, mode="r")),
            starts=np.asarray(np.memmap(directory / STARTS, "<i8", mode="r")),
        )
        self.directory = directory
        self.name: str = summary["name"]
        self.fingerprint: str = summary["fingerprint"]
        self.skipped: int = summary["skipped"]

    def __reduce__(self) -> tuple[type["PackedCorpus"], tuple[Path]]:
        """Worker processes map the files themselves."""
        return PackedCorpus, (self.directory,)


def packed_corpus(source: Source, split: Split, cache_path: Path) -> PackedCorpus:
    """Opens the packed documents of a split, and packs them first if they have changed or are new.

    Any number of processes may ask at once: one packs, the others wait for it. Where TFDS is not
    installed, what was packed of the same dataset before is taken as it is.

    Raises:
        UserError: for a split without text, too little room on the disk, or a bad source.
    """
    directory = _directory(source, split, cache_path / "packed")
    if not _complete(directory):
        _pack_once(source, split, directory)
    corpus = PackedCorpus(directory)
    if corpus.skipped:
        logger.warning("%s (%s): %d bad lines were skipped", source.name, split, corpus.skipped)
    return corpus


def _directory(source: Source, split: Split, root: Path) -> Path:
    try:
        fingerprint = source.fingerprint(split)
    except TfdsMissingError:
        for summary in sorted(root.glob(f"*/{SUMMARY}")):
            saved = json.loads(summary.read_text())
            if saved["settings"] == source.settings(split) and _complete(summary.parent):
                return summary.parent
        raise
    slug = re.sub(r"[^\w.-]+", "-", source.name)
    return root / f"{slug}-{split}-{fingerprint}-v{FORMAT}"


def _complete(directory: Path) -> bool:
    """Whether the files are all there, at the lengths that they were written with."""
    try:
        sizes = json.loads((directory / SUMMARY).read_text())["sizes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _pack_once(source: Source, split: Split, directory: Path) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.with_name(directory.name + ".lock"))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            logger.warning("waiting for another process to pack %s (%s)", source.name, split)
            held = lock.acquire()
        with held:
            if not _complete(directory):
                _check_room(source, split, directory.parent)
                _pack(source, split, directory)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(source, split, directory.parent) from error
        raise UserError(f"cannot pack {source.name} into {directory.parent}: {error}.") from error


def _pack(source: Source, split: Split, directory: Path) -> None:
    """Packs beside `directory`, and renames when all is written. The caller holds the lock."""
    logger.info("packing %s (%s) into %s", source.name, split, directory)
    partial = directory.with_name(directory.name + ".partial")
    for leftover in (partial, directory):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        fingerprint = _write(source.documents(split), partial)
        sizes = {name: (partial / name).stat().st_size for name in (SYMBOLS, STARTS)}
        num_documents = sizes[STARTS] // START_BYTES - 1
        if sizes[SYMBOLS] == 2 * num_documents:
            raise _empty(source, split)
        summary: dict[str, Any] = {
            "name": source.name,
            "fingerprint": fingerprint,
            "skipped": source.reader.skipped,
            "settings": source.settings(split),
            "documents": num_documents,
            "bytes": sizes[SYMBOLS] - 2 * num_documents,
            "sizes": sizes,
        }
        (partial / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(documents: Iterable[bytes], directory: Path) -> str:
    """Writes the symbol stream and the starts; returns the fingerprint of the documents."""
    position, digest = 0, hashlib.blake2b(digest_size=16)
    with open(directory / SYMBOLS, "wb") as symbols, open(directory / STARTS, "wb") as starts:
        for document in documents:
            starts.write(position.to_bytes(START_BYTES, "little"))
            symbols.write(FILLER + document + FILLER)
            digest.update(len(document).to_bytes(START_BYTES, "little") + document)
            position += len(document) + 2
        starts.write(position.to_bytes(START_BYTES, "little"))
    return digest.hexdigest()


def _check_room(source: Source, split: Split, root: Path) -> None:
    stored_elsewhere = source.stored_split(split) != split
    needed = source.reader.size(source.stored_split(split))
    if shutil.disk_usage(root).free < needed * (source.held_out if stored_elsewhere else 1):
        raise _no_room(source, split, root)


def _no_room(source: Source, split: Split, root: Path) -> UserError:
    return UserError(
        f"the disk of {root} has no room for the packed text of {source.name} ({split}); put the "
        "cache elsewhere with --data.cache-dir, or read a TFDS dataset unpacked with "
        "--data.read stream."
    )


def _empty(source: Source, split: Split) -> UserError:
    if split == "train":
        return UserError(f"{source.name} has no text to train on; choose another source.")
    return UserError(
        f"{source.name} has no text in its {split} split; name one with --data.{split}-files or "
        f"--data.{split}-split, or raise --data.held-out ({source.held_out})."
    )
