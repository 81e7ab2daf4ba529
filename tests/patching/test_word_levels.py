"""Levels of splits against the published regular expressions, and the authors' own numbers."""

import functools
import re
import unicodedata

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD, START
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.patching.word_levels import WordCarry, WordGroups, split_levels
from tests.models import golden
from tests.patching.test_characters import is_beginning, is_whole
from tests.patching.test_rules import TEXTS

GROUPS = (1, 2, 4)
STRATEGIES = {"word1": 1, "word12": 2, "word124": 3}
ROWS, LENGTH = 40, 96
TRICKY = [
    "\n", "\r\n", " ", "  ", "\t", "\u2003", "\u2028", "a", "word", "é", "12", "4567", "½", "٣",
    ".", "...", "!?", "e\u0301", "\u0939\u093f", "日本", "。", "😀", b"\xe2\x82", b"\xff", b"\x80",
]  # fmt: skip


@functools.cache
def levels(published=False):
    return jax.jit(functools.partial(split_levels, groups=GROUPS, published=published))


def padded(texts):
    """ids and document ids `[ROWS, LENGTH]`: START and a text in each row."""
    ids = np.full((ROWS, LENGTH), PAD, np.int32)
    for row, text in enumerate(texts):
        ids[row, : len(text) + 1] = [START, *text]
    return ids, (ids != PAD).astype(np.int32)


def found(texts, published=False):
    """The levels of each text's bytes."""
    rows, _ = levels(published)(*padded(texts))
    return [np.asarray(rows)[row, 1 : len(text) + 1] for row, text in enumerate(texts)]


def characters(text):
    """(class, bytes) of each character: a letter, 1, a space, a line break, or other."""
    while text:
        size = next((n for n in range(1, 5) if is_whole(text[:n])), 0)
        heads = range(1, min(3, len(text)) + 1)
        broken = max((n for n in heads if is_beginning(text[:n])), default=0)
        if size:
            yield simple(text[:size].decode()), size
        elif broken:
            yield from [("a", 1)] * broken
        else:
            yield ".", 1
        text = text[size or broken or 1 :]


def simple(character):
    if character in "\r\n":
        return "\n"
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return " "
    return {"L": "a", "N": "1"}.get(unicodedata.category(character)[0], ".")


def by_regular_expressions(text, groups=GROUPS):
    """The published levels of a whole text's bytes; `simple` characters stand for classes."""
    simplified = list(characters(text))
    classes = "".join(kind for kind, _ in simplified)
    result = [0] * len(classes)
    for level, size in enumerate(groups, start=1):
        starts = [m.start() for m in re.finditer(r"1{1,3}|\.{1,3}\n*|[ \n]*\n", classes)]
        ends = [m.end() - 1 for m in re.finditer(rf"(?:[^ \n]+?[ \n]){{{size}}}", classes)]
        for index in starts + ends:
            result[index] = level
    return np.concatenate(
        [[0] * (size - 1) + [level] for level, (_, size) in zip(result, simplified, strict=True)]
        or [[]]
    )


def texts(seed):
    """Real text, tricky pieces put together, and random bytes."""
    rng = np.random.default_rng(seed)
    encoded = [piece if isinstance(piece, bytes) else piece.encode() for piece in TRICKY]

    def mixture():
        few = rng.choice(len(encoded), size=rng.integers(2, 8))
        return b"".join(encoded[i] for i in rng.choice(few, size=20))[: LENGTH - 1]

    real = [text.encode()[: LENGTH - 1] for text in TEXTS]
    rest = [mixture() for _ in range(ROWS - len(real) - 4)]
    return real + rest + [rng.bytes(LENGTH - 1) for _ in range(4)]


def test_levels_are_those_that_the_published_expressions_give_text_which_ends_there():
    rows = texts(0)
    for text, got in zip(rows, found(rows), strict=True):
        prefixes = [by_regular_expressions(text[: end + 1]) for end in range(len(text))]
        np.testing.assert_array_equal(got, [prefix[-1] for prefix in prefixes], err_msg=str(text))


def test_published_levels_are_those_of_whole_texts():
    rows = texts(1)
    for text, got in zip(rows, found(rows, published=True), strict=True):
        np.testing.assert_array_equal(got, by_regular_expressions(text), err_msg=str(text))


