"""Shards of a source, packed each on its own: once, and kept by a digest of what was read.

A packed shard has the documents of all splits that are taken from it. A source that grows by some
files is packed by packing those; a process that is stopped leaves the shards that it finished.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bytelm.core.errors import UserError
from bytelm.data.corpus.entries import CheckedArray, Entry, build_once
from bytelm.data.corpus.fingerprints import DocumentsDigest
from bytelm.data.corpus.packing import FILLER
from bytelm.data.sources.reader import InputShard
from bytelm.data.sources.source import Placed, Source
from bytelm.data.text_record import Split, placed_passages

SHARDS = "shards"
"""The folder of the cache with packed shards."""
FORMAT = 1
"""Version of their files; raise it when their meaning changes."""
PASSAGES = "passages"
"""File with the passages of all documents, as `text_record.PLACED`."""
TOGETHER = 2**20
"""Bytes of documents that are looked at together."""
BUFFER_BYTES = 2**18
"""Bytes that are written at a time."""


class PackedShard:
    """A packed shard, memory-mapped.

    Attributes:
        summary: of the shard; `splits` has the number of `documents`, `bytes`, and parts of `cut`
            documents of each split, their `digest`, and the names of its `scripts` if it has any.
    """

    def __init__(self, directory: Path) -> None:
        """Opens a shard.

        Raises:
            FileNotFoundError: if the directory is not complete.
            DamagedError: for a damaged table of digests; other files are checked when read.
        """
        self._entry = Entry(directory)
        self.directory, self.summary = directory, self._entry.summary

    def symbols(self, split: Split) -> CheckedArray:
        """uint8, as `Corpus.symbols`; only for a split with documents, as the methods below."""
        return self._entry.array(file_of("symbols", split), np.uint8)

    def starts(self, split: Split) -> np.ndarray:
        """int64 `[documents + 1]`: the position of each START, then the number of symbols."""
        return self._entry.checked(file_of("starts", split), "<i8")

    def scripts(self, split: Split) -> np.ndarray:
        """int32 `[documents]`: the index of each one's script in the summary's."""
        return self._entry.checked(file_of("scripts", split), "<i4")

    def digest(self, split: Split) -> DocumentsDigest:
        """Of its documents; they are read if it was packed before digests were kept."""
        about = self.summary["splits"][split]
        if "digest" in about:
            return DocumentsDigest(about["documents"], int(about["digest"], 16))
        text = self.symbols(split)[:].data
        edges = itertools.pairwise(self.starts(split).tolist())
        texts = (bytes(text[begin + 1 : end - 1]) for begin, end in edges)
        return DocumentsDigest.of(texts)

    def link(self, name: str, path: Path) -> bytes:
        """Gives a file a second name, or copies it where that fails; returns its digests.

        It stays there when the shard is removed.
        """
        try:
            os.link(self.directory / name, path)
        except OSError:  # a file system without links, or too many links
            shutil.copyfile(self.directory / name, path)
        return self._entry.digests[name]


def file_of(what: str, split: Split) -> str:
    """The name of a file of a split."""
    return f"{split}.{what}"


def shard_directory(source: Source, stored: Split, shard: InputShard, cache_path: Path) -> Path:
    """Where a shard of a stored split is packed."""
    return cache_path / SHARDS / f"{source.shards_fingerprint(stored, [shard])}-v{FORMAT}"


def pack_shard(
    source: Source,
    stored: Split,
    shard: InputShard,
    cache_path: Path,
    advance: Callable[[int], None] = lambda size: None,
) -> None:
    """Packs a shard of a stored split unless it is packed; `advance` is told of bytes of text.

    Raises:
        UserError: for a bad source, one that changes meanwhile, or a full disk.
    """

    def build(partial: Path) -> dict[str, Any]:
        summary = _write(source, stored, shard, partial, advance)
        if not source.reader.is_unchanged(shard):
            raise changed(source)
        return summary

    content = f"a shard of the packed text of {source.name} ({stored})"
    build_once(shard_directory(source, stored, shard, cache_path), content, shard.size, build)


def changed(source: Source) -> UserError:
    """The error for a source that changed while it was packed."""
    return UserError(
        f"{source.name} changed while it was packed; give the command again when nothing writes to "
        "it any more."
    )


def _write(
    source: Source,
    stored: Split,
    shard: InputShard,
    directory: Path,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Writes the files of a shard; returns its summary."""
    with contextlib.ExitStack() as stack:
        passages = stack.enter_context((directory / PASSAGES).open("wb"))
        writers = {
            split: stack.enter_context(_SplitWriter(directory, split))
            for split in source.splits_in(stored)
        }
        for group in _grouped(source.placed(stored, shard)):
            for split, writer in writers.items():
                mine = [placed for placed in group if placed.split == split]
                if mine:
                    texts = [placed.document.text for placed in mine]
                    placed_passages(texts, split).tofile(passages)
                    writer.write(mine, texts)
            advance(sum(len(placed.document.text) for placed in group))
    return {
        "name": source.name,
        "skipped": source.reader.skipped,
        "repeated": source.reader.repeated,
        "repeated_bytes": source.reader.repeated_bytes,
        "splits": {split: writer.summary for split, writer in writers.items()},
    }


