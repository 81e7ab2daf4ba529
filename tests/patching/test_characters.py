"""Characters of UTF-8 against Python's own decoder."""

import codecs
import unicodedata

import jax
import numpy as np

from bytelm.core.vocabulary import END, START
from bytelm.patching.characters import (
    CODE_POINTS,
    EDGE,
    LETTER,
    LINE,
    NUMBER,
    OTHER,
    PART,
    SPACE,
    WHITESPACE,
    kind_of,
    read_characters,
)
from bytelm.patching.rules import NONE


def expected(code_point):
    character = chr(code_point)
    if character in "\r\n":
        return LINE
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(unicodedata.category(character)[0], OTHER)


def test_the_kind_of_every_code_point():
    found = np.asarray(kind_of(np.arange(CODE_POINTS)))
    np.testing.assert_array_equal(found, [expected(point) for point in range(CODE_POINTS)])
    assert len(WHITESPACE) == 25


def is_beginning(part):
    """Whether some character begins with these bytes, and is longer."""
    if part[:1] == b"\xed" and part[1:2] >= b"\xa0":
        return False  # Python waits for the last byte of a surrogate, which is no character
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(part) == ""
    except UnicodeDecodeError:
        return False


def is_whole(part):
    try:
        return len(part.decode()) == 1
    except UnicodeDecodeError:
        return False


def test_every_sequence_of_bytes_that_can_and_cannot_be_a_character():
    edges = [0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF]
    edges += [0xF0, 0xF4, 0xF5]
    columns = np.meshgrid(edges, edges, edges, edges, indexing="ij")
    rows = np.stack([column.reshape(-1) for column in columns], axis=1).astype(np.int32)
    back = [rows[:, 3 - k : 4 - k] for k in range(4)]
    kinds, sizes = (np.asarray(x)[:, 0] for x in jax.jit(read_characters)(back))
    for row, kind, size in zip(rows.tolist(), kinds, sizes, strict=True):
        tails = [bytes(row[4 - count :]) for count in range(1, 5)]
        whole = [tail for tail in tails if is_whole(tail)]
        if whole:
            assert (kind, size) == (expected(ord(whole[0].decode())), len(whole[0]))
        elif any(is_beginning(tail) for tail in tails):
            assert kind == PART
        else:
            assert (kind, size) == (OTHER, 1)


def test_symbols_that_are_no_bytes_end_what_precedes_them():
    euro = list("€".encode())
    for symbol in (START, END, NONE):
        rows = np.int32([[symbol, *euro], [*euro[:2], symbol, euro[2]], [*euro, symbol]])
        kinds, _ = read_characters([rows[:, 3 - k : 4 - k] for k in range(4)])
        assert kinds[:, 0].tolist() == [OTHER, OTHER, EDGE]
