"""`bytelm data unigram` makes the model that data.unigram reads."""

import json
from dataclasses import replace

import pytest

from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, Mixture, NextByte, Tfds
from bytelm.data.loader import train_loader
from bytelm.data.open_data import Documents, OpenData
from bytelm.tokenizers import training
from bytelm.tokenizers.training import train_unigram
from bytelm.tokenizers.unigram import Unigram
from tests.tokenizers.subword_fixtures import texts_of


@pytest.fixture
def config(tmp_path):
    words = "the of and texts мир время language\tmodel".split(" ")
    lines = [" ".join(words[(i + j * j) % len(words)] for j in range(9)) for i in range(12)]
    path = tmp_path / "words.jsonl"
    texts = ["\n".join(lines[n % 7 :]) + f"\n\n{n}" for n in range(30)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return DataConfig(
        source=Files(files=(str(path),), held_out=0.2), cache_dir=str(tmp_path / "cache")
    )


def options(config):
    files, cache = config.source.files[0], config.cache_dir
    return ["--data.files", files, "--data.cache-dir", cache, "--data.held-out", "0.2"]


def test_makes_a_model_that_training_reads(config, tmp_path, capfd):
    output = tmp_path / "words.model"
    command = ["data", "unigram", *options(config), "--pieces", "70", "--output", str(output)]
    assert main(command) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    unigram = Unigram(str(output))
    assert 30 < unigram.vocabulary_size <= 70
    texts = list(Documents(OpenData(config), "validation"))
    pieces = sum(int(unigram.boundaries(text)[1:].sum()) for text in texts)
    mean = sum(map(len, texts)) / pieces
    assert 1.5 < mean < 8
    expected = f"{output}: {unigram.vocabulary_size} pieces, {mean:.2f} bytes per piece"
    assert printed.out == f"{expected} on the validation split\n"
    assert next(
        train_loader(OpenData(replace(config, task=replace(config.task, unigram=str(output)))), 0)
    ).boundaries.any()

    before = output.read_bytes()
    assert main(command) == 2
    assert f"error: {output} exists already" in capfd.readouterr().err
    assert output.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"words.jsonl", "words.model", "cache"}


def test_the_same_text_gives_the_same_model(config):
    first = train_unigram(texts_of(config), 60)
    assert train_unigram(texts_of(config), 60) == first
    assert train_unigram(texts_of(config, 3000), 60) != first


def test_text_is_cut_into_sentences_without_losing_spaces():
    text = "  one\n\n\n two \n" + "x" * 2500 + "\ta\0b\udcff\u2585c\n"
    found = training.SENTENCE.findall(text)
    assert found[:2] == ["  one", "\n\n two "]
    assert [len(sentence) for sentence in found[2:5]] == [1001, 1000, 500]
    assert found[5:] == ["a", "b", "c"]
    assert max(len(("\U0001f600" * 1002)[: len(sentence)].encode()) for sentence in found) < 4192


@pytest.fixture
def sentences(monkeypatch):
    """What SentencePiece is given."""
    given = []

    def train(sentence_iterator, model_writer, **keywords):
        given.extend(sentence_iterator)

    monkeypatch.setattr(training.SentencePieceTrainer, "train", train)
    return given


def test_reads_no_more_than_asked_and_documents_in_random_order(config, sentences):
    train_unigram(texts_of(config), 60)
    everything, total = list(sentences), sum(len(s.encode()) for s in sentences)
    assert total > 8000
    sentences.clear()
    train_unigram(texts_of(config, 2000), 60)
    assert 1800 < sum(len(sentence.encode()) for sentence in sentences) <= 2000
    assert everything[: len(sentences) - 1] == sentences[:-1]
    first = next(iter(Documents(OpenData(config), "train"))).decode()
    assert sentences[:3] != training.SENTENCE.findall(first)[:3]


def test_a_mixture_gives_text_by_its_weights(config, tmp_path, sentences):
    (tmp_path / "x.txt").write_text("x" * 9000)
    other = Files(files=(str(tmp_path / "x.txt"),), held_out=0.0)
    mixture = (Files(files=config.source.files, weight=3.0), other)
    train_unigram(texts_of(replace(config, source=Mixture(sources=mixture)), 4000), 60)
    of_x = sum(sentence.count("x") for sentence in sentences if set(sentence) == {"x"})
    assert of_x == 1000
    assert 3800 < sum(len(sentence.encode()) for sentence in sentences) <= 4000


def test_a_stream_is_not_packed(tfds_dir, tmp_path, sentences):
    config = DataConfig(
        source=Tfds(dataset="tiny_text", data_dir=tfds_dir),
        task=NextByte(read="stream"),
        cache_dir=str(tmp_path / "cache"),
    )
    train_unigram(texts_of(config), 60)
    assert len(sentences) > 50
    assert not config.cache_path.exists()


def test_fewer_pieces_than_characters(config):
    with pytest.raises(UserError, match=r"cannot make 5 pieces.*--pieces"):
        train_unigram(texts_of(config), 5)


def test_mistakes_are_found_before_training(config, tmp_path, capsys, sentences):
    missing = tmp_path / "no" / "words.model"
    assert main(["data", "unigram", *options(config), "--output", str(missing)]) == 2
    assert "there is no directory" in capsys.readouterr().err
    output = ["--output", str(tmp_path / "words.model")]
    assert main(["data", "unigram", *options(config)[:-1], "0", *output]) == 2
    assert "no text in its validation split" in capsys.readouterr().err
    assert not sentences
