"""Boundaries are the ends of SentencePiece's own pieces, in bytes, for any text."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from bytelm.core.errors import UserError
from bytelm.tokenizers.unigram import Unigram


def pieces_of(unigram, document):
    """The document cut after each boundary, without START and END."""
    marks = unigram.boundaries(document)
    assert (marks.shape, marks.dtype) == ((len(document) + 2,), np.bool_)
    assert marks[0] and not marks[-1]
    cuts = np.flatnonzero(marks[1:-1]) + 1
    assert not document or cuts[-1] == len(document)
    return [document[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]


def own_pieces(model, text):
    """SentencePiece's pieces as it writes them, with U+2581 for a space."""
    processor = SentencePieceProcessor.from_file(model)
    return [piece.replace("\u2581", " ").encode() for piece in processor.encode(text, out_type=str)]


@pytest.mark.parametrize(
    "text",
    [
        "the texts and of the",
        "  the   text of ",
        "мир и время миру",
        "日本語 the 日本мир",
        "the text\nand\n\n\ttexts",
        "unknown: \u0939\u093f\u0928\u094d\u0926\u0940 \U0001f600\U0001f600!",
    ],
)
def test_are_the_ends_of_its_pieces(unigram_model, text):
    assert pieces_of(Unigram(unigram_model), text.encode()) == own_pieces(unigram_model, text)


def test_the_model_knows_words(unigram_model):
    """So that the test above is not of single characters."""
    found = pieces_of(Unigram(unigram_model), "the время 日本語".encode())
    assert max(len(piece.decode()) for piece in found) > 2
    assert len(found) > 1


def test_each_invalid_byte_is_a_piece(unigram_model):
    text, other = "the мир".encode(), "日本 of".encode()
    document = b"\xff" + text + b"\xe6\x97" + other + b"\x80\0"
    expected = [b"\xff", *own_pieces(unigram_model, text.decode()), b"\xe6", b"\x97"]
    expected += [*own_pieces(unigram_model, other.decode()), b"\x80", b"\0"]
    assert pieces_of(Unigram(unigram_model), document) == expected


@given(document=st.one_of(st.binary(max_size=40), st.text(max_size=30).map(lambda t: t.encode())))
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_cut_between_characters(unigram_model, document):
    unigram = Unigram(unigram_model)
    pieces = pieces_of(unigram, document)
    assert b"".join(pieces) == document
    for piece in pieces:
        text = piece.decode(errors="replace")
        assert text.encode() == piece or len(piece) == 1


@pytest.fixture
def normalising_model(tmp_path):
    """A model that first normalises text: NFKC, and only single spaces inside."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["fi find the file of a fin"] * 30),
        model_writer=model,
        vocab_size=25,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path / "nfkc.model"
    path.write_bytes(model.getvalue())
    return str(path)


def test_boundaries_are_in_the_text_before_it_is_normalised(normalising_model):
    unigram = Unigram(normalising_model)
    plain = pieces_of(unigram, b"the file")
    assert len(plain) > 1
    wide = "the file".translate({code: code + 0xFEE0 for code in range(ord("a"), ord("z") + 1)})
    assert [len(piece) for piece in pieces_of(unigram, wide.encode())] == [
        3 * len(piece) - 2 * piece.count(b" ") for piece in plain
    ]
    for text in ("", "   ", "  the   file  ", "\ufb01nd", "the \ufb01 \u2460"):
        assert b"".join(pieces_of(unigram, text.encode())) == text.encode()
        for piece in pieces_of(unigram, text.encode()):
            piece.decode()


def test_can_be_sent_to_another_process(unigram_model):
    unigram = Unigram(unigram_model)
    sent = pickle.loads(pickle.dumps(unigram))
    assert sent.digest == unigram.digest
    text = "the время".encode()
    np.testing.assert_array_equal(sent.boundaries(text), unigram.boundaries(text))


def test_digest_is_of_the_content(unigram_model, normalising_model, tmp_path):
    copy = tmp_path / "copy.model"
    copy.write_bytes(Path(unigram_model).read_bytes())
    assert Unigram(str(copy)).digest == Unigram(unigram_model).digest
    assert Unigram(normalising_model).digest != Unigram(unigram_model).digest


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "words.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"data.unigram: .*words\.model.*bytelm data unigram"):
        Unigram(str(path))


def test_a_torn_model(tmp_path, unigram_model):
    path = tmp_path / "torn.model"
    content = Path(unigram_model).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"torn\.model is damaged.*--output NEW.model"):
        Unigram(str(path))
