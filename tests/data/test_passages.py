"""A passage depends only on its own bytes."""

import numpy as np
import pytest

from bytelm.data.passages import LONGEST, SHORTEST, digest, passages

GENERATOR = np.random.default_rng(0)


def lines(count: int) -> bytes:
    """Lines of random letters, of all lengths up to 120."""
    letters = GENERATOR.integers(97, 123, count * 60, np.uint8)
    letters[GENERATOR.integers(0, len(letters), count)] = ord("\n")
    return letters.tobytes()


TEXTS = {
    "lines": lines(4000),
    "one line": GENERATOR.integers(97, 123, 200_000, np.uint8).tobytes(),
    "the same line": b"the same line\n" * 20_000,
    "any bytes": GENERATOR.integers(0, 256, 200_000, np.uint8).tobytes(),
    "three bytes a character": "\u65e5".encode() * 70_000,
    "emoji": "\U0001f600".encode() * 50_001,
    "empty lines": b"\n" * 100_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_byte_is_lost_or_doubled(text):
    found = list(passages(text))
    assert b"".join(found) == text
    assert all(SHORTEST <= len(passage) <= LONGEST for passage in found[:-1])
    assert 0 < len(found[-1]) <= LONGEST


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_passages_are_those_of_the_text_that_some_of_them_make(text):
    found = list(passages(text))
    assert list(passages(b"".join(found[2:7]))) == found[2:7]


def test_text_added_at_either_end_changes_few():
    text = TEXTS["lines"]
    before = {digest(passage) for passage in passages(text)}
    for other in (text + b"more\n" * 500, b"a new heading\n\n" + text):
        assert len(before - {digest(passage) for passage in passages(other)}) <= 2


@pytest.mark.parametrize("name", ["three bytes a character", "emoji"])
def test_no_cut_within_a_character(name):
    for passage in passages(TEXTS[name]):
        passage.decode()


def test_lines_stay_whole():
    assert all(passage.endswith(b"\n") for passage in list(passages(TEXTS["lines"]))[:-1])


def test_short_texts():
    assert list(passages(b"")) == []
    assert list(passages(b"short\nand whole\n" * 200)) == [b"short\nand whole\n" * 200]
