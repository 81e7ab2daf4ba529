"""Characters of UTF-8 text, byte by byte: where each one ends, and its Unicode class.

What is said of a byte depends on that byte and the three before it, so a prefix of a text has a
prefix of its characters. A byte that cannot begin or continue a character is a character of its
own, of the class OTHER.

Shapes: B = rows, T = symbols.
"""

import functools
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.core.vocabulary import BYTES

PART, LETTER, NUMBER, SPACE, LINE, OTHER, EDGE = range(7)
"""Kinds of a symbol. PART: a byte that begins or continues a character, and does not end it.
EDGE: no byte. The others: the last byte of a letter (Unicode's L*), a number (N*), whitespace, CR
or LF, or any other character."""
CODE_POINTS = 0x110000
_NO_CHARACTER = 0x10FFFF
PAGE = 128
"""Code points that share an entry of the first table."""
WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""The characters with Unicode's property White_Space."""


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """`kinds[pages[c // PAGE], c % PAGE]` is the kind of the code point c; equal pages are one.

    A character that is newer than Python's `unicodedata` is OTHER.
    """
    initials = {"L": LETTER, "N": NUMBER}
    kinds = np.array(
        [initials.get(unicodedata.category(chr(c))[0], OTHER) for c in range(CODE_POINTS)], np.int8
    )
    kinds[[ord(c) for c in WHITESPACE]] = SPACE
    kinds[[ord(c) for c in "\r\n"]] = LINE
    different, pages = np.unique(kinds.reshape(-1, PAGE), axis=0, return_inverse=True)
    return different, pages.reshape(-1).astype(np.int16)


def kind_of(code_points: jax.Array) -> jax.Array:
    """The kinds of characters, int32 of any shape."""
    kinds, pages = (jnp.asarray(table) for table in _tables())
    page = pages[code_points // PAGE].astype(jnp.int32)
    return kinds[page, code_points % PAGE].astype(jnp.int32)


def read_characters(symbols: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The kind of each symbol, and the bytes of the character that ends with it.

    Args:
        symbols: `symbols[k]` are the symbols k positions back, int32 `[B, T]`, k from 0 to 3;
            anything that is no byte ends what precedes it.

    Returns:
        int32 `[B, T]` twice; the size is 1 for PART and EDGE.
    """
    a, b, c, d = symbols  # the last byte first
    pair = _begins(b, a, 1)
    triple = _begins(c, b, 2) & _continues(a)
    quadruple = _begins(d, c, 3) & _continues(b) & _continues(a)
    ends = [pair & (_following(b) == 1), triple & (_following(c) == 2), quadruple]
    part = (_following(a) > 0) | (pair & ~ends[0]) | (triple & ~ends[1])
    low, second, third = a & 0x3F, (b & 0x3F) << 6, (c & 0x3F) << 12
    points = [(b & 0x1F) << 6 | low, (c & 0xF) << 12 | second | low]
    points += [(d & 0x7) << 18 | third | second | low]
    ascii = (a >= 0) & (a < 0x80)
    # A byte that is no character has the kind of one that is OTHER.
    point = jnp.select([ascii, *ends], [a, *points], _NO_CHARACTER)
    is_byte = (a >= 0) & (a < BYTES)
    kinds = jnp.select([~is_byte, part], [EDGE, PART], kind_of(point))
    return kinds, jnp.select(ends, [2, 3, 4], 1)


def _following(byte: jax.Array) -> jax.Array:
    """How many bytes follow a character's first byte; 0 for any other symbol."""
    is_first = (byte >= 0xC2) & (byte <= 0xF4)
    return is_first * (1 + (byte >= 0xE0) + (byte >= 0xF0))


def _continues(byte: jax.Array) -> jax.Array:
    return (byte >= 0x80) & (byte < 0xC0)


def _begins(first: jax.Array, second: jax.Array, following: int) -> jax.Array:
    """Whether a character of more than so many bytes can begin with these two."""
    # Not with overlong forms, surrogates, and code points past the last.
    least = jnp.select([first == 0xE0, first == 0xF0], [0xA0, 0x90], 0x80)
    most = jnp.select([first == 0xED, first == 0xF4], [0x9F, 0x8F], 0xBF)
    return (_following(first) >= following) & (second >= least) & (second <= most)