def _grouped(documents: Iterator[Placed]) -> Iterator[list[Placed]]:
    """Documents in lists of about TOGETHER bytes; a longer document is alone in one."""
    group: list[Placed] = []
    size = 0
    for placed in documents:
        if group and size + len(placed.document.text) > TOGETHER:
            yield group
            group, size = [], 0
        group.append(placed)
        size += len(placed.document.text)
    if group:
        yield group


class _SplitWriter:
    """A context that writes the documents of a split; `summary` counts them."""

    def __init__(self, directory: Path, split: Split) -> None:
        self._directory, self._split = directory, split
        self._scripts: dict[str, int] = {}
        self._position, self._digest = 0, DocumentsDigest()
        self.summary: dict[str, Any] = {"documents": 0, "bytes": 0, "cut": 0}

    def __enter__(self) -> "_SplitWriter":
        self._files = {name: self._file(name) for name in ("symbols", "starts", "scripts")}
        return self

    def _file(self, name: str) -> BinaryIO:
        return (self._directory / file_of(name, self._split)).open("wb", BUFFER_BYTES)

    def write(self, group: list[Placed], texts: list[bytes]) -> None:
        """Writes documents; `texts` are theirs."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = self._position + np.cumsum(lengths + 2)
        (ends - lengths - 2).astype("<i8").tofile(self._files["starts"])
        self._position = int(ends[-1])
        for placed, text in zip(group, texts, strict=True):
            self._digest = self._digest.followed_by_text(text, placed.digest)
        # Long texts are not copied.
        for text in texts:
            self._files["symbols"].writelines((FILLER, text, FILLER))
        known = [placed.document.script for placed in group if placed.document.script is not None]
        indices = [self._scripts.setdefault(name, len(self._scripts)) for name in known]
        np.array(indices, "<i4").tofile(self._files["scripts"])
        self.summary["documents"] += len(texts)
        self.summary["bytes"] += int(lengths.sum())
        self.summary["cut"] += sum(placed.is_part for placed in group)

    def __exit__(self, *_: object) -> None:
        np.array([self._position], "<i8").tofile(self._files["starts"])
        for name, file in self._files.items():
            file.close()
            is_empty = not self.summary["documents"] or (name == "scripts" and not self._scripts)
            if is_empty:  # an empty file cannot be mapped
                (self._directory / file_of(name, self._split)).unlink()
        self.summary["digest"] = f"{self._digest.value:x}"
        if self._scripts:
            self.summary["scripts"] = list(self._scripts)
