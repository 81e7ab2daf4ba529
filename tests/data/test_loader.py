"""Training and validation batches from packed text."""

import dataclasses
import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from bytelm.data.config import SourceConfig
from bytelm.data.loader import ValidationBatches, train_loader
from bytelm.data.sources import open_sources
from bytelm.errors import UserError
from bytelm.models.contract import Batch
from bytelm.vocabulary import PAD, START, UNSCORED


def take(loader, count):
    return [stack([batch]) for batch in itertools.islice(loader, count)]


def stack(batches):
    """Batches one behind another, as one array [3, B, T]."""
    parts = [[batch.ids, batch.targets, batch.segment_ids] for batch in batches]
    return np.concatenate(np.array(parts), axis=1)


def expected_scored(config, split):
    """Symbols that are scored: every byte and END of the split."""
    (source,) = open_sources(config)
    return sum(len(document) + 1 for document in source.documents(split))


def test_an_epoch_scores_every_byte_and_end_once(config):
    config = replace(config, batch_size=1)
    loader = train_loader(config, seed=1)
    rows = len(ValidationBatches(config, split="train"))
    for _ in range(2):
        epoch = stack(itertools.islice(loader, rows))
        assert (epoch[1] != UNSCORED).sum() == expected_scored(config, "train")
        assert ((epoch[2] == 0) == (epoch[0] == PAD)).all()
    assert loader.state() == {"rows": 2 * rows}


def test_gives_batches_of_the_contract(config):
    batch = next(train_loader(config, seed=0))
    assert isinstance(batch, Batch)
    for field in dataclasses.fields(Batch):
        value = getattr(batch, field.name)
        assert (value.shape, value.dtype) == ((6, 16), np.int32)


def test_resumed_is_uninterrupted(config):
    loader = train_loader(config, seed=2)
    uninterrupted = take(loader, 9)
    first = train_loader(config, seed=2)
    take(first, 4)
    state = json.loads(json.dumps(first.state()))
    assert state == {"rows": 24}
    second = train_loader(config, seed=2)
    next(second)
    second.restore(state)
    np.testing.assert_array_equal(take(second, 5), uninterrupted[4:])
    first.restore(state)
    np.testing.assert_array_equal(take(first, 5), uninterrupted[4:])
    assert not np.array_equal(take(train_loader(config, seed=3), 9), uninterrupted)


def test_resumes_on_another_number_of_processes_and_another_batch(config):
    rows = stack(itertools.islice(train_loader(config, seed=2), 6))
    halves = [train_loader(config, 2, index, 2) for index in range(2)]
    for loader in halves:
        loader.restore({"rows": 12})
    batch = stack([next(loader) for loader in halves])
    np.testing.assert_array_equal(batch, rows[:, 12:18])
    larger = train_loader(replace(config, batch_size=20), seed=2)
    larger.restore({"rows": 12})
    np.testing.assert_array_equal(stack([next(larger)]), rows[:, 12:32])


def test_worker_processes_give_the_same_batches(config):
    expected = take(train_loader(config, seed=4), 5)
    loader = train_loader(replace(config, workers=2), seed=4)
    np.testing.assert_array_equal(take(loader, 5), expected)
    assert loader.state() == {"rows": 30}
    loader.close()


def test_a_mixture_of_sources(config, tmp_path):
    (tmp_path / "x.txt").write_text("x" * 200)
    mixture = (
        SourceConfig(files=config.files, weight=3),
        SourceConfig(files=(str(tmp_path / "x.txt"),), held_out=0),
    )
    mixed = replace(config, files=(), mixture=mixture)
    batches = stack(itertools.islice(train_loader(mixed, seed=0), 20))
    of_x = (batches[0] == ord("x")).any(axis=1).sum()
    assert 28 <= of_x <= 32
    fingerprint = train_loader(mixed, seed=0).fingerprint
    assert fingerprint != train_loader(config, seed=0).fingerprint
    training = ValidationBatches(mixed, rows=8, split="train")
    (first, second) = training
    assert (stack([first, second])[0] == ord("x")).any(axis=1).sum() == 2


def test_validation_covers_the_split_in_order_padded(config):
    batches = ValidationBatches(config)
    whole = stack(batches)
    assert whole.shape[1] == 6 * len(batches)
    assert (whole[1] != UNSCORED).sum() == expected_scored(config, "validation")
    text = whole[0][whole[0] < START]
    (source,) = open_sources(config)
    documents = list(source.documents("validation"))
    assert bytes(text[text < 256].tolist()) == b"".join(documents)
    np.testing.assert_array_equal(stack(batches), whole)


def test_validation_rows_and_processes(config):
    whole = stack(ValidationBatches(config, split="train"))
    parts = [ValidationBatches(config, 8, "train", index, 3) for index in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    rows = np.concatenate([stack(part) for part in zip(*parts, strict=True)], axis=1)
    np.testing.assert_array_equal(rows[:, :8], whole[:, :8])
    assert (rows[0, 8:] == PAD).all()
    assert (rows[1, 8:] == UNSCORED).all()


def test_a_batch_that_processes_cannot_share(config):
    with pytest.raises(UserError, match="batch_size is 6, which 4 processes"):
        train_loader(config, seed=0, process_count=4)
    with pytest.raises(UserError, match="batch_size is 6, which 4 processes"):
        ValidationBatches(config, process_count=4)


def test_state_of_a_stream_is_refused(config):
    with pytest.raises(UserError, match=r"read with --data.read stream"):
        train_loader(config, seed=0).restore({"layout": {}, "grain": {}})


def test_runs_in_a_directory_of_its_own(config):
    next(train_loader(config, seed=0))
    assert {entry.name for entry in os.scandir(config.cache_dir)} == {"packed"}
