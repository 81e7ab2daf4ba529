"""Messages name the part of a file that changes text, and a remedy."""

import io
import json

import pytest
import tokenizers
from sentencepiece import SentencePieceTrainer
from tokenizers import decoders, normalizers, pre_tokenizers

from bytelm.core.errors import UserError
from bytelm.tokenizers.tokenizer import Tokenizer

REPLACE = normalizers.Replace(" ", "\u2581")


def refused(library):
    with pytest.raises(UserError) as caught:
        Tokenizer("a.json", library.to_str().encode())
    message = str(caught.value)
    assert message.startswith("a.json cannot write back ")
    return message


@pytest.fixture
def llama(foreign):
    return tokenizers.Tokenizer.from_buffer(foreign["llama"].content)


@pytest.fixture
def bpe(trained):
    return tokenizers.Tokenizer.from_buffer(trained["bpe"].content)


def test_the_space_before_a_text_of_llama(llama):
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), REPLACE])
    llama.decoder = decoders.Sequence([llama.decoder, decoders.Strip(" ", 1, 0)])
    assert ", because of its normalizer Prepend: a file without Prepend writes" in refused(llama)


def test_a_pre_tokenizer_that_puts_a_space(llama, bpe):
    llama.normalizer = None
    llama.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    message = refused(llama)
    assert "its pre-tokenizer Metaspace, which puts a space before a text" in message
    assert 'a file with "prepend_scheme": "never" there writes all text back' in message
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert 'with "add_prefix_space": false there' in refused(bpe)


def test_several_faults_are_all_named_and_others_are_not(bpe):
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.Replace("no such text", ""), normalizers.Lowercase()]
    )
    message = refused(bpe)
    assert "its normalizer NFD and normalizer Lowercase: a file without NFD and without" in message
    assert "Replace" not in message


def test_a_pre_tokenizer_that_drops_spaces(bpe):
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert "WhitespaceSplit, which drops what it cuts at" in refused(bpe)


def test_what_cannot_be_named_is_not(trained):
    description = json.loads(trained["bpe"].content)
    description["model"]["end_of_word_suffix"] = "</w>"
    with pytest.raises(UserError, match=r"would be wrong; choose a tokenizer that does not"):
        Tokenizer("a.json", json.dumps(description).encode())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"add_dummy_prefix": True},
            "its add_dummy_prefix: a file trained with --add_dummy_prefix=false writes",
        ),
        (
            {"remove_extra_whitespaces": True, "normalization_rule_name": "nfkc"},
            "its normalization rule nfkc and remove_extra_whitespaces: a file trained with "
            "--normalization_rule_name=identity and trained with --remove_extra_whitespaces=false",
        ),
    ],
)
def test_a_sentencepiece_model(options, expected):
    model = io.BytesIO()
    faithful = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the text of the texts"] * 30),
        model_writer=model,
        vocab_size=290,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **({"normalization_rule_name": "identity"} | faithful | options),
    )
    with pytest.raises(UserError) as caught:
        Tokenizer("a.model", model.getvalue())
    assert f", because of {expected}" in str(caught.value)
