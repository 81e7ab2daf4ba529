"""A run directory holds copies of its tokenizer and Unigram model, and reads only those."""

import pytest

from bytelm.core.errors import UserError
from bytelm.data.carried import carried_tokenizer, carry, with_copies
from bytelm.data.config import DataConfig, NextByte
from bytelm.tokenizers.unigram import Unigram


@pytest.fixture
def model(tmp_path, trained):
    path = tmp_path / "words.model"
    path.write_bytes(trained["unigram"].content)
    return Unigram(str(path))


@pytest.fixture
def run(tmp_path, trained, model):
    directory = tmp_path / "run"
    directory.mkdir()
    carry(directory, trained["bpe"], model)
    return directory


def test_copies_take_the_place_of_the_originals(tmp_path, run, trained, model):
    saved = DataConfig(task=NextByte(unigram=str(tmp_path / "gone.model")))
    found = with_copies(saved, run, saved)
    assert Unigram(found.task.unigram).digest == model.digest
    assert found.task.tokenizer is None
    assert with_copies(DataConfig(), run, saved) == DataConfig()
    # Another path with the same content, such as that of the copy.
    for path in (model.path, str(run / "unigram.model")):
        assert with_copies(DataConfig(task=NextByte(unigram=path)), run, saved) == found


def test_another_content_is_refused(tmp_path, run, trained):
    other = tmp_path / "other.model"
    other.write_bytes(b"other")
    with pytest.raises(UserError, match=r"other\.model is not the unigram that the run was"):
        with_copies(
            DataConfig(task=NextByte(unigram=str(other))),
            run,
            DataConfig(task=NextByte(unigram="x")),
        )
    with pytest.raises(
        UserError, match=r"data.tokenizer: cannot read gone .*name the run's copy.*tokenizer"
    ):
        with_copies(DataConfig(task=NextByte(tokenizer="gone")), run, DataConfig())


def test_a_run_without_copies_reads_the_originals(tmp_path):
    data = DataConfig(task=NextByte(tokenizer="a.json"))
    assert with_copies(data, tmp_path, data) == data


def test_copies_are_made_once(run, trained, model):
    carry(run, trained["superbpe"], model)
    data = DataConfig(task=NextByte(tokenizer="any.json"))
    assert carried_tokenizer(run, data).digest == trained["bpe"].digest
    # Runs of older versions have no digests.
    (run / "carried.json").unlink()
    assert carried_tokenizer(run, data).digest == trained["bpe"].digest


def test_damage_is_found(run):
    path = run / "unigram.model"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"unigram\.model is damaged"):
        with_copies(
            DataConfig(task=NextByte(unigram="x")), run, DataConfig(task=NextByte(unigram="x"))
        )
