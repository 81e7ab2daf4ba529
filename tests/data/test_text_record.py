"""The record of the text that a run read, and its passages."""

import json

import numpy as np
import pytest

from bytelm.data.text_record import (
    CHOSEN_BITS,
    FILE,
    LONGEST,
    MARK,
    MULTIPLIERS,
    SHORTEST,
    digest,
    load_record,
    make_record,
    passages,
    placed_passages,
)

SOURCE = dict.fromkeys(("held_out", "split_above", "text", "test", "places")) | {"name": "texts"}


def record(complete=True, **texts):
    rows = [placed_passages(found, split) for split, found in texts.items()]
    return make_record(rows, complete, [SOURCE])


def test_knows_its_texts():
    of = record(train=[b"a", b"both"], validation=[b"b", b"both"])
    assert of.masks([b"a", b"b", b"both", b"c"]).tolist() == [1, 2, 3, 0]
    assert [of.count(text) for text in (b"both", b"b", b"c")] == [(4, 4), (1, 0), (0, 0)]
    assert [of.count(b"both", first).trained for first in (0, 3, 9)] == [0, 3, 4]
    assert record().masks([b"a"]).tolist() == [0]


def test_is_saved_whole(tmp_path):
    of = record(train=[b"a" * 9999], test=[b"b"])
    of.save(tmp_path)
    again = load_record(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert again.fingerprint == of.fingerprint
    assert (again.complete, again.sources) == (True, of.sources)


def test_a_damaged_record_is_none(tmp_path):
    assert load_record(tmp_path) is None
    record(train=[b"%d" % number for number in range(999)]).save(tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    for damaged in (content[:-9], content[:2000] + b"?" + content[2001:], b""):
        (tmp_path / FILE).write_bytes(damaged)
        assert load_record(tmp_path) is None


@pytest.mark.parametrize(
    "about",
    [[], {"complete": True}, {"complete": True, "sources": 3}]
    + [{"complete": True, "sources": [source]} for source in (None, {}, {"name": "texts"})],
)
def test_a_record_of_another_form_is_none(tmp_path, about):
    record(train=[b"a"]).save(tmp_path)
    with np.load(tmp_path / FILE) as saved:
        arrays = dict(saved) | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    np.savez(tmp_path / FILE, **arrays)
    assert load_record(tmp_path) is None


def test_what_was_trained_on_stays_so():
    earlier = record(train=[b"a", b"old"], validation=[b"v"])
    later = record(train=[b"v"], validation=[b"a"], test=[b"new"])
    both = earlier.followed_by(later)
    assert both.masks([b"a", b"old", b"v", b"new"]).tolist() == [1 | 2, 1, 1, 4]
    assert both.complete
    assert not record(complete=False).followed_by(later).complete


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


def by_definition(text):
    """The passages of a text, one line end after another."""
    begin = 0
    while begin < len(text):
        end = min(begin + LONGEST, len(text))
        line_ends = [
            place + 1
            for place in range(begin + SHORTEST - 1, end)
            if text[place] == ord("\n") and end - begin > SHORTEST
        ]
        keys = [np.frombuffer(text[place - 32 : place][::-1], "<u8") for place in line_ends]
        chosen = [
            place
            for place, key in zip(line_ends, keys, strict=True)
            if int((key * MULTIPLIERS).sum()) >> (64 - CHOSEN_BITS) == 0
        ]
        if chosen:
            end = chosen[0]
        elif end == begin + LONGEST and line_ends:
            end = line_ends[-1]
        yield text[begin:end]
        begin = end


@pytest.mark.parametrize("name", ["lines", "the same line", "any bytes", "empty lines"])
def test_passages_are_as_defined(name):
    text = TEXTS[name][:100_000]
    assert list(passages(text)) == list(by_definition(text))


def test_documents_together_have_the_passages_and_marks_of_each_alone():
    texts = [TEXTS["lines"][begin : begin + 3000 * (begin % 7)] for begin in range(0, 90_000, 4999)]
    texts[3:3] = [b"", TEXTS["empty lines"]]
    for split in ("train", "validation"):
        together = placed_passages(texts, split)
        alone = np.concatenate([placed_passages([text], split) for text in texts])
        assert np.unique(together).tolist() == np.unique(alone).tolist()
    assert (alone["split"] == 1).all() and MARK in placed_passages(texts, "train")["split"]


def test_more_marks_than_are_kept(monkeypatch):
    rows = [
        placed_passages([TEXTS["any bytes"][begin:][:50_000]], "train") for begin in (0, 50_000)
    ]
    whole = make_record(rows, True, [])
    monkeypatch.setattr("bytelm.data.text_record.MOST", 200)
    for some in (rows, [np.concatenate(rows)], rows[::-1]):
        fewer = make_record(some, True, [])
        assert (fewer.mark_bits, len(fewer.marks) <= 200) == (1, True)
        assert fewer.marks.tolist() == [mark for mark in whole.marks.tolist() if mark % 2 == 0]


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
