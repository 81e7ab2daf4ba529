"""Rows of tokens hold all bytes of the documents, and stopped work is continued."""

import pickle

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, NextByte
from bytelm.data.corpus import subwords
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.corpus.entries import PROGRESS
from bytelm.data.corpus.packing import Rows, pack
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.data.validation import ValidationBatches
from tests.data.tokenized import DOCUMENTS, TOKENS


def corpus_of(config):
    data = OpenData(config)
    return data.corpus(data.sources[0], "train")


def test_rows_hold_every_document(tokenized):
    corpus, tokenizer = corpus_of(tokenized), OpenData(tokenized).tokenizer
    vocabulary = tokenizer.vocabulary
    rows = Rows(corpus, 7)
    batch = rows.batch(range(len(rows)))
    stream = batch["ids"][batch["document_ids"] > 0]
    texts = [[]]
    for symbol in stream.tolist():
        if symbol == vocabulary.end:
            texts.append([])
        elif symbol != vocabulary.start:
            texts[-1].append(symbol)
    assert [tokenizer.decode(text) for text in texts[:-1]] == DOCUMENTS
    targets = batch["targets"][batch["targets"] >= 0]
    assert np.count_nonzero(targets == vocabulary.end) == len(DOCUMENTS)
    assert (stream[stream != vocabulary.start] == targets).all()


def test_byte_counts_are_of_the_targets(tokenized):
    (rows,) = OpenData(tokenized).training_rows(seed=0)
    batch = rows.batch(range(len(rows)))
    tokenizer = OpenData(tokenized).tokenizer
    assert batch["byte_counts"].dtype == np.int32
    for target, count in zip(batch["targets"].flat, batch["byte_counts"].flat, strict=True):
        text = tokenizer.token_bytes[target] if 0 <= target < tokenizer.size else b""
        assert count == len(text)
    assert batch["byte_counts"].sum() == sum(map(len, DOCUMENTS))


def test_tokens_are_made_once(tokenized, monkeypatch):
    first = corpus_of(tokenized)
    monkeypatch.setattr(subwords, "write_documents", None)
    again = corpus_of(tokenized)
    np.testing.assert_array_equal(first.symbols, again.symbols)
    copy = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(first.symbols, copy.symbols)
    assert copy.vocabulary == again.vocabulary and copy.fingerprint == again.fingerprint


def test_the_loader_gives_tokens_with_their_byte_counts(tokenized):
    loader = train_loader(OpenData(tokenized), seed=0)
    try:
        batch = next(loader)
    finally:
        loader.close()
    assert batch.ids.shape == batch.byte_counts.shape == (2, 16)
    assert OpenData(tokenized).tokenizer.digest in loader.fingerprint
    validation = list(ValidationBatches(OpenData(tokenized)))
    assert sum(batch.byte_counts.sum() for batch in validation) == len("held out text")


def test_text_that_a_tokenizer_changes_is_refused(tokenized, monkeypatch):
    tokenizer = OpenData(tokenized).tokenizer
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids: b"?")
    packed = packed_corpus(OpenData(tokenized).sources[0], "train", tokenized.cache_path)
    with pytest.raises(UserError, match=r"cannot write back .* at byte 0"):
        subwords.token_corpus(packed, tokenizer, tokenized.cache_path / "other")


def test_tokenising_goes_on_where_it_was(tokenized, tmp_path, monkeypatch):
    monkeypatch.setattr(subwords, "SAVE_SECONDS", -1.0)
    packed = packed_corpus(OpenData(tokenized).sources[0], "train", tokenized.cache_path)
    tokenizer, texts = OpenData(tokenized).tokenizer, []
    expected = corpus_of(tokenized)
    encode = tokenizer.encode

    def stopped(text):
        if len(texts) == 3:
            raise KeyboardInterrupt
        texts.append(text)
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        subwords.token_corpus(packed, tokenizer, tmp_path)
    monkeypatch.setattr(tokenizer, "encode", lambda text: texts.append(text) or encode(text))
    found = subwords.token_corpus(packed, tokenizer, tmp_path)
    assert texts == list(packed.documents())
    np.testing.assert_array_equal(found.symbols, expected.symbols)
    np.testing.assert_array_equal(found.starts, expected.starts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stochastok": 1.5}, r"data.stochastok is 1.5"),
        ({"stochastok": 0.1}, "no tokens to split"),
        ({"shard_bytes": 0}, "data.shard_bytes is 0"),
        ({"tokenizer": "t.json", "stochastok": 0.1, "shard_bytes": 4}, "leave one of them out"),
        ({"tokenizer": "t.json", "unigram": "u.model"}, "data.unigram; leave one"),
        ({"shard_bytes": 4, "read": "stream"}, "data.read stream; leave one"),
    ],
)
def test_what_does_not_go_with_tokens(changes, message):
    with pytest.raises(UserError, match=message):
        NextByte(**changes)


def test_a_missing_tokenizer_is_named():
    with pytest.raises(UserError, match=r"cannot read the tokenizer gone\.json"):
        _ = OpenData(DataConfig(task=NextByte(tokenizer="gone.json"))).tokenizer


def test_few_tokens_take_two_bytes_each(tokenized):
    assert corpus_of(tokenized).symbols[:].dtype == np.uint16 and TOKENS < 2**16


LONG = [b"%d " % number * 50 for number in range(40)]


def written(directory, stop=None):
    """Writes LONG; returns the index of the first document that this call wrote."""
    corpus, numbers = pack(LONG), []
    corpus.name = "it"

    def write(text, files):
        numbers.append(LONG.index(text))
        files["text"].write(text)
        if numbers[-1] == stop:
            raise KeyboardInterrupt
        files["sizes"].write(b"%3d" % len(text))

    subwords.write_documents(corpus, directory, "tokens", ["text", "sizes"], write)
    assert (directory / "text").read_bytes() == b"".join(LONG)
    assert (directory / "sizes").read_bytes() == b"".join(b"%3d" % len(t) for t in LONG)
    return numbers[0]


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A directory of a process that was stopped in document 30."""
    monkeypatch.setattr(subwords, "SAVE_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, stop=12)
    monkeypatch.setattr(subwords, "SAVE_SECONDS", 99.0)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, stop=30)
    return tmp_path


def test_goes_on_where_it_was_saved(stopped, caplog):
    assert written(stopped) == 12
    assert "continuing the tokens of it after 12 documents" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no JSON", "other JSON"])
def test_damage_starts_over(stopped, caplog, damage):
    text = (stopped / "text").read_bytes()
    if damage == "flipped":
        (stopped / "text").write_bytes(b"?" + text[1:])
    elif damage == "cut":
        (stopped / "sizes").write_bytes(b"")
    elif damage == "gone":
        (stopped / "sizes").unlink()
    else:
        (stopped / PROGRESS).write_text("{" if damage == "no JSON" else "[1]")
    assert written(stopped) == 0
    assert "the unfinished part of the tokens of it is damaged; it starts over" in caplog.text
