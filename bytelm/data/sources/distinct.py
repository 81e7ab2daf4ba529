"""A source without the documents that it has twice.

To pack it, digests of all documents are read first, shard by shard, and are kept in the cache. They
say which documents of each shard are left out. A source that grows at its end keeps its shards.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.data.corpus.entries import Entry, build_once, open_or_build
from bytelm.data.progress import TextProgress
from bytelm.data.sources.reader import Document, InputShard, Reader
from bytelm.data.text_record import SPLITS, Split

DIGEST_BYTES = 16
FOLDER = "documents"
"""The folder of the cache with digests of documents."""
DIGESTS = "documents.bin"
FORMAT = 1
"""Version of these files; raise it when their meaning changes."""


class DistinctReader(Reader):
    """The documents of a reader, of equal texts only the first.

    A text of another stored split is no document of train. Memory holds about 100 bytes for each
    distinct document.
    """

    def __init__(self, reader: Reader, cache_path: Path) -> None:
        self._reader, self._cache_path = reader, cache_path
        self.name = reader.name

    @property
    def own_splits(self) -> frozenset[Split]:
        return self._reader.own_splits

    @property
    def settings(self) -> dict[str, object]:
        return {**self._reader.settings, "deduplicate": True}

    def inputs(self, split: Split) -> object:
        return [self._reader.inputs(each) for each in self._read_before(split)]

    def places(self, split: Split) -> object:
        return self._reader.places(split)

    def size(self, split: Split) -> int:
        return self._reader.size(split)

    def documents(self, split: Split) -> Iterator[Document]:
        self.skipped = self.repeated = self.repeated_bytes = 0
        seen: set[bytes] = set()
        for each in self._read_before(split):
            for document in self._reader.documents(each):
                key = _digest(document)
                if key not in seen:
                    seen.add(key)
                    if each == split:
                        yield document
                elif each == split:
                    self._leave_out(document)
        self.skipped = self._reader.skipped

    def shards(self, split: Split) -> list[InputShard]:
        """Those of the reader, each with the indices of the documents that are left out."""
        digests, own = [np.zeros((0, 2), np.uint64)], self._reader.shards(split)
        for each in self._read_before(split)[:-1]:
            digests += self._digests(self._reader.shards(each))
        before, mine = sum(map(len, digests)), self._digests(own)
        is_first = _is_first(np.concatenate([*digests, *mine]))[before:]
        ends = np.cumsum([0, *map(len, mine)])
        found = []
        for shard, begin, end in zip(own, ends[:-1], ends[1:], strict=True):
            left_out = np.flatnonzero(~is_first[begin:end])
            digest = hashlib.blake2b(left_out.astype("<i8").tobytes(), digest_size=DIGEST_BYTES)
            content = [shard.content, digest.hexdigest()]
            found.append(InputShard(content, (shard, left_out), shard.size))
        return found

    def read(self, shard: InputShard) -> Iterator[Document]:
        self.skipped = self.repeated = self.repeated_bytes = 0
        own, left_out = shard.place
        indices = frozenset(left_out.tolist())
        for index, document in enumerate(self._reader.read(own)):
            if index in indices:
                self._leave_out(document)
            else:
                yield document
        self.skipped = self._reader.skipped

    def is_unchanged(self, shard: InputShard) -> bool:
        own, _ = shard.place
        return self._reader.is_unchanged(own)

    def _leave_out(self, document: Document) -> None:
        self.repeated += 1
        self.repeated_bytes += len(document.text)

    def _read_before(self, split: Split) -> list[Split]:
        """The stored splits whose texts do not count in a split, and then that split."""
        later = SPLITS[SPLITS.index(split) + 1 :]
        return [each for each in reversed(later) if each in self.own_splits] + [split]

    def _digests(self, shards: list[InputShard]) -> list[np.ndarray]:
        """The digests of the documents of each shard, uint64 `[documents, 2]`."""
        size, action = sum(shard.size for shard in shards), f"reading {self.name} for repetitions"
        with TextProgress(action, size) as progress:
            return [self._digests_of(shard, progress) for shard in shards]

    def _digests_of(self, shard: InputShard, progress: TextProgress) -> np.ndarray:
        described = json.dumps([self._reader.settings, shard.content], sort_keys=True)
        key = hashlib.blake2b(described.encode(), digest_size=DIGEST_BYTES).hexdigest()
        directory = self._cache_path / FOLDER / f"{key}-v{FORMAT}"

        def read(partial: Path) -> dict[str, Any]:
            with (partial / DIGESTS).open("wb") as file:
                for document in self._reader.read(shard):
                    file.write(_digest(document))
                    progress.advance(len(document.text))
                count = file.tell() // DIGEST_BYTES
            if not count:  # an empty file cannot be mapped
                (partial / DIGESTS).unlink()
            return {"name": self.name, "documents": count}

        def opened() -> np.ndarray:
            entry = Entry(directory)
            if not entry.summary["documents"]:
                return np.zeros((0, 2), np.uint64)
            return entry.checked(DIGESTS, "<u8").reshape(-1, 2)

        content = f"digests of the documents of {self.name}"
        return open_or_build(opened, lambda: build_once(directory, content, 0, read))


def _digest(document: Document) -> bytes:
    return hashlib.blake2b(document.text, digest_size=DIGEST_BYTES).digest()


def _is_first(digests: np.ndarray) -> np.ndarray:
    """Whether no equal digest comes before each of uint64 `[N, 2]`: bool `[N]`."""
    order = np.lexsort(digests.T)  # equal ones stay in order
    ordered = digests[order]
    is_new = np.ones(len(digests), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    found: np.ndarray = np.zeros(len(digests), bool)
    found[order[is_new]] = True
    return found
