"""Any bytes are encoded exactly, in the library's own tokens."""

import io
import json
import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import Vocabulary
from bytelm.tokenizers.tokenizer import CHARACTERS, Tokenizer, load_tokenizer

KINDS = ["bpe", "superbpe", "unigram", "llama", "fallback_unigram"]
TRICKY = [
    *(text.encode() for text in ("\u2581", "\u2585", "\u2047", "\0", "\r\n", "\t", "  ", "\n")),
    *(
        text.encode()
        for text in ("e\u0301", "\u00e9", "\ufb01", "\ufeff", "\ufffd", "日本", "\U0001f600")
    ),
    *(b"\x80", b"\xff", b"\xe6\x97", b"\xed\xa0\x80", b"\xed\xb2\x80", b"\xf4\x90\x80\x80"),
    *(
        b"<|endoftext|>",
        b"<unk>",
        b"<s>",
        b"</s>",
        b"<0x41>",
        b"<0x0a>",
        b"the text",
        b" the",
        b"12",
    ),
]


@pytest.fixture(scope="session")
def known(trained, foreign):
    return {**trained, **foreign}


documents = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=30).map(str.encode),
    st.lists(st.sampled_from(TRICKY), max_size=12).map(b"".join),
)


@pytest.mark.parametrize("kind", KINDS)
@given(text=documents)
@settings(max_examples=150, deadline=None)
def test_tokens_are_the_text(known, kind, text):
    tokenizer = known[kind]
    ids = tokenizer.encode(text)
    assert (ids.dtype, ids.ndim) == (np.int32, 1)
    assert all(0 <= number < tokenizer.size for number in ids)
    pieces = [tokenizer.token_bytes[number] for number in ids]
    assert all(pieces)
    assert b"".join(pieces) == text == tokenizer.decode(ids)
    assert tokenizer.byte_counts[ids].sum() == len(text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tricky_text_alone_and_together(known, kind):
    for text in [b"", *TRICKY, b"".join(TRICKY), b" ".join(TRICKY[::-1])]:
        assert known[kind].decode(known[kind].encode(text)) == text


PLAIN = "the text, the texts of мир\n\tand don't (2024)  日本語 <s><|endoftext|> \U0001f600"


@pytest.mark.parametrize("kind", ["bpe", "superbpe"])
def test_valid_text_has_the_tokens_of_tokenizers(trained, kind):
    tokenizer = trained[kind]
    library = tokenizers.Tokenizer.from_buffer(tokenizer.content)
    ids = tokenizer.encode(PLAIN.encode())
    assert ids.tolist() == library.encode(PLAIN).ids
    assert library.decode(ids.tolist()) == PLAIN
    assert library.get_vocab_size() == tokenizer.size


def test_valid_text_has_the_tokens_of_sentencepiece(trained):
    processor = SentencePieceProcessor.from_proto(trained["unigram"].content)
    assert trained["unigram"].encode(PLAIN.encode()).tolist() == processor.encode(PLAIN)


def test_llama_tokens(foreign):
    tokenizer = foreign["llama"]
    library = tokenizers.Tokenizer.from_buffer(tokenizer.content)
    text = " the \0<0x41> \u00e9"
    names = [library.id_to_token(number) for number in tokenizer.encode(text.encode())]
    spelled = [f"<0x{byte:02X}>" for byte in b"0x41>"]
    expected = ["\u2581the", "\u2581", "<0x00>", "<", *spelled, "\u2581", "<0xC3>", "<0xA9>"]
    assert names == expected
    assert [library.id_to_token(i) for i in tokenizer.encode("\u2581".encode())] == [
        "<0xE2>",
        "<0x96>",
        "<0x81>",
    ]


def test_special_tokens_are_text_and_added_ones_tokens(foreign):
    tokenizer = foreign["llama"]
    assert [tokenizer.token_bytes[number] for number in range(3)] == [b""] * 3
    assert len(tokenizer.encode(b"<s>")) == 3
    assert tokenizer.decode(tokenizer.encode(b"the text")[:1]) == b"the text"


def test_bytes_that_are_not_utf8_have_tokens_of_their_own(trained):
    for tokenizer in trained.values():
        pieces = [tokenizer.token_bytes[i] for i in tokenizer.encode(b"the\xff\xe6\x97the")]
        assert pieces[len(pieces) // 2 - 1 : len(pieces) // 2 + 2] == [b"\xff", b"\xe6", b"\x97"]


def test_what_a_file_adds_to_a_text_is_left_out(trained):
    library = tokenizers.Tokenizer.from_buffer(trained["bpe"].content)
    library.add_special_tokens(["<s>", "<pad>"])
    library.enable_truncation(3)
    library.enable_padding(pad_token="<pad>", length=50)
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", library.token_to_id("<s>"))]
    )
    tokenizer = Tokenizer("more.json", library.to_str().encode())
    text = b"the text <s> and the texts"
    np.testing.assert_array_equal(tokenizer.encode(text), trained["bpe"].encode(text))
    assert tokenizer.size == trained["bpe"].size + 2
    assert tokenizer.token_bytes[-2:] == (b"", b"")


def test_vocabulary_and_lengths(trained):
    tokenizer = trained["bpe"]
    assert tokenizer.vocabulary == Vocabulary(tokenizer.size)
    assert tokenizer.byte_counts.shape == (tokenizer.size + 3,)
    assert tokenizer.byte_counts[: tokenizer.size].tolist() == [*map(len, tokenizer.token_bytes)]
    assert not tokenizer.byte_counts[tokenizer.size :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_can_be_sent_to_another_process(known, kind):
    tokenizer = known[kind]
    sent = pickle.loads(pickle.dumps(tokenizer))
    assert (sent.path, sent.digest, sent.size) == (tokenizer.path, tokenizer.digest, tokenizer.size)
    assert sent.token_bytes == tokenizer.token_bytes
    text = b"".join(TRICKY)
    np.testing.assert_array_equal(sent.encode(text), tokenizer.encode(text))


def test_is_read_from_a_file_and_digest_is_of_its_content(trained, tmp_path):
    for kind, tokenizer in trained.items():
        path = tmp_path / kind
        path.write_bytes(tokenizer.content)
        found = load_tokenizer(path)
        assert (found.path, found.content) == (str(path), tokenizer.content)
        assert found.digest == tokenizer.digest
    assert len({tokenizer.digest for tokenizer in trained.values()}) == len(trained)


def with_normalizer(tokenizer, normalizer):
    library = tokenizers.Tokenizer.from_buffer(tokenizer.content)
    library.normalizer = normalizer
    return library.to_str().encode()


@pytest.mark.parametrize(
    ("normalizer", "text"),
    [
        (normalizers.Lowercase(), "b'A"),
        (normalizers.NFD(), r"\\xc3"),
        (normalizers.NFKC(), ""),
        (normalizers.Strip(), ""),
        (normalizers.Prepend("\u2581"), "b'A"),
    ],
)
def test_a_tokenizer_that_changes_text(trained, normalizer, text):
    with pytest.raises(UserError, match=rf"changed\.json cannot write back .*{text}.*at byte \d"):
        Tokenizer("changed.json", with_normalizer(trained["bpe"], normalizer))


def test_nfc_is_left_out(trained):
    content = with_normalizer(
        trained["bpe"], normalizers.Sequence([normalizers.NFC(), normalizers.NFC()])
    )
    tokenizer = Tokenizer("nfc.json", content)
    assert tokenizer.content == content
    for text in ("caf\u00e9", "cafe\u0301"):  # in NFC, and not
        assert tokenizer.decode(tokenizer.encode(text.encode())) == text.encode()
    composed = "caf\u00e9".encode()
    assert tokenizer.encode(composed).tolist() == trained["bpe"].encode(composed).tolist()


def test_a_text_that_is_changed(trained):
    content = with_normalizer(trained["bpe"], normalizers.Replace("z", "y"))
    tokenizer = Tokenizer("changed.json", content)
    tokenizer.encode(b"the text")
    with pytest.raises(UserError, match=r"changed\.json cannot write back b'zoo' at byte 6 of"):
        tokenizer.encode(b"a\xffthe zoo"[:5] + b"\xffzoo")
    shorter = Tokenizer("cut.json", with_normalizer(trained["bpe"], normalizers.Replace("z", "")))
    with pytest.raises(UserError, match=r"cannot write back b'z' at byte 3 of"):
        shorter.encode(b"thez")


def test_a_space_before_a_text(foreign):
    library = tokenizers.Tokenizer.from_buffer(foreign["llama"].content)
    library.normalizer = None
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    with pytest.raises(UserError, match="cannot write back b'A"):
        Tokenizer("llama.json", library.to_str().encode())


def test_words_without_bytes():
    words = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    with pytest.raises(UserError, match=r"words\.json is a WordPiece tokenizer.*byte fallback"):
        Tokenizer("words.json", words.to_str().encode())


def test_a_byte_without_a_token(trained):
    description = json.loads(trained["bpe"].content)
    description["model"]["merges"] = []
    vocabulary = {CHARACTERS[byte]: byte for byte in range(256) if byte != 0x80}
    description["model"]["vocab"] = vocabulary
    with pytest.raises(UserError, match=r"few\.json has no token for the byte 0x80"):
        Tokenizer("few.json", json.dumps(description).encode())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"byte_fallback": False}, r"a\.model has no token for the byte 0x00"),
        ({"normalization_rule_name": "nmt_nfkc"}, r"a\.model cannot write back"),
        ({"add_dummy_prefix": True}, r"a\.model cannot write back b'A"),
        ({"remove_extra_whitespaces": True}, r"a\.model cannot write back"),
    ],
)
def test_a_sentencepiece_model_that_changes_text(options, message):
    faithful = {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    }
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the text of the texts"] * 30),
        model_writer=model,
        vocab_size=290,
        hard_vocab_limit=False,
        minloglevel=2,
        **(faithful | options),
    )
    with pytest.raises(UserError, match=message):
        Tokenizer("a.model", model.getvalue())


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*none\.json \(No such file"):
        load_tokenizer(tmp_path / "none.json")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("end", [0, 1, 40, -40])
def test_a_damaged_file(trained, kind, end):
    with pytest.raises(UserError, match=r"a\.file is damaged, or neither"):
        Tokenizer("a.file", trained[kind].content[:end])


@pytest.mark.parametrize("content", [b"{}", b'{"model": {}}', b"words", b"[1]", b"\xff\xfe\0"])
def test_a_file_of_another_kind(content):
    with pytest.raises(UserError, match=r"a\.file is damaged, or neither"):
        Tokenizer("a.file", content)
