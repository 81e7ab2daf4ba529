"""Tokenizers are trained on the train split, exactly as large as asked, and always the same."""

import itertools
import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Library

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData, training_text
from bytelm.tokenizers.cutting import LINES, WORDS
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.tokenizers.training import LONGEST, _in_code, train_tokenizer
from tests.tokenizers.subword_fixtures import SIZES, TRANSITION, texts_of

WITHIN = round(SIZES["superbpe"] * TRANSITION)
"""Tokens that SuperBPE makes within words."""


def pieces(pattern, text):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


def merges_of(tokenizer):
    """Each merge as the bytes of its halves, in order."""
    model = json.loads(tokenizer.content)["model"]
    return [
        tuple(tokenizer.token_bytes[model["vocab"][x]] for x in pair) for pair in model["merges"]
    ]


def merged(text, merges):
    """A piece of text after merges, each done everywhere before the next begins."""
    tokens = [bytes([byte]) for byte in text.encode()]
    for left, right in merges:
        place = 0
        while place < len(tokens) - 1:
            if (tokens[place], tokens[place + 1]) == (left, right):
                tokens[place : place + 2] = [left + right]
            place += 1
    return tokens


@pytest.mark.parametrize("kind", SIZES)
def test_has_exactly_as_many_tokens_and_every_byte(trained, kind):
    tokenizer = trained[kind]
    assert tokenizer.size == SIZES[kind]
    texts = tokenizer.token_bytes
    assert {bytes([byte]) for byte in range(256)} <= set(texts)
    # Only SentencePiece's unknown piece is no text.
    assert texts.count(b"") == (kind == "unigram")


@pytest.mark.parametrize("kind", ["bpe", "superbpe"])
def test_files_are_of_tokenizers_and_have_no_special_tokens(trained, kind):
    library = Library.from_buffer(trained[kind].content)
    assert library.get_added_tokens_decoder() == {}
    assert library.normalizer is None
    assert library.post_processor is None


def test_bpe_stays_within_words_and_superbpe_does_not(trained):
    across = re.compile(rb"\S\s+\S")
    assert not any(map(across.search, trained["bpe"].token_bytes))
    later = [first + second for first, second in merges_of(trained["superbpe"])][WITHIN - 256 :]
    assert sum(bool(across.search(token)) for token in later) >= 3
    text = b"the text of the texts of the texts\n" * 3
    assert len(trained["superbpe"].encode(text)) < len(trained["bpe"].encode(text))


def test_superbpe_begins_as_bpe(trained):
    shared = WITHIN - 256
    assert merges_of(trained["superbpe"])[:shared] == merges_of(trained["bpe"])[:shared]
    assert trained["superbpe"].token_bytes[:WITHIN] == trained["bpe"].token_bytes[:WITHIN]
    assert merges_of(trained["superbpe"])[shared] != merges_of(trained["bpe"])[shared]


@pytest.mark.parametrize(("kind", "pattern"), [("bpe", WORDS), ("superbpe", LINES)])
def test_every_merge_is_of_the_most_frequent_pair(corpus, trained, kind, pattern):
    """Counts pairs again after each merge, as in the paper of BPE."""
    merges = merges_of(trained[kind])
    first = 0 if kind == "bpe" else WITHIN - 256
    found = Counter(
        piece
        for text in training_text(OpenData(corpus), 10**6)
        for piece in pieces(pattern, text.decode())
    )
    for done in (first, first + 1, first + 7, len(merges) - 1):
        counts = Counter()
        for piece, times in found.items():
            tokens = merged(piece, merges[:done])
            for pair in itertools.pairwise(tokens):
                counts[pair] += times
        assert counts[merges[done]] == max(counts.values()) >= 2


@pytest.mark.parametrize(("kind", "pattern"), [("bpe", WORDS), ("superbpe", LINES)])
@given(
    words=st.lists(st.sampled_from("the text of 日本語 мир's \n 20245 , \t".split(" ")), max_size=9)
)
@settings(max_examples=40, deadline=None)
def test_merges_are_done_in_their_order(trained, kind, pattern, words):
    text, tokenizer = " ".join(words), trained[kind]
    expected = [
        token for piece in pieces(pattern, text) for token in merged(piece, merges_of(tokenizer))
    ]
    assert [tokenizer.token_bytes[i] for i in tokenizer.encode(text.encode())] == expected


@given(text=st.one_of(st.text(), st.text(alphabet="ab1.' \t\r\n\u0301\u2028\xa0", max_size=40)))
@settings(max_examples=300, deadline=None)
def test_patterns_keep_all_text_and_lines_are_made_of_words(text):
    words, lines = pieces(WORDS, text), pieces(LINES, text)
    assert "".join(words) == "".join(lines) == text

    def ends(found):
        return {len("".join(found[: place + 1])) for place in range(len(found))}

    assert ends(lines) <= ends(words)


