"""A long text has the same tokens in parts as in one piece."""

import json
import logging

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from bytelm.tokenizers import cutting
from bytelm.tokenizers.cutting import (
    LINE_PATTERNS,
    LINES,
    WORD_PATTERNS,
    of_hugging_face,
    stretches,
)
from bytelm.tokenizers.tokenizer import Tokenizer

PIECES = [
    *("the", " text", " of", "\n", "\r\n", "  ", " ", "don't", "'s", "'", "x", "12345", "\u00bd"),
    *("\u0301", "日本", "。", "!", "/", "\u2581", "\u00a0", "\t", "мир", "A", "\u3000", "\u01c5"),
]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.text(alphabet="ab1.' \t\r\n\u0301\u2028\xa0\u00b2\u16ee/S", max_size=60),
    st.text(max_size=40),
)


@pytest.fixture
def short(monkeypatch):
    """Texts are cut at every possible position."""
    monkeypatch.setattr(cutting, "LONGEST", 1)


@pytest.mark.parametrize("pattern", [*WORD_PATTERNS, *LINE_PATTERNS, None])
@pytest.mark.parametrize("digits", [False, True])
def test_patterns_cut_parts_as_the_whole(monkeypatch, pattern, digits):
    monkeypatch.setattr(cutting, "LONGEST", 1)
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    steps = [*steps, *([pre_tokenizers.Digits(individual_digits=True)] if digits else [])]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    find_cut = of_hugging_face(json.loads(library.to_str()))
    cut = []

    def pieces(text):
        return [piece for piece, _ in library.pre_tokenizer.pre_tokenize_str(text)]

    @given(text=texts)
    @example(text="one two\nthree four\n")  # has a place of each kind
    @settings(max_examples=200, deadline=None)
    def check(text):
        parts = list(stretches(text, find_cut))
        cut.append(len(parts) > 1)
        assert "".join(parts) == text
        assert [piece for part in parts for piece in pieces(part)] == pieces(text)

    check()
    assert any(cut)


@pytest.mark.parametrize("kind", ["bpe", "superbpe", "llama", "unigram", "fallback_unigram"])
def test_tokens_are_those_of_the_whole(trained, foreign, kind, monkeypatch):
    tokenizer, cut = {**trained, **foreign}[kind], []
    find_cut = tokenizer._library.find_cut
    assert find_cut is not None

    @example(text="the text\nof the text")
    @given(text=texts)
    @settings(max_examples=150, deadline=None)
    def check(text):
        with monkeypatch.context() as patch:
            whole = tokenizer.encode(text.encode())
            patch.setattr(cutting, "LONGEST", 1)
            cut.append(len(list(stretches(text, find_cut))) > 1)
            np.testing.assert_array_equal(tokenizer.encode(text.encode()), whole)

    check()
    assert any(cut)


def test_a_cut_is_never_within_an_added_token(trained, short):
    library = tokenizers.Tokenizer.from_buffer(trained["bpe"].content)
    library.add_tokens(["the text"])
    tokenizer = Tokenizer("more.json", library.to_str().encode())
    text = "of the text of the text"
    parts = list(stretches(text, tokenizer._library.find_cut))
    assert sum("the text" in part for part in parts) == 2 and len(parts) > 2
    assert tokenizer.encode(text.encode()).tolist() == library.encode(text).ids


@pytest.mark.parametrize("what", ["another pattern", "a normalizer", "an added token that strips"])
def test_what_is_not_proven_is_not_cut(trained, what):
    description = json.loads(trained["bpe"].content)
    if what == "another pattern":
        description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    elif what == "a normalizer":
        description["normalizer"] = {"type": "NFC"}
    else:
        flags = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": False}
        description["added_tokens"] = [{"id": 300, "content": "x", "special": False, **flags}]
    assert of_hugging_face(description) is None
    assert of_hugging_face(json.loads(trained["bpe"].content)) is not None


def test_what_cannot_be_cut_is_said(monkeypatch, caplog):
    monkeypatch.setattr(cutting, "SAID_FROM", 10)
    with caplog.at_level(logging.WARNING):
        assert list(stretches("x" * 9, None)) == ["x" * 9]
        assert not caplog.records
        assert list(stretches("x" * 10, None)) == ["x" * 10]
    assert "are tokenised at once, which takes about 0.0 GB" in caplog.text


def test_parts_are_of_bounded_length(trained, monkeypatch):
    monkeypatch.setattr(cutting, "LONGEST", 20)
    text = "the text of the texts\n" * 30
    parts = list(stretches(text, trained["bpe"]._library.find_cut))
    assert max(map(len, parts)) < 30 and len(parts) > 20
    lines = list(stretches(text, trained["superbpe"]._library.find_cut))
    assert {part[-1] for part in lines} == {"\n"} and LINES in LINE_PATTERNS
