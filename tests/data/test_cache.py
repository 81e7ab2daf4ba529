"""The packed cache: built once, by one process, and never left half-written."""

import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from bytelm.data.cache import PackedCorpus, packed_corpus
from bytelm.data.config import SPLITS, DataConfig
from bytelm.data.sources import Source, open_sources
from bytelm.data.tfds_source import TfdsReader
from bytelm.errors import UserError


def pack(config, split="train"):
    (source,) = open_sources(config)
    return packed_corpus(source, split, config.cache_path)


def test_holds_every_document_once(config, documents):
    corpora = [pack(config, split) for split in SPLITS]
    held = [document for corpus in corpora for document in corpus.documents()]
    assert sorted(held) == sorted(documents)
    train = corpora[0]
    assert train.num_documents == len(list(train.documents()))
    assert train.num_bytes == sum(map(len, train.documents()))
    assert train.num_symbols == train.num_bytes + 2 * train.num_documents
    assert list(train.documents()) == [d for d in documents if d in set(train.documents())]


def test_is_built_once(config, monkeypatch):
    first = pack(config)
    monkeypatch.setattr(Source, "documents", lambda *arguments: pytest.fail("was read again"))
    assert pack(config).fingerprint == first.fingerprint


def test_is_built_anew_when_the_files_change(config):
    config = replace(config, held_out=0.0)
    before = pack(config)
    with open(config.files[0], "a") as file:
        file.write('{"text": "one more"}\n' * 2)
    after = pack(config)
    assert after.fingerprint != before.fingerprint
    assert after.num_documents == before.num_documents + 2


def test_fingerprint_is_of_the_documents_alone(config, tmp_path):
    copy = tmp_path / "copy.jsonl"
    shutil.copy(config.files[0], copy)
    assert pack(replace(config, files=(str(copy),))).fingerprint == pack(config).fingerprint


def test_damaged_files_are_packed_again(config):
    corpus = pack(config)
    symbols = corpus.directory / "symbols.bin"
    symbols.write_bytes(symbols.read_bytes()[:-1])
    again = pack(config)
    assert again.directory == corpus.directory
    assert list(again.documents())[-1] == list(corpus.documents())[-1]


def test_can_be_sent_to_another_process(config):
    corpus = pack(config)
    sent = pickle.dumps(corpus)
    assert len(sent) < 1000
    assert list(pickle.loads(sent).documents()) == list(corpus.documents())


def test_skipped_lines_are_reported_each_time(config, caplog):
    with open(config.files[0], "a") as file:
        file.write("no JSON\n" * 3)
    with pytest.raises(UserError, match="line 72"):
        pack(config)
    assert not list(config.cache_path.glob("packed/*/"))
    for _ in range(2):
        caplog.clear()
        assert pack(replace(config, skip_bad=True)).skipped == 3
        assert "3 bad lines were skipped" in caplog.text


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "no text to train on"), ("validation", "--data.validation-files.*--data.held-out")],
)
def test_a_split_without_text(tmp_path, split, message):
    (tmp_path / "empty.txt").write_bytes(b"")
    config = DataConfig(files=(str(tmp_path / "*.txt"),), cache_dir=str(tmp_path), held_out=0.0)
    with pytest.raises(UserError, match=message):
        pack(config, split)


def test_too_little_room(config, monkeypatch):
    free = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"no room.*--data.cache-dir.*--data.read stream"):
        pack(config)


def test_disk_full_while_packing_leaves_nothing(config, monkeypatch):
    def full(*arguments):
        yield b"some"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Source, "documents", full)
    with pytest.raises(UserError, match="no room"):
        pack(config)
    assert not list(config.cache_path.glob("packed/*/"))


def test_a_cache_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot pack documents.jsonl into"):
        pack(replace(config, cache_dir=str(tmp_path / "file")))


def fingerprint(config):
    return pack(config).fingerprint


def test_two_processes_at_once(config):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(fingerprint, [config] * 2)
    assert first == second == pack(config).fingerprint


def test_waits_for_the_process_that_packs(config, caplog, monkeypatch):
    directory = pack(config).directory
    away = directory.rename(directory.with_name("away"))
    lock = FileLock(f"{directory}.lock")
    acquire = FileLock.acquire

    def acquire_after_the_other(self, *arguments, **keywords):
        if not keywords:
            away.rename(directory)
            lock.release()
        return acquire(self, *arguments, **keywords)

    with lock:
        monkeypatch.setattr(FileLock, "acquire", acquire_after_the_other)
        monkeypatch.setattr(Source, "documents", lambda *arguments: pytest.fail("was packed"))
        assert pack(config).num_documents
    assert "waiting for another process to pack" in caplog.text


SLOW_PACKING = """
import sys, time
from pathlib import Path
from bytelm.data.cache import packed_corpus
from bytelm.data.config import DataConfig
from bytelm.data.sources import Source, open_sources

def slow(self, split):
    yield b"x" * 100_000
    Path(sys.argv[2], "ready").touch()
    time.sleep(60)

Source.documents = slow
config = DataConfig(files=(sys.argv[1],), cache_dir=sys.argv[2], held_out=0.1)
packed_corpus(open_sources(config)[0], "train", config.cache_path)
"""


def test_killed_while_packing(config):
    cache = Path(config.cache_dir)
    arguments = [sys.executable, "-c", SLOW_PACKING, config.files[0], str(cache)]
    with subprocess.Popen(arguments) as process:
        while not (cache / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    (partial,) = cache.glob("packed/*/")
    assert partial.name.endswith(".partial")
    corpus = pack(config)
    assert corpus.num_bytes < 100_000
    assert list(cache.glob("packed/*/")) == [corpus.directory]


def test_packed_text_is_read_where_tfds_is_missing(tfds_dir, tmp_path, monkeypatch):
    config = DataConfig(dataset="tiny_text", data_dir=tfds_dir, cache_dir=str(tmp_path))
    packed = pack(config, "test")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert pack(config, "test").directory == packed.directory
    with pytest.raises(UserError, match="pip install"):
        pack(config, "validation")
    with pytest.raises(UserError, match="pip install"):
        pack(replace(config, text_key="body"), "test")


def test_the_same_dataset_of_tfds_has_one_cache(tfds_dir, tmp_path):
    config = DataConfig(dataset="tiny_text", data_dir=tfds_dir, cache_dir=str(tmp_path))
    corpus = pack(config, "test")
    assert isinstance(corpus, PackedCorpus)
    assert corpus.num_documents == 3
    assert corpus.fingerprint == pack(config, "test").fingerprint
    assert isinstance(open_sources(config)[0].reader, TfdsReader)
