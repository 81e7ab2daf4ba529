"""Passages: stretches of text that identify a document, even after it has grown.

A document is read from its beginning. A passage ends at a line end chosen by a hash of the bytes
before it, or else at the last line end before LONGEST bytes. So its end depends on its own bytes
alone: text that is added to a document changes only the passages that it touches.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

SHORTEST = 4096
"""Bytes of a passage at least, but for the last one of a document."""
LONGEST = 16384
"""Bytes of a passage at most."""
KEY_BYTES = 32
"""Bytes before a line end, the newline among them, that choose it or not."""
CHOSEN_BITS = 6
"""Of 2**6 line ends, one is chosen on average."""
MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, KEY_BYTES // 8 + 1, dtype=np.uint64)
"""Of a key's 64-bit parts: they spread it over the bits of the sum (multiplicative hashing)."""
DIGEST_BYTES = 8


def digest(text: bytes) -> int:
    """The number that stands for a text, below 2**64; also the draw of its split."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest())


def passages(text: bytes) -> Iterator[bytes]:
    """The passages of a document in order; together they are the document. An empty one has none.

    Passages that follow one another in a document are the passages of the text that they make.
    """
    begin = 0
    while begin < len(text):
        end = begin + _length(text[begin : begin + LONGEST])
        yield text[begin:end]
        begin = end


def _length(window: bytes) -> int:
    """Bytes of the passage with which at most LONGEST bytes of text start."""
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
    """Where the last whole character of UTF-8 ends; the end of the window in other text."""
    for back in range(1, 5):
        byte = window[-back]
        if byte & 0xC0 != 0x80:  # no continuation: a character starts here
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(window) - back if size > back else len(window)
    return len(window)
