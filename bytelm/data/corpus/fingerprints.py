"""The fingerprint of documents in order, which is the same however they are divided into shards.

The digests of documents are coefficients of a polynomial, whose value at a fixed point modulo a
prime is kept: that of two shards together follows from those of each. So whoever packs a shard
computes its part, and nobody reads all text once more.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Self

from bytelm.data.text_record import digest

PRIME = 2**127 - 1
POINT = int.from_bytes(hashlib.blake2b(b"documents in order", digest_size=15).digest())
VERSION = "2."
"""Begins fingerprints; those of before, hex digits of one hash over all text, have no dot."""


class DocumentsDigest(NamedTuple):
    """The digest of some documents."""

    documents: int = 0
    value: int = 0

    def followed_by_text(self, text: bytes, known: int | None = None) -> Self:
        """That of these documents and then a text, whose `digest` may be known."""
        key = digest(text) if known is None else known
        return type(self)(self.documents + 1, (self.value * POINT + key) % PRIME)

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> Self:
        """That of some texts."""
        return functools.reduce(cls.followed_by_text, texts, cls())

    def followed_by(self, later: "DocumentsDigest") -> Self:
        """That of these documents and then the later ones."""
        value = self.value * pow(POINT, later.documents, PRIME) + later.value
        return type(self)(self.documents + later.documents, value % PRIME)

    @property
    def fingerprint(self) -> str:
        content = f"{self.documents} {self.value}".encode()
        return VERSION + hashlib.blake2b(content, digest_size=16).hexdigest()


def fingerprint_like(other: str, known: str, texts: Iterable[bytes]) -> str:
    """The fingerprint of documents in the version of another; they are read if `known` is not."""
    if other.startswith(VERSION) == known.startswith(VERSION):
        return known
    if other.startswith(VERSION):
        return DocumentsDigest.of(texts).fingerprint
    hasher = hashlib.blake2b(digest_size=16)
    for text in texts:
        hasher.update(len(text).to_bytes(8, "little"))
        hasher.update(text)
    return hasher.hexdigest()
