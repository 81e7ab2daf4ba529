"""Stored entropies: those of training's own rows, computed once."""

import pickle

import numpy as np
import pytest

from bytelm.data.config import DataConfig, Files
from bytelm.data.corpus.entropies import EntropyReader, with_entropies
from bytelm.data.corpus.packing import Rows
from bytelm.data.open_data import OpenData

LENGTH = 24


def entropies(ids, document_ids):
    """Multiples of 1/1024 that depend on the place in the row."""
    return (ids % 100 + document_ids + np.arange(ids.shape[1])) / 1024


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("bytelm.data.corpus.entropies.SYMBOLS_AT_ONCE", 3 * LENGTH)
    (tmp_path / "text.jsonl").write_text(
        "".join('{"text": "%s"}\n' % ("abcdefghij" * (1 + n % 4)) for n in range(30))
    )
    source = Files(files=(str(tmp_path / "text.jsonl"),), held_out=0.0)
    data = OpenData(DataConfig(source=source, cache_dir=str(tmp_path / "cache")))
    return data.packed(data.sources[0], "train")


def test_rows_have_the_entropies_that_were_computed_for_them(corpus, tmp_path):
    calls = []

    def read(ids, document_ids):
        calls.append(ids.shape)
        return entropies(ids, document_ids)

    found = with_entropies(corpus, EntropyReader("model", read), LENGTH, tmp_path)
    rows = Rows(found, LENGTH)
    assert calls == [(3, LENGTH)] * -(-len(rows) // 3)
    batch = rows.batch(range(len(rows)))
    wanted = np.where(batch["document_ids"] > 0, entropies(batch["ids"], batch["document_ids"]), 0)
    np.testing.assert_array_equal(batch["entropies"], wanted)
    assert batch["entropies"].dtype == np.float32

    again = with_entropies(corpus, EntropyReader("model", None), LENGTH, tmp_path)
    for other in (again, pickle.loads(pickle.dumps(found))):
        np.testing.assert_array_equal(Rows(other, LENGTH).batch([1])["entropies"], wanted[1:2])
    with pytest.raises(TypeError):  # another model, or rows of another length
        with_entropies(corpus, EntropyReader("other", None), LENGTH, tmp_path)
    with pytest.raises(TypeError):
        with_entropies(corpus, EntropyReader("model", None), LENGTH + 1, tmp_path)


def test_what_a_stopped_process_saved_is_continued(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("bytelm.data.corpus.subwords.SAVE_SECONDS", 0.0)
    calls = []

    def stopped(ids, document_ids):
        calls.append(len(ids))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return entropies(ids, document_ids)

    with pytest.raises(KeyboardInterrupt):
        with_entropies(corpus, EntropyReader("model", stopped), LENGTH, tmp_path)
    found = with_entropies(corpus, EntropyReader("model", stopped), LENGTH, tmp_path)
    rows = Rows(found, LENGTH)
    assert len(calls) == 1 + -(-len(rows) // 3)
    batch = rows.batch(range(len(rows)))
    wanted = np.where(batch["document_ids"] > 0, entropies(batch["ids"], batch["document_ids"]), 0)
    np.testing.assert_array_equal(batch["entropies"], wanted)
