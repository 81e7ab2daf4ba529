"""The fingerprint of documents is of their bytes and order, and not of how they are divided."""

import hashlib

from bytelm.data.corpus.fingerprints import VERSION, DocumentsDigest, fingerprint_like

TEXTS = [b"a", b"", b"b" * 1000, b"", b"a", b"\0\xff"]


def fingerprint(*shards):
    digest = DocumentsDigest()
    for texts in shards:
        digest = digest.followed_by(DocumentsDigest.of(texts))
    return digest.fingerprint


def test_any_division_gives_the_same():
    expected = fingerprint(TEXTS)
    for first in range(7):
        for second in range(first, 7):
            found = fingerprint(TEXTS[:first], TEXTS[first:second], TEXTS[second:])
            assert found == expected
    assert DocumentsDigest.of(TEXTS).followed_by_text(b"x") == DocumentsDigest.of([*TEXTS, b"x"])


def test_other_documents_or_another_order_give_another():
    others = [
        TEXTS[::-1],
        TEXTS[1:],
        [b"", *TEXTS],
        [*TEXTS, b""],
        [b"".join(TEXTS)],
        [b"a", b"b" * 1000, b"", b"", b"a", b"\0\xff"],
        [],
        [b""],
    ]
    assert len({fingerprint(TEXTS), *map(fingerprint, others)}) == 9


def test_the_version_before_is_one_hash_of_all_text():
    text = b"".join(len(text).to_bytes(8, "little") + text for text in TEXTS)
    before, now = hashlib.blake2b(text, digest_size=16).hexdigest(), fingerprint(TEXTS)
    assert now.startswith(VERSION) and now != before
    assert fingerprint_like("ab12", now, TEXTS) == before
    assert fingerprint_like(now, "ab12", TEXTS) == now
    assert fingerprint_like("ab12", before, None) == before
    assert fingerprint_like("2.ab", now, None) == now
