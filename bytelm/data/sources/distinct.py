"""A source without the documents that it has twice."""

import hashlib
from collections.abc import Iterator

from bytelm.data.sources.reader import Document, Reader
from bytelm.data.text_record import SPLITS, Split

DIGEST_BYTES = 16


class DistinctReader(Reader):
    """The documents of a reader, of equal texts only the first.

    A text of another stored split is no document of train. Memory holds about 100 bytes for each
    distinct document.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader, self.name = reader, reader.name

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
                key = hashlib.blake2b(document.text, digest_size=DIGEST_BYTES).digest()
                if key not in seen:
                    seen.add(key)
                    if each == split:
                        yield document
                elif each == split:
                    self.repeated += 1
                    self.repeated_bytes += len(document.text)
        self.skipped = self._reader.skipped

    def _read_before(self, split: Split) -> list[Split]:
        """The stored splits whose texts do not count in a split, and then that split."""
        later = SPLITS[SPLITS.index(split) + 1 :]
        return [each for each in reversed(later) if each in self.own_splits] + [split]
