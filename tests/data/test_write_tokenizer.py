"""Tokenizers are written whole, and measured on the validation split."""

from dataclasses import replace

import pytest

from bytelm.core.errors import UserError
from bytelm.data.open_data import Documents, OpenData
from bytelm.data.write_tokenizer import write_tokenizer
from bytelm.tokenizers.tokenizer import load_tokenizer
from tests.tokenizers.subword_fixtures import SIZES, TRANSITION


@pytest.mark.parametrize("kind", SIZES)
def test_is_written_whole_and_measured(corpus, tmp_path, capsys, kind):
    output = tmp_path / "words.tokenizer"
    write_tokenizer(OpenData(corpus), kind, SIZES[kind], 10**6, output, transition=TRANSITION)
    tokenizer = load_tokenizer(output)
    texts = list(Documents(OpenData(corpus), "validation"))
    mean = sum(map(len, texts)) / sum(len(tokenizer.encode(text)) for text in texts)
    expected = f"{output}: {SIZES[kind]} tokens, {mean:.2f} bytes per token"
    assert capsys.readouterr().out == f"{expected} on the validation split\n"
    assert mean > 1.5

    before = output.read_bytes()
    with pytest.raises(UserError, match=r"words\.tokenizer exists already"):
        write_tokenizer(OpenData(corpus), kind, SIZES[kind], 10**6, output)
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["words.tokenizer"]


def test_mistakes_are_found_before_training(corpus, tmp_path):
    nothing_held_out = replace(corpus, source=replace(corpus.source, held_out=0.0))
    with pytest.raises(UserError, match="there is no directory"):
        write_tokenizer(OpenData(corpus), "bpe", 300, 10**6, tmp_path / "no" / "words.json")
    with pytest.raises(UserError, match="no text in its validation split"):
        write_tokenizer(OpenData(nothing_held_out), "bpe", 300, 10**6, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())