def test_patterns_by_example():
    text = "I'll say  the\u0301 12345 (words),\r\n\n   हिन्दी!\n \tx"
    assert pieces(WORDS, text) == [
        *("I", "'ll", " say", " ", " the\u0301", " ", "123", "45", " (", "words", "),\r\n\n"),
        *("  ", " हिन्दी", "!\n", " ", "\tx"),
    ]
    assert pieces(LINES, text) == [
        "I'll say  the\u0301 ",
        *("123", "45", " (words),\r\n\n", "   हिन्दी!\n", " \tx"),
    ]


@pytest.mark.parametrize("kind", SIZES)
def test_the_same_text_gives_the_same_file(corpus, trained, kind):
    again = train_tokenizer(texts_of(corpus), kind, SIZES[kind], transition=TRANSITION)
    assert again == trained[kind].content
    less = train_tokenizer(texts_of(corpus, 6000), kind, SIZES[kind], transition=TRANSITION)
    assert less != again


@pytest.mark.parametrize("kind", ["bpe", "superbpe"])
def test_text_that_is_not_utf8_is_cut_around_the_bytes(tmp_path, kind):
    path = tmp_path / "words.txt"
    path.write_bytes(b"the text\xffthe text\xe6the text " * 9)
    config = DataConfig(
        source=Files(files=(str(path),), held_out=0.0), cache_dir=str(tmp_path / "cache")
    )
    tokenizer = Tokenizer("words.json", train_tokenizer(texts_of(config), kind, 262))
    assert any(b"text" in token for token in tokenizer.token_bytes)
    assert all(len(token) == 1 or token.isascii() for token in tokenizer.token_bytes)


def test_the_256_bytes_alone(corpus):
    for kind in ("bpe", "superbpe"):
        library = Library.from_buffer(train_tokenizer(texts_of(corpus), kind, 256))
        assert library.get_vocab_size() == 256
        assert len(library.encode("the мир").ids) == 10


@pytest.mark.parametrize("kind", SIZES)
def test_a_size_that_cannot_be_had(corpus, kind):
    with pytest.raises(UserError, match=r"^--size is 255; choose 256 or more"):
        train_tokenizer(texts_of(corpus), kind, 255)
    message = "--size is 50000, and this text gives .* tokens.*choose a smaller --size"
    if kind == "unigram":
        message = r"cannot make 50000 pieces of this text .*<= \d+.*--size"
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts_of(corpus), kind, 50000)


def test_superbpe_without_room_within_words(corpus):
    with pytest.raises(UserError, match=r"--size is 2000, and this text gives \d+ tokens"):
        train_tokenizer(texts_of(corpus), "superbpe", 2000)
    with pytest.raises(UserError, match=r"--transition is 1\.5"):
        train_tokenizer(texts_of(corpus), "superbpe", 300, transition=1.5)


def test_unigram_with_fewer_pieces_than_characters(corpus):
    with pytest.raises(UserError, match=r"cannot make 258 pieces.*smaller than.*--size"):
        train_tokenizer(texts_of(corpus), "unigram", 258)


def test_a_pair_that_occurs_once_makes_no_token(tmp_path):
    (tmp_path / "once.txt").write_text("abcdefgh")
    config = DataConfig(
        source=Files(files=(str(tmp_path / "once.txt"),), held_out=0.0),
        cache_dir=str(tmp_path / "cache"),
    )
    with pytest.raises(UserError, match="--size is 257, and this text gives 256 tokens"):
        train_tokenizer(texts_of(config), "bpe", 257)


def test_a_long_word_is_cut_in_training_so_that_time_is_linear(tmp_path):
    def trained_on(text):
        path = tmp_path / "words.txt"
        path.write_text(text)
        config = DataConfig(
            source=Files(files=(str(path),), held_out=0.0), cache_dir=str(tmp_path / "cache")
        )
        return Library.from_buffer(train_tokenizer(texts_of(config), "bpe", 264))

    words = ["ab" * 250 + "cd" * 250, "ac" * 250 + "bd" * 250, "ad" * 100]
    together = trained_on("".join(words))
    # Line breaks separate words, and are in no merge here.
    assert together.to_str() == trained_on("\n".join(words)).to_str()
    parts = list(_in_code(together, ["".join(words) * 9]))
    assert max(map(len, parts)) == LONGEST
    assert len("".join(parts)) == len(together.encode("".join(words) * 9).ids)
