"""Shard by shard: training starts when the first shards are packed, and each byte is read once."""

import json
import pickle
import time
from dataclasses import replace

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, Mixture, NextByte
from bytelm.data.corpus.packers import pack_shards
from bytelm.data.corpus.packing import Rows
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import all_packed, run_text, text_size
from bytelm.data.sources import files
from bytelm.data.validation import ValidationText
from bytelm.data.windows import WindowedRows

TEXTS = [[f"{shard} {number} é\n" * (number % 4 + 1) for number in range(30)] for shard in range(5)]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Config of five shards, two of which are shuffled together."""
    monkeypatch.setattr(files, "SHARD_BYTES", 1)
    for shard, texts in enumerate(TEXTS):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{shard}.jsonl").write_text(lines)
    return DataConfig(
        source=Files(files=(str(tmp_path / "*.jsonl"),), held_out=0.1),
        task=NextByte(read="shards", shuffled_shards=2),
        cache_dir=str(tmp_path / "cache"),
        sequence_length=16,
        batch_size=4,
    )


@pytest.fixture
def no_packing_ahead(monkeypatch):
    monkeypatch.setattr("bytelm.data.loader.all_packed", lambda data: True)


def read(loader, batches):
    return [next(loader) for _ in range(batches)]


def packed_shards(config):
    return len(list(config.cache_path.glob("shards/*/summary.json")))


def test_training_starts_with_the_first_shards(config, no_packing_ahead):
    loader = train_loader(OpenData(config), seed=3)
    next(loader)
    assert packed_shards(config) in (2, 4)  # some batches are read ahead
    loader.close()


def test_each_epoch_has_each_row_once_window_after_window(config):
    data = OpenData(config)
    (source,) = data.sources
    corpora = [data.window(source, "train", window) for window in range(3)]
    documents = [document for corpus in corpora for document in corpus.documents()]
    assert documents == [document.text for document in source.documents("train")]
    rows, place, orders = WindowedRows(data, source, seed=3), 0, []
    for _ in range(2):
        for corpus in corpora:
            expected = Rows(corpus, 16)
            found = rows.batch(range(place, place + len(expected)))
            place += len(expected)
            whole = expected.batch(range(len(expected)))
            for name in ("ids", "targets"):
                assert sorted(found[name].tolist()) == sorted(whole[name].tolist())
            orders.append(found["ids"].tolist())
    assert all(before != after for before, after in zip(orders[:3], orders[3:], strict=True))
    sent = pickle.loads(pickle.dumps(rows))
    assert sent.batch(range(5, 65))["ids"].tolist() == rows.batch(range(5, 65))["ids"].tolist()


def test_a_resumed_run_reads_the_same_rows(config, no_packing_ahead):
    loader = train_loader(OpenData(config), seed=3)
    expected = read(loader, 40)
    loader.close()
    again = train_loader(OpenData(config), seed=3)
    again.restore({"rows": 7 * 4})
    assert again.fingerprint == loader.fingerprint
    for batch, other in zip(expected[7:], read(again, 33), strict=True):
        np.testing.assert_array_equal(batch.ids, other.ids)
        np.testing.assert_array_equal(batch.targets, other.targets)
    again.close()
    other = train_loader(OpenData(config), seed=4)
    assert any((a.ids != b.ids).any() for a, b in zip(expected, read(other, 5), strict=False))
    other.close()


def test_a_process_packs_ahead(config):
    loader = train_loader(OpenData(config), seed=0)
    next(loader)
    waited = time.monotonic() + 60
    while packed_shards(config) < len(TEXTS):
        assert time.monotonic() < waited
        time.sleep(0.05)
    loader.close()
    assert loader._ahead == []
    # All is packed: nothing has to be packed ahead.
    again = train_loader(OpenData(config), seed=0)
    assert again._ahead == []
    again.close()


def test_training_goes_on_where_nothing_packs_ahead(config, monkeypatch):
    monkeypatch.setattr("bytelm.data.windows.AHEAD", "raise SystemExit")
    loader = train_loader(OpenData(config), seed=0)
    assert len(read(loader, 30)) == 30
    loader.close()


def test_validation_and_the_record_need_no_other_shards(config, no_packing_ahead):
    data = OpenData(config)
    validation = ValidationText(data, 4)
    assert "of the first shards" in validation.sources[0].origin
    assert packed_shards(config) == 2
    assert text_size(data).bytes is None
    waiting = run_text(data)
    assert not waiting.complete and waiting.sources[0]["waiting"]
    (source,) = data.sources
    pack_shards(source, "train", source.reader.shards("train"), config.cache_path, 1)
    assert all_packed(data)
    complete = run_text(data)
    assert complete.complete and complete.count(TEXTS[4][0].encode()).read
    packed = replace(config, task=NextByte())
    assert complete.fingerprint == run_text(OpenData(packed)).fingerprint
    # What a run read while shards were missing is what is known later.
    assert waiting.followed_by(complete).complete
    other = replace(config, source=replace(config.source, skip_bad=True))
    assert not waiting.followed_by(run_text(OpenData(other))).complete


def test_what_needs_all_text_is_refused(config):
    with pytest.raises(UserError, match=r"data\.shard_bytes is 8, which is an order of all text"):
        NextByte(read="shards", shard_bytes=8)
    with pytest.raises(UserError, match=r"shuffled_shards"):
        NextByte(read="shards", shuffled_shards=0)


def test_a_mixture_is_read_window_after_window_by_its_weights(config, tmp_path, no_packing_ahead):
    (tmp_path / "x.txt").write_text("x" * 400)
    x = Files(files=(str(tmp_path / "x.txt"),), held_out=0, weight=1)
    mixed = replace(config, source=Mixture((replace(config.source, weight=3), x)))
    loader, alone = (train_loader(OpenData(each), seed=3) for each in (mixed, config))
    assert alone.fingerprint in loader.fingerprint.split("-")
    batches = read(loader, 10)
    loader.restore({"rows": 8})
    for batch, other in zip(batches[2:], read(loader, 8), strict=True):
        np.testing.assert_array_equal(batch.ids, other.ids)
    ids = np.concatenate([batch.ids for batch in batches])
    is_x = (ids == ord("x")).any(axis=1)
    assert 9 <= is_x.sum() <= 11
    expected = np.concatenate([batch.ids for batch in read(alone, 8)])
    np.testing.assert_array_equal(ids[~is_x], expected[: (~is_x).sum()])
    loader.close()
    alone.close()
