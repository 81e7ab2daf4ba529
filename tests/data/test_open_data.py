"""The same loader serves every task, and everything in a config is opened once."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from bytelm.core.vocabulary import END, PAD, START, UNSCORED
from bytelm.data import open_data
from bytelm.data.config import DataConfig, Files, MergeAbc, Mixture, SpanCorruption, VowelRemoval
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import run_text, text_size
from bytelm.data.validation import ValidationBatches, ValidationText
from bytelm.models.contract import Batch


@pytest.fixture
def corrupted(config):
    return replace(
        config, task=SpanCorruption(noise_density=0.3, mean_span=3.0), sequence_length=24
    )


@pytest.fixture(params=["span_corruption", "merge_abc"])
def task_config(request, corrupted):
    if request.param == "span_corruption":
        return corrupted
    return DataConfig(task=MergeAbc(), sequence_length=24, batch_size=6)


def stack(batches):
    """Inputs and targets of concatenated batches: [B, S + T]."""
    return np.concatenate([np.hstack([batch.inputs, batch.targets]) for batch in batches])


def test_batches_of_the_contract(task_config):
    batch = next(train_loader(OpenData(task_config), seed=0))
    assert isinstance(batch, Batch)
    length = task_config.row_length
    assert (batch.inputs.shape, batch.inputs.dtype) == ((6, 24), np.int32)
    for value in (batch.ids, batch.targets, batch.document_ids):
        assert (value.shape, value.dtype) == ((6, length), np.int32)
    assert batch.scripts is None
    assert batch.boundaries is None
    assert (batch.ids[:, 0] == START).all()
    assert ((batch.ids == PAD) == (batch.targets == UNSCORED)).all()
    assert ((batch.targets != UNSCORED) == batch.document_ids).all()
    moved = np.where(batch.ids[:, 1:] == PAD, UNSCORED, batch.ids[:, 1:])
    kept = batch.document_ids[:, 1:] == 1
    assert (moved[kept] == batch.targets[:, :-1][kept]).all()


def test_resumed_is_uninterrupted(task_config):
    uninterrupted = stack(itertools.islice(train_loader(OpenData(task_config), seed=2), 9))
    first = train_loader(OpenData(task_config), seed=2)
    stack(itertools.islice(first, 4))
    state = json.loads(json.dumps(first.state()))
    assert state == {"rows": 24}
    second = train_loader(OpenData(task_config), seed=2)
    second.restore(state)
    np.testing.assert_array_equal(stack(itertools.islice(second, 5)), uninterrupted[24:])
    other = stack(itertools.islice(train_loader(OpenData(task_config), seed=3), 9))
    assert not np.array_equal(other, uninterrupted)


def test_processes_share_the_same_rows(task_config):
    whole = stack(itertools.islice(train_loader(OpenData(task_config), seed=2), 2))
    parts = [train_loader(OpenData(task_config), 2, index, 3) for index in range(3)]
    shared = stack([next(part) for part in parts] + [next(part) for part in parts])
    np.testing.assert_array_equal(shared, whole)


def test_worker_processes_give_the_same_batches(corrupted):
    expected = stack(itertools.islice(train_loader(OpenData(corrupted), seed=4), 4))
    loader = train_loader(OpenData(replace(corrupted, workers=1)), seed=4)
    np.testing.assert_array_equal(stack(itertools.islice(loader, 4)), expected)
    loader.close()


def test_each_epoch_is_corrupted_anew(corrupted):
    config = replace(corrupted, batch_size=1)
    count = len(ValidationBatches(OpenData(config), split="train"))
    loader = train_loader(OpenData(config), seed=1)
    first, second = (
        {row.tobytes() for row in stack(itertools.islice(loader, count))} for _ in "ab"
    )
    assert len(first & second) < 0.3 * count


def test_validation_is_the_same_each_time_and_whole(corrupted):
    batches = ValidationBatches(OpenData(corrupted))
    whole = stack(batches)
    np.testing.assert_array_equal(stack(batches), whole)
    np.testing.assert_array_equal(stack(ValidationBatches(OpenData(corrupted))), whole)
    (source,) = OpenData(corrupted).sources
    symbols = sum(len(document.text) + 1 for document in source.documents("validation"))
    rows = np.count_nonzero((whole[:, 24:] != UNSCORED).any(axis=1))
    # These documents have no bytes as high as sentinels.
    given = np.count_nonzero((whole >= 0) & (whole < 0xE0))
    assert given + np.count_nonzero(whole == END) - 2 * rows == symbols
    assert (whole[rows:, :24] == PAD).all()
    assert (whole[rows:, 24:] == UNSCORED).all()


def test_validation_of_an_endless_task():
    config = DataConfig(task=VowelRemoval(), sequence_length=8, batch_size=100)
    batches = list(ValidationBatches(OpenData(config)))
    assert len(batches) == 11
    assert (stack(batches)[1024:, :8] == PAD).all()
    assert (stack(batches)[:1024, :7] < END).all()
    assert len(list(ValidationBatches(OpenData(config), rows=150))) == 2
    training = stack(ValidationBatches(OpenData(config), rows=100, split="train"))
    assert not np.array_equal(training, stack(batches)[:100])


def test_a_mixture_with_scripts(corrupted, tmp_path):
    (tmp_path / "x.txt").write_text("x" * 300)
    mixed = replace(
        corrupted,
        source=Mixture(
            sources=(
                Files(files=corrupted.source.files, weight=3, script="fra"),
                Files(files=(str(tmp_path / "x.txt"),), held_out=0, script="x"),
            )
        ),
        scripts=("x", "fra"),
    )
    batches = list(itertools.islice(train_loader(OpenData(mixed), seed=0), 10))
    of_x = np.concatenate([(batch.inputs == ord("x")).any(axis=1) for batch in batches])
    scripts = np.concatenate([batch.scripts for batch in batches])
    assert scripts.shape == (60, mixed.row_length)
    assert 13 <= of_x.sum() <= 17
    np.testing.assert_array_equal(scripts, np.where(of_x, 0, 1)[:, None] + np.zeros_like(scripts))


def test_fingerprint_is_of_the_text(corrupted, config):
    assert (
        train_loader(OpenData(corrupted), 0).fingerprint
        == train_loader(OpenData(config), 0).fingerprint
    )
    assert train_loader(OpenData(DataConfig(task=MergeAbc())), 0).fingerprint == "merge_abc"


def test_each_thing_is_opened_once(tokenized, monkeypatch):
    opened = []

    def counted(name):
        real = getattr(open_data, name)
        monkeypatch.setattr(
            open_data, name, lambda *given: opened.append((name, *given[1:2])) or real(*given)
        )

    for name in ("load_tokenizer", "packed_corpus", "token_corpus", "open_source"):
        counted(name)
    data = OpenData(tokenized)
    train_loader(data, seed=0).close()
    ValidationText(data, 4)
    text_size(data)
    run_text(data)
    names = [name for name, *_ in opened]
    assert {name: names.count(name) for name in names} == {
        "load_tokenizer": 1,
        "open_source": 1,
        "packed_corpus": 2,
        "token_corpus": 2,
    }
