"""The packed cache is built once, by one process, and is never incomplete."""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from bytelm.core.errors import UserError
from bytelm.core.locks import exclusive
from bytelm.data.config import DataConfig, Files, Tfds
from bytelm.data.corpus.cache import PackedCorpus, packed_corpus
from bytelm.data.open_data import OpenData
from bytelm.data.sources.reader import Document
from bytelm.data.sources.source import Placed, Source
from bytelm.data.sources.tfds import TfdsReader
from bytelm.data.text_record import SPLITS


def pack(config, split="train"):
    (source,) = OpenData(config).sources
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
    monkeypatch.setattr(Source, "placed", lambda *arguments: pytest.fail("was read again"))
    assert pack(config).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "name", ["\u4e66" * 75 + ".jsonl", "b\udcff\n[x].jsonl", "n" * 249 + ".jsonl"]
)
def test_any_name_of_a_file(config, tmp_path, name):
    shutil.copy(config.source.files[0], tmp_path / name)
    corpus = pack(replace(config, source=replace(config.source, files=(str(tmp_path / name),))))
    assert corpus.fingerprint == pack(config).fingerprint
    assert corpus.name == name


def test_a_long_text_is_held_once(tmp_path):
    size = 2**25
    (tmp_path / "a.txt").write_bytes(bytes(size))
    config = DataConfig(
        source=Files(files=(str(tmp_path / "a.txt"),), held_out=0.0),
        cache_dir=str(tmp_path / "cache"),
    )
    tracemalloc.start()
    try:
        assert pack(config).num_bytes == size
        assert tracemalloc.get_traced_memory()[1] < 1.3 * size
    finally:
        tracemalloc.stop()


def test_is_built_anew_when_the_files_change(config):
    config = replace(config, source=replace(config.source, held_out=0.0))
    before = pack(config)
    with open(config.source.files[0], "a") as file:
        file.write('{"text": "one more"}\n' * 2)
    after = pack(config)
    assert after.fingerprint != before.fingerprint
    assert after.num_documents == before.num_documents + 2


def test_fingerprint_is_of_the_documents_alone(config, tmp_path):
    copy = tmp_path / "copy.jsonl"
    shutil.copy(config.source.files[0], copy)
    assert (
        pack(replace(config, source=replace(config.source, files=(str(copy),)))).fingerprint
        == pack(config).fingerprint
    )


def test_damaged_files_are_packed_again(config):
    corpus = pack(config)
    expected = list(corpus.documents())
    symbols = corpus.directory / "symbols-0.bin"
    # The same file as in its shard.
    symbols.write_bytes(bytes(10) + symbols.read_bytes()[10:-1])
    again = pack(config)
    assert again.directory == corpus.directory
    assert list(again.documents()) == expected


def test_can_be_sent_to_another_process(config):
    corpus = pack(config)
    sent = pickle.dumps(corpus)
    assert len(sent) < 1000
    assert list(pickle.loads(sent).documents()) == list(corpus.documents())


def test_skipped_lines_are_reported_each_time(config, caplog):
    with open(config.source.files[0], "a") as file:
        file.write("no JSON\n" * 3)
    with pytest.raises(UserError, match="line 72"):
        pack(config)
    assert not list(config.cache_path.glob("*/*/"))
    for _ in range(2):
        caplog.clear()
        assert pack(replace(config, source=replace(config.source, skip_bad=True))).skipped == 3
        assert "3 bad lines or files were skipped" in caplog.text


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "no text to train on"), ("validation", "--data.validation-files.*--data.held-out")],
)
def test_a_split_without_text(tmp_path, split, message):
    (tmp_path / "empty.txt").write_bytes(b"")
    config = DataConfig(
        source=Files(files=(str(tmp_path / "*.txt"),), held_out=0.0), cache_dir=str(tmp_path)
    )
    with pytest.raises(UserError, match=message):
        pack(config, split)


def test_too_little_room(config, monkeypatch):
    free = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"no room.*--data.cache-dir.*--data.read stream"):
        pack(config)


def test_one_long_text_has_all_splits(tmp_path, caplog):
    lines = [f"line {number} of a book\n" for number in range(60_000)]
    text = "".join(lines).encode()
    (tmp_path / "book.txt").write_bytes(text)
    config = DataConfig(
        source=Files(files=(str(tmp_path / "book.txt"),)), cache_dir=str(tmp_path / "cache")
    )
    found = [pack(config, split).document(0) for split in SPLITS]
    assert b"".join(found) == text
    assert [len(part) / len(text) for part in found] == pytest.approx([0.9, 0.05, 0.05], abs=0.015)
    (said,) = caplog.messages
    assert "book.txt: 1 document(s) longer than 1,048,576 bytes" in said
    assert (
        "the last 10.0% of each is held out for validation and test" in said
        and "--data.split-above" in said
    )
    for whole in (
        replace(config, source=replace(config.source, held_out=0.0)),
        replace(config, source=replace(config.source, split_above=None)),
    ):
        with pytest.raises(UserError, match=r"no text in its (train|validation|test) split"):
            [pack(whole, split) for split in SPLITS]
    with pytest.raises(UserError, match=r"lower --data.split-above \(None\)"):
        [
            pack(replace(config, source=replace(config.source, split_above=None)), split)
            for split in ("validation", "test")
        ]


