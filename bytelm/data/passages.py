"""Passages: parts of a document that identify it, even after it has grown.

A passage ends at a line end chosen by a hash of the bytes before it, or else at the last line end
before LONGEST bytes. So its end depends only on its own bytes: text that is added to a document
changes only the passages that it touches.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

SHORTEST = 4096
"""Least bytes of a passage, except the last one of a document."""
LONGEST = 16384
"""Most bytes of a passage."""
KEY_BYTES = 32
"""A line end is chosen by a hash of this many bytes, which include the newline."""
CHOSEN_BITS = 6
"""One of 2**6 line ends is chosen on average."""
MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, KEY_BYTES // 8 + 1, dtype=np.uint64)
"""Factors of a key's 64-bit parts, whose sum is the hash (multiplicative hashing)."""
DIGEST_BYTES = 8


def digest(text: bytes) -> int:
    """A 64-bit hash of a text, which also decides its split."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest())


def passages(text: bytes) -> Iterator[bytes]:
    """The passages of a document in order; joined they are the document, and an empty one has none.

    Joined consecutive passages, as a document of their own, have the same passages.
    """
    begin = 0
    while begin < len(text):
        end = begin + _length(text[begin : begin + LONGEST])
        yield text[begin:end]
        begin = end


def _length(window: bytes) -> int:
    """Length of the first passage of a window of at most LONGEST bytes."""
    if len(window) <= SHORTEST:
        return len(window)
    symbols = np.frombuffer(window, np.uint8)
    ends = np.flatnonzero(symbols[SHORTEST - 1 :] == ord("\n")) + SHORTEST
    keys = symbols[ends[:, None] - np.arange(1, KEY_BYTES + 1)].view("<u8")
    chosen = ends[(keys * MULTIPLIERS).sum(axis=1) >> np.uint64(64 - CHOSEN_BITS) == 0]
    if chosen.size:
        return int(chosen[0])
    if len(window) < LONGEST:
        return len(window)
    return int(ends[-1]) if ends.size else _character_end(window)


def _character_end(window: bytes) -> int:
    """The end of the last whole UTF-8 character; of the window, if it is not UTF-8."""
    for back in range(1, 5):
        byte = window[-back]
        if byte & 0xC0 != 0x80:  # no continuation: a character starts here
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(window) - back if size > back else len(window)
    return len(window)
