"""Boundary rules against plain Python written from their definitions, and what all of them promise.

Documents are lists of symbols; a row's first one may be cut at its beginning and its last one at
its end, and random bytes stand beside real text.
"""

from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import jax
import numpy as np
import pytest

from bytelm.core.vocabulary import BYTES, END, PAD, START
from bytelm.patching.rules import LOOKBACK, RULES, RuleCarry, find_edges


class Rule(NamedTuple):
    """A rule and the longest patch that it allows."""

    kind: str
    longest: int | None = None


CASES = [Rule(kind, longest) for kind in RULES for longest in (None, 3)]
KNOWN_ENDS = [name for name, rule in RULES.items() if rule.marks == "end" or name == "fixed"]
TEXTS = [
    "The quick, brown fox:  jumps (over) 3.14 dogs!\n\tdon't",
    "def __init__(self, maxLength=10):\n    return HTTPServer\r\n",
    "我喜欢学习。今天天气很好,你呢?",
    "東京タワーへ行きました。ありがとう。",
    "Съешь же ещё этих мягких булок",
    "Grüße, ça va? naïve café—déjà\u00a0vu…",
    "한국어 텍스트 둘",
    "مرحبا بالعالم، كيف",
    "😀👍🏽 ok 👨‍👩‍👧\u2003x\u3000y\u2028z\u1680\u0085\u205f",
]
LENGTH = 64
TRICKY = [*b" \n\ta_Z9.,", 0x80, 0x85, 0x8A, 0x9A, 0xA0, 0xC2, 0xE1, 0xE2, 0xE3, 0xEF, 0xF0, 0xFF]

ROWS = 96


def apply(rule, ids, document_ids, carry=None):
    """`find_edges` on NumPy arrays."""
    found = find_edges(rule.kind, ids, document_ids, carry, longest=rule.longest)
    return jax.device_get(found)


each_rule = pytest.mark.parametrize("rule", CASES, ids=lambda rule: f"{rule.kind}-{rule.longest}")


def documents(generator):
    """Real texts, random bytes, and bytes that the rules look for, without end."""
    while True:
        yield [START, *TEXTS[generator.integers(len(TEXTS))].encode(), END]
        yield [START, *generator.integers(BYTES, size=generator.integers(30)).tolist(), END]
        few = generator.choice(TRICKY, size=4)
        yield [START, *generator.choice(few, size=generator.integers(40)).tolist(), END]


