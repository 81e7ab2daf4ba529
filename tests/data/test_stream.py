"""Batches from a TFDS dataset that is not packed."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START, UNSCORED
from bytelm.data.config import DataConfig, Files, Mixture, NextByte, Tfds
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.data.validation import ValidationBatches
from bytelm.tokenizers.unigram import Unigram


@pytest.fixture
def config(tfds_dir, tmp_path):
    return DataConfig(
        source=Tfds(dataset="tiny_text", data_dir=tfds_dir, held_out=0.1),
        task=NextByte(read="stream"),
        cache_dir=str(tmp_path / "cache"),
        sequence_length=16,
        batch_size=4,
    )


def take(loader, count):
    batches = itertools.islice(loader, count)
    return np.array([[batch.ids, batch.targets, batch.document_ids] for batch in batches])


def test_an_epoch_has_every_document_once_and_rows_of_the_contract(config):
    (source,) = OpenData(config).sources
    documents = [document.text for document in source.documents("train")]
    loader = train_loader(OpenData(replace(config, batch_size=1)), seed=0)
    rows = take(loader, 2 * sum(len(text) + 2 for text in documents) // 16 + 1)
    ids, targets = rows[:, 0].reshape(-1), rows[:, 1].reshape(-1)
    following = np.where(ids[1:] == START, UNSCORED, ids[1:])
    np.testing.assert_array_equal(targets[:-1], following)
    expected_segments = np.cumsum(rows[:, 0] == START, axis=-1)
    expected_segments += 1 - expected_segments[..., :1]
    np.testing.assert_array_equal(rows[:, 2], expected_segments)
    ends = np.flatnonzero(ids == END)
    begins = np.flatnonzero(ids == START)
    read = [bytes(ids[a + 1 : b].tolist()) for a, b in zip(begins, ends, strict=False)]
    first, second = read[: len(documents)], read[len(documents) : 2 * len(documents)]
    assert sorted(first) == sorted(second) == sorted(documents)
    assert first != second
    assert not config.cache_path.exists()


def test_resumed_is_uninterrupted(config):
    loader = train_loader(OpenData(config), seed=1)
    take(loader, 3)
    state = json.loads(json.dumps(loader.state()))
    expected = take(loader, 9)
    other = train_loader(OpenData(config), seed=1)
    next(other)
    other.restore(state)
    np.testing.assert_array_equal(take(other, 9), expected)


def test_resumes_with_a_worker_process(config):
    loader = train_loader(OpenData(replace(config, workers=1)), seed=1)
    take(loader, 2)
    state = json.loads(json.dumps(loader.state()))
    expected = take(loader, 2)
    loader.restore(state)
    np.testing.assert_array_equal(take(loader, 2), expected)
    loader.close()
    with pytest.raises(UserError, match=r"has 1 with --data.workers 1"):
        train_loader(OpenData(config), seed=1).restore(state)


def test_every_state_restores_in_place(config):
    loader = train_loader(OpenData(config), seed=1)
    for _ in range(12):
        state = loader.state()
        expected = take(loader, 2)
        loader.restore(state)
        np.testing.assert_array_equal(take(loader, 2), expected)
        loader.restore(state)
        next(loader)


def test_processes_share_the_documents(config):
    (source,) = OpenData(config).sources
    documents = {document.text for document in source.documents("train")}
    seen = []
    for index in range(2):
        ids = take(train_loader(OpenData(config), 0, index, 2), 20)[:, 0].tobytes()
        seen.append({d for d in documents if np.array([START, *d], np.int32).tobytes() in ids})
    assert seen[0] and seen[1]
    assert not seen[0] & seen[1]


def test_a_mixture(config, tfds_dir):
    part = Tfds(dataset="tiny_text", data_dir=tfds_dir, weight=3)
    other = Tfds(dataset="tiny_text", data_dir=tfds_dir, text_key="body")
    batches = take(
        train_loader(OpenData(replace(config, source=Mixture(sources=(part, other)))), seed=0), 20
    )
    of_other = (batches[:, 0] == ord("h")).any(axis=-1).sum()
    assert of_other == 20


def test_says_so_and_refuses_another_number_of_processes(config, caplog):
    loader = train_loader(OpenData(config), 0, 0, 2)
    assert "resumes exactly on 2 process(es) only" in caplog.text
    state = loader.state()
    with pytest.raises(UserError, match="as many processes as before: the checkpoint has 2"):
        train_loader(OpenData(config), 0, 0, 1).restore(state)
    with pytest.raises(UserError, match="this one was number 0"):
        train_loader(OpenData(config), 0, 1, 2).restore(state)
    with pytest.raises(UserError, match=r"checkpoint is of --data.read packed"):
        loader.restore({"rows": 3})


def test_validation_packs_no_more_than_it_needs(config):
    streamed = list(ValidationBatches(OpenData(config), rows=3, split="train"))
    assert not config.cache_path.exists()
    packed = list(
        ValidationBatches(
            OpenData(replace(config, task=replace(config.task, read="packed"))),
            rows=3,
            split="train",
        )
    )
    for one, other in zip(streamed, packed, strict=True):
        for name in ("ids", "targets", "document_ids"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def marked(config, tfds_dir, unigram_model):
    """Two scripts, and a Unigram model; the dataset has bytes that are not UTF-8."""
    part = Tfds(dataset="tiny_text", data_dir=tfds_dir, script="eng", held_out=0.1)
    other = replace(part, text_key="body", script="hin")
    return replace(
        config,
        task=replace(config.task, unigram=unigram_model),
        source=Mixture((part, other)),
        scripts=("hin", "eng"),
    )


def extras(batches):
    return np.array([[batch.ids, batch.scripts, batch.boundaries] for batch in batches])


def test_carries_scripts_and_boundaries(marked, unigram_model):
    loader = train_loader(OpenData(marked), seed=0)
    assert (next(loader).scripts.dtype, next(loader).boundaries.dtype) == (np.int32, np.bool_)
    ids, scripts, boundaries = np.moveaxis(extras(itertools.islice(loader, 20)), 1, 0)
    assert set(scripts[ids == 0xFF]) == {1}
    assert set(scripts[ids == ord("h")]) == {0}
    assert set(scripts.reshape(-1)) == {0, 1}
    assert boundaries[ids == 0xFF].all()
    assert boundaries[ids == START].all()
    assert not boundaries[ids == END].any()
    # Whole documents in the rows have the boundaries of the model.
    unigram, row = Unigram(unigram_model), ids.reshape(-1, 16)
    text = b"not this"
    found = boundaries.reshape(-1, 16)[(row[:, :10] == [START, *text, END]).all(axis=1), :10]
    assert len(found)
    assert (found == unigram.boundaries(text)).all()


def test_resumed_with_a_worker_carries_them_too(marked):
    one_source = replace(marked, source=Mixture(sources=marked.source.sources[:1]))
    loader = train_loader(OpenData(replace(one_source, workers=1)), seed=1)
    next(loader)
    state = json.loads(json.dumps(loader.state()))
    expected = extras(itertools.islice(loader, 2))
    loader.restore(state)
    np.testing.assert_array_equal(extras(itertools.islice(loader, 2)), expected)
    loader.close()


def test_validation_carries_them_as_packed_text_does(marked):
    streamed = list(ValidationBatches(OpenData(marked), rows=6, split="train"))
    assert not marked.cache_path.exists()
    packed = list(
        ValidationBatches(
            OpenData(replace(marked, task=replace(marked.task, read="packed"))),
            rows=6,
            split="train",
        )
    )
    np.testing.assert_array_equal(extras(streamed), extras(packed))
    assert set(extras(streamed)[:, 1].reshape(-1)) == {-1, 0, 1}


def test_scripts_that_are_not_known(marked, config):
    for opened in (
        lambda c: train_loader(OpenData(c), 0),
        lambda c: ValidationBatches(OpenData(c), 3),
    ):
        with pytest.raises(UserError, match="tiny_text has documents of the script hin, which"):
            opened(replace(marked, scripts=("eng",)))
        with pytest.raises(UserError, match="documents of tiny_text have no script"):
            opened(replace(config, scripts=("eng",)))


def test_files_are_not_streamed(config, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    files = DataConfig(source=Files(files=(str(tmp_path / "a.txt"),)), task=NextByte(read="stream"))
    with pytest.raises(UserError, match=r"needs a dataset of TFDS or.*--data.read packed"):
        train_loader(OpenData(files), seed=0)


def test_more_readers_than_documents(config):
    with pytest.raises(UserError, match="60 documents to train on, too few for 64 readers"):
        train_loader(OpenData(replace(config, batch_size=64)), 0, 0, 64)