def test_the_published_levels_see_a_line_break_that_follows():
    before, after = b"one two three \nfour", b"one two three  four"
    (a, b), (c, d) = found([before, after]), found([before, after], published=True)
    np.testing.assert_array_equal(a[:14], b[:14])
    assert (c[13], d[13]) == (3, 1)


def test_symbols_read_in_turns_have_the_levels_of_the_whole():
    ids, document_ids = padded(texts(2))
    whole, last = levels()(ids, document_ids)
    rng, done, carry = np.random.default_rng(3), np.zeros(ROWS, int), WordCarry.empty(ROWS)
    got, counts = np.zeros_like(ids), document_ids.sum(axis=1)
    while (done < counts).any():
        lengths = np.minimum(rng.integers(6, size=ROWS), counts - done)
        index = np.minimum(done[:, None] + np.arange(5), LENGTH - 1)
        valid = np.arange(5)[None, :] < lengths[:, None]
        chunk = np.take_along_axis(ids, index, axis=1)
        new, carry = levels()(chunk, valid.astype(np.int32), carry=carry)
        got[np.nonzero(valid)[0], index[valid]] = np.asarray(new)[valid]
        done += lengths
    np.testing.assert_array_equal(got, whole)
    jax.tree.map(np.testing.assert_array_equal, carry, last)


def test_documents_of_a_row_have_the_levels_they_have_alone():
    rows = texts(4)
    ids, document_ids = padded(rows)
    cut = 60
    ids[1:, cut:] = ids[:-1, : LENGTH - cut]
    document_ids[1:, cut:] = 2 * document_ids[:-1, : LENGTH - cut]
    packed, _ = levels()(ids, document_ids)
    alone, _ = levels()(*padded(rows))
    np.testing.assert_array_equal(packed[1:, cut:], alone[:-1, : LENGTH - cut])
    np.testing.assert_array_equal(packed[1:, :cut], alone[1:, :cut])


def test_start_has_the_highest_level_and_end_none():
    ids, document_ids = padded([b"a b c ", b""])
    ids[0, 4] = END
    found, _ = levels()(ids, document_ids)
    assert found[:2, 0].tolist() == [3, 3] and found[0, 4] == 0


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            (1, 2, 3),
            r"levels of model\.segmenter\.groups \(1, 2, 3\) do not nest: 3 is no multiple",
        ),
        ((), r"model\.segmenter\.groups is \(\); give each level at least 1 word"),
        ((0, 2), r"model\.segmenter\.groups is \(0, 2\); give each"),
    ],
)
def test_wrong_groups_are_named(groups, message):
    with pytest.raises(UserError, match=message):
        SpaceByteConfig(segmenter=WordGroups(groups))


def is_splits(file):
    return "out.online.word1" in file


@pytest.fixture(params=golden.cases("aunet", is_splits), scope="module")
def splits(request):
    return golden.load(request.param)


def rows_of(tokens, lengths):
    return [bytes(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]


@pytest.mark.parametrize("published", [False, True], ids=["online", "level"])
def test_golden_aunet_splits(splits, published):
    rows = rows_of(splits.input["bytes"], splits.input["length"])
    kind = "level" if published else "online"
    for row, got in enumerate(found(rows, published)):
        for strategy, most in STRATEGIES.items():
            wanted = splits.out[f"{kind}.{strategy}"][row, : len(got)]
            np.testing.assert_array_equal(np.minimum(got, most), wanted, err_msg=str(rows[row]))


@pytest.mark.parametrize("group", ["cut", "raw"])
def test_golden_aunet_splits_of_text_that_is_no_utf8(splits, group):
    rows = rows_of(splits.input[f"{group}.bytes"], splits.input[f"{group}.length"])
    # They pass over the rest of a character that was cut; here each such byte is punctuation.
    cut = [len(row) - len(row.lstrip(bytes(range(0x80, 0xC0)))) for row in rows]
    for row, got in enumerate(found([text[skip:] for text, skip in zip(rows, cut, strict=True)])):
        if splits.out[f"{group}.status"][row] == 0:
            wanted = splits.out[f"{group}.level.word12"][row, cut[row] : len(rows[row])]
            np.testing.assert_array_equal(np.minimum(got, 2), wanted, err_msg=str(rows[row]))