def packed_rows(seed=0):
    """int32 `[ROWS, LENGTH]` twice: ids and document_ids; every fourth row ends with padding."""
    generator = np.random.default_rng(seed)
    stream, segments = [], []
    for number, document in enumerate(documents(generator)):
        stream += document
        segments += [number] * len(document)
        if len(stream) >= ROWS * LENGTH:
            break
    ids = np.int32(stream[: ROWS * LENGTH]).reshape(ROWS, LENGTH)
    document_ids = np.int32(segments[: ROWS * LENGTH]).reshape(ROWS, LENGTH)
    document_ids += 1 - document_ids[:, :1]
    ids[::4, -LENGTH // 4 :] = PAD
    document_ids[::4, -LENGTH // 4 :] = 0
    return ids, document_ids


def pieces_of(row, document_ids):
    """(first position, symbols) of each document's run in a row."""
    for segment in range(1, document_ids.max() + 1):
        where = np.flatnonzero(document_ids == segment)
        yield where[0], row[where].tolist()


WHITE_SPACE = tuple(
    tuple(character.encode())
    for character in map(chr, range(0x110000))
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f"
)


def is_spacelike(symbol):
    return not (chr(symbol).isascii() and chr(symbol).isalnum()) and not 0x80 <= symbol < 0xC0


def last_white_space(symbols):
    """How many symbols at the end are one white space character, or START; 0 if none are."""
    if symbols[-1:] == [START]:
        return 1
    return next((len(w) for w in WHITE_SPACE if tuple(symbols[-len(w) :]) == w), 0)


def ends_first_white_space(symbols):
    size = last_white_space(symbols)
    return symbols[-1] == START or (size > 0 and not last_white_space(symbols[:-size]))


def word_class(symbol):
    if symbol >= BYTES:
        return "special"
    character = chr(symbol)
    if symbol < 0x80:
        if character in "\t\v\f ":
            return "space"
        if character in "\n\r":
            return "line"
        if character == "_" or character.isalnum():
            return "letter"
        return "punctuation"
    if symbol < 0xC0:
        return "continuation"
    if symbol in (0xC2, 0xE2, 0xEF):
        return "punctuation"
    return "own" if 0xE3 <= symbol <= 0xE9 or symbol >= 0xF0 else "letter"


def word_starts(symbols):
    """Reads the symbols one by one; `character` is the class of the last whole character."""
    starts, character, blanks, continuations, last = [], "special", 0, 0, None
    for symbol in symbols:
        kind = word_class(symbol)
        leads = blanks == 1 and word_class(last) == "space"
        if not starts or kind == "special":
            start = True
        elif kind == "continuation":
            start = False
        elif kind in ("space", "line"):
            start = character not in ("space", "line")
        elif leads:
            start = False
        elif kind == "letter":
            start = character != "letter" or (
                chr(symbol) in ascii_uppercase and chr(last) in ascii_lowercase
            )
        elif kind == "punctuation":
            start = character in ("space", "line", "special")
        else:
            start = True
        starts.append(start)
        continuations = continuations + 1 if kind == "continuation" else 0
        blanks = blanks + 1 if kind in ("space", "line") else 0
        if not continuations or continuations == LOOKBACK:  # a rule looks no further back
            character = kind
        last = symbol
    return starts


def oracle(rule, symbols):
    """Starts and ends of one document's symbols, as lists of bools."""
    count = len(symbols)
    ends = [False] * count
    if rule.kind == "spacelike":
        spacelike = [is_spacelike(symbol) for symbol in symbols]
        starts = [
            symbols[t] == START or (spacelike[t] and not (t and spacelike[t - 1]))
            for t in range(count)
        ]
    elif rule.kind == "space":
        ends = [symbol in (ord(" "), START) for symbol in symbols]
        starts = [True, *ends[:-1]]
    elif rule.kind in ("whitespace", "whitespace_run"):
        ended = last_white_space if rule.kind == "whitespace" else ends_first_white_space
        ends = [ended(symbols[: t + 1]) > 0 for t in range(count)]
        starts = [True, *ends[:-1]]
    elif rule.kind == "words":
        starts = word_starts(symbols)
    elif rule.kind == "fixed":
        starts = [t == 0 for t in range(count)]
    else:
        raise NotImplementedError(f"add a branch of oracle for the rule {rule.kind}")
    if rule.longest is not None:
        size = 0
        for t, natural in enumerate(starts):
            size = 1 if natural else size + 1
            if size > rule.longest:
                starts[t], size = True, 1
            ends[t] |= size == rule.longest
    return starts, ends


@each_rule
def test_rules_are_their_definitions(rule):
    ids, document_ids = packed_rows()
    found, _ = apply(rule, ids, document_ids)
    expected = np.zeros((2, *ids.shape), bool)
    for row in range(len(ids)):
        for first, symbols in pieces_of(ids[row], document_ids[row]):
            expected[:, row, first : first + len(symbols)] = oracle(rule, symbols)
    np.testing.assert_array_equal(found.starts, expected[0])
    np.testing.assert_array_equal(found.ends, expected[1])


@each_rule
def test_a_prefix_decides_its_boundaries(rule):
    ids, document_ids = packed_rows()
    generator = np.random.default_rng(1)
    other_ids, other_segments = packed_rows(seed=2)
    cut = generator.integers(1, LENGTH, size=(ROWS, 1))
    suffix = np.arange(LENGTH) >= cut
    # The suffix goes on with the document, as other documents, or as padding.
    last = np.take_along_axis(document_ids, cut - 1, axis=1)
    going_on = last + np.where(other_segments > 0, other_segments - 1, 0)
    followed = np.where(suffix, np.where(other_segments > 0, going_on, 0), document_ids)
    before, _ = apply(rule, ids, document_ids)
    after, _ = apply(rule, np.where(suffix, other_ids, ids), followed)
    for name in ("starts", "ends"):
        np.testing.assert_array_equal(
            getattr(before, name)[~suffix], getattr(after, name)[~suffix], err_msg=name
        )


@each_rule
def test_a_document_alone_is_as_it_is_packed(rule):
    """Each row's second document, moved to the beginning of a row of its own."""
    ids, document_ids = packed_rows()
    packed, _ = apply(rule, ids, document_ids)
    second = np.argmax(document_ids == 2, axis=1)[:, None]
    size = (document_ids == 2).sum(axis=1, keepdims=True)
    inside = np.arange(LENGTH) < size
    at = np.where(inside, second + np.arange(LENGTH), 0)
    alone, _ = apply(rule, np.take_along_axis(ids, at, axis=1), np.int32(inside))
    for name in ("starts", "ends"):
        expected = np.take_along_axis(getattr(packed, name), at, axis=1) & inside
        np.testing.assert_array_equal(getattr(alone, name), expected, err_msg=name)


@each_rule
def test_pieces_of_any_length_equal_the_whole(rule):
    """Each call reads up to 6 symbols of each row, none of some; noise follows them."""
    most = 6
    ids, _ = packed_rows()
    generator = np.random.default_rng(3)
    whole, whole_carry = apply(rule, ids, np.ones_like(ids))
    done, carry = np.zeros((ROWS, 1), np.int32), RuleCarry.empty(ROWS)
    offsets = np.arange(most)[None, :]
    found = np.zeros((2, ROWS, LENGTH), bool)
    while (done < LENGTH).any():
        lengths = np.minimum(generator.integers(most + 1, size=(ROWS, 1)), LENGTH - done)
        valid = offsets < lengths
        at = np.minimum(done + offsets, LENGTH - 1)
        noise = generator.integers(PAD + 1, size=(ROWS, most))
        piece = np.where(valid, np.take_along_axis(ids, at, axis=1), noise)
        bounds, carry = apply(rule, np.int32(piece), np.int32(valid), carry)
        rows = np.nonzero(valid)[0]
        found[:, rows, at[valid]] = bounds.starts[valid], bounds.ends[valid]
        assert not (bounds.starts | bounds.ends)[~valid].any()
        done = done + lengths
    np.testing.assert_array_equal(found[0], whole.starts)
    np.testing.assert_array_equal(found[1], whole.ends)
    np.testing.assert_array_equal(carry.recent, whole_carry.recent)
    np.testing.assert_array_equal(carry.since, whole_carry.since)


@each_rule
def test_the_carry_is_that_of_the_first_document(rule):
    ids, document_ids = packed_rows()
    _, packed = apply(rule, ids, document_ids)
    _, alone = apply(rule, ids, np.int32(document_ids == 1))
    np.testing.assert_array_equal(packed.recent, alone.recent)
    np.testing.assert_array_equal(packed.since, alone.since)


@each_rule
def test_a_known_end_is_followed_by_a_start(rule):
    ids, document_ids = packed_rows()
    found, _ = apply(rule, ids, document_ids)
    same = (document_ids[:, 1:] == document_ids[:, :-1]) & (document_ids[:, 1:] > 0)
    starts, ends = found.starts[:, 1:][same], found.ends[:, :-1][same]
    assert starts[ends].all()
    if rule.kind in KNOWN_ENDS:
        np.testing.assert_array_equal(starts, ends)
    by_character = rule.kind in KNOWN_ENDS and rule.kind != "fixed"
    assert ends.any() == (rule.longest is not None or by_character)


def test_white_space_is_unicodes():
    """Each character of the Basic Multilingual Plane and some beyond, each after a letter."""
    code_points = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 97)]
    encoded = [b"x" + chr(code).encode() for code in code_points]
    ids = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32)[None, :]
    found, _ = apply(Rule("whitespace"), ids, np.ones_like(ids))
    last = np.cumsum([len(each) for each in encoded]) - 1
    white = [chr(code).isspace() and not 0x1C <= code <= 0x1F for code in code_points]
    assert sum(white) == 25  # in Unicode's PropList.txt
    np.testing.assert_array_equal(np.flatnonzero(found.ends[0]), last[white])