def test_disk_full_while_packing_leaves_nothing(config, monkeypatch):
    def full(*arguments):
        yield Placed(Document(b"some"), "train", is_part=False)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Source, "placed", full)
    with pytest.raises(UserError, match="no room"):
        pack(config)
    assert not list(config.cache_path.glob("*/*/"))


def test_a_cache_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot write a shard of the packed text of documents.jsonl"
    ):
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
    other = contextlib.ExitStack()
    other.enter_context(exclusive(Path(f"{directory}.lock"), "write"))

    def nap(seconds):
        away.rename(directory)
        other.close()

    monkeypatch.setattr(time, "sleep", nap)
    monkeypatch.setattr(Source, "placed", lambda *arguments: pytest.fail("was packed"))
    assert pack(config).num_documents
    expected = f"waiting for process {os.getpid()} on {socket.gethostname()} to write the packed"
    assert expected in caplog.text


SLOW_PACKING = """
import sys, time
from pathlib import Path
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData
from bytelm.data.sources.reader import Document
from bytelm.data.sources.source import Placed, Source

def slow(self, split, shard):
    yield Placed(Document(b"x" * 100_000), "train", False)
    Path(sys.argv[2], "ready").touch()
    time.sleep(60)

Source.placed = slow
config = DataConfig(Files(files=(sys.argv[1],), held_out=0.1), cache_dir=sys.argv[2])
packed_corpus(OpenData(config).sources[0], "train", config.cache_path)
"""


def test_killed_while_packing(config):
    cache = Path(config.cache_dir)
    arguments = [sys.executable, "-c", SLOW_PACKING, config.source.files[0], str(cache)]
    with subprocess.Popen(arguments) as process:
        while not (cache / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    (partial,) = cache.glob("shards/*/")
    assert partial.name.endswith(".partial")
    corpus = pack(config)
    assert corpus.num_bytes < 100_000
    assert list(cache.glob("packed/*/")) == [corpus.directory]
    assert not list(cache.glob("shards/*.partial"))


def test_packed_text_is_read_where_tfds_is_missing(tfds_dir, tmp_path, monkeypatch):
    config = DataConfig(
        source=Tfds(dataset="tiny_text", data_dir=tfds_dir), cache_dir=str(tmp_path)
    )
    packed = pack(config, "test")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert pack(config, "test").directory == packed.directory
    with pytest.raises(UserError, match="pip install"):
        pack(config, "validation")
    with pytest.raises(UserError, match="pip install"):
        pack(replace(config, source=replace(config.source, text_key="body")), "test")


def test_the_same_dataset_of_tfds_has_one_cache(tfds_dir, tmp_path):
    config = DataConfig(
        source=Tfds(dataset="tiny_text", data_dir=tfds_dir), cache_dir=str(tmp_path)
    )
    corpus = pack(config, "test")
    assert isinstance(corpus, PackedCorpus)
    assert corpus.num_documents == 3
    assert corpus.fingerprint == pack(config, "test").fingerprint
    assert isinstance(OpenData(config).sources[0].reader, TfdsReader)


def test_a_file_that_is_touched_moved_or_copied_is_not_packed_again(config, tmp_path, monkeypatch):
    before = pack(config)
    monkeypatch.setattr(Source, "placed", lambda *arguments: pytest.fail("was packed again"))
    path = Path(config.source.files[0])
    path.touch()
    assert pack(config).fingerprint == before.fingerprint
    copy = shutil.copy(path, tmp_path / "copy.jsonl")
    path.unlink()
    found = pack(replace(config, source=replace(config.source, files=(str(copy),))))
    assert (found.directory, found.name) == (before.directory, "copy.jsonl")


def test_a_file_that_changes_while_it_is_packed_is_refused(config, monkeypatch):
    placed = Source.placed

    def changing(self, split, shard):
        yield from placed(self, split, shard)
        with open(config.source.files[0], "a") as file:
            file.write('{"text": "one more"}\n')

    monkeypatch.setattr(Source, "placed", changing)
    with pytest.raises(UserError, match=r"documents\.jsonl changed while it was packed"):
        pack(config)
    assert not list(config.cache_path.glob("*/*/"))
