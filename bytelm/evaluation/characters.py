"""Kinds of characters in a text of any bytes."""

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

Kind = Literal["letter", "digit", "whitespace", "punctuation", "other", "continuation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of bytes: of the character that starts with the byte (letters with marks, digits and other
numbers, whitespace, punctuation with symbols, all else and bytes that are no UTF-8), or
"continuation" for its other bytes."""
_CODES = {"L": 0, "M": 0, "N": 1, "P": 3, "S": 3}
"""By Unicode's general category."""
_CONTROLS = "\x1c\x1d\x1e\x1f"
"""Whitespace in Python, and not in Unicode (White_Space)."""


def byte_kinds(text: bytes) -> np.ndarray:
    """The kind of each byte, its place in `KINDS`, int8 `[bytes]`."""
    kinds, starts = _characters(text)
    found = np.full(len(text), KINDS.index("continuation"), np.int8)
    found[starts] = kinds
    return found


def letter_runs(text: bytes) -> Iterator[tuple[int, int]]:
    """The first byte of each run of letters, and the byte after it."""
    kinds, starts = _characters(text)
    bounds = np.append(starts, len(text))
    for run in re.finditer(b"\x00+", kinds.tobytes()):
        yield int(bounds[run.start()]), int(bounds[run.end()])


def _characters(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The kind, int8, and the first byte, int64, of each character, or byte that is none."""
    characters = text.decode(errors="surrogateescape")
    kinds = np.fromiter(map(_kind, characters), np.int8, len(characters))
    lengths = np.fromiter(map(_length, characters), np.int64, len(characters))
    return kinds, np.cumsum(lengths) - lengths


@functools.cache
def _kind(character: str) -> int:
    if character.isspace() and character not in _CONTROLS:
        return KINDS.index("whitespace")
    return _CODES.get(unicodedata.category(character)[0], KINDS.index("other"))


@functools.cache
def _length(character: str) -> int:
    return len(character.encode(errors="surrogateescape"))