def patches_of(rule, text):
    """The patches of a document's text, joined by "|"."""
    symbols = [START, *text.encode(), END]
    ids = np.full((1, LENGTH), PAD, np.int32)
    ids[0, : len(symbols)] = symbols
    found, _ = apply(rule, ids, np.int32(ids != PAD))
    cuts = np.flatnonzero(found.starts[0, 1 : len(symbols) - 1])
    pieces = np.split(np.frombuffer(text.encode(), np.uint8), cuts[cuts > 0])
    return "|".join(piece.tobytes().decode() for piece in pieces)


@pytest.mark.parametrize(
    "patches",
    [
        "Hello,| world!| It'|s| (|not)| 3.|14",
        "get|HTTPServer| max|Length| =| snake_case_2;",
        "x=|1|\n    |return| y|\n\n|end",
        "a|  |b|\tc|\n|d",
        "e-|mail| <|br/>|\n|...| ",
        "我|喜|欢|学|习|。|很|好,|你",
        "東|京|タ|ワ|ー| 行",
        "Съешь| же,| ещё",
        "Grüße,| ça| naïve—|déjà…",
        "한국어| 둘",
        "😀|👍|🏽| ok| 😀!|😀",
    ],
)
def test_words(patches):
    assert patches_of(Rule("words"), patches.replace("|", "")) == patches


@pytest.mark.parametrize(
    ("kind", "patches"),
    [
        ("spacelike", "The| quick|, brown|\n  fox2"),
        ("spacelike", "caf|é|, ok|我|喜|欢"),
        ("whitespace", "The |quick, | |brown\n|我喜\u3000|欢\u00a0|!"),
        ("space", "The |quick, | |brown\nfox\u3000 |!"),
        ("whitespace_run", "if |x:\n|    return |y\u3000|\u00a0 z"),
    ],
)
def test_other_rules(kind, patches):
    assert patches_of(Rule(kind), patches.replace("|", "")) == patches


def test_a_fixed_patch_counts_the_start():
    assert patches_of(Rule("fixed", 3), "abcdefgh") == "ab|cde|fgh"
