"""Shards are packed once each, in any number of processes, and joined in the order of names."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bytelm.core.errors import UserError
from bytelm.core.locks import exclusive
from bytelm.data.config import DataConfig, Files
from bytelm.data.corpus import packers
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.corpus.entries import read_summary, seal
from bytelm.data.corpus.input_shards import shard_directory
from bytelm.data.corpus.packing import Rows, pack
from bytelm.data.open_data import OpenData
from bytelm.data.sources import files, reader
from bytelm.data.text_record import SPLITS

TEXTS = [f"{number}: é {'word ' * (number % 17)}\n" * (number % 5) for number in range(60)]
NAMES = ("a", "b", "c/d", "e")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Each file, and each few rows of a dataset, is a shard."""
    monkeypatch.setattr(files, "SHARD_BYTES", 1)
    monkeypatch.setattr(reader, "SHARD_BYTES", 2000)


def write(folder, ending, texts=TEXTS, names=NAMES):
    """The texts in one file after another, the first one the largest."""
    edges = [0, *(len(texts) * (index + 3) // (len(names) + 2) for index in range(len(names)))]
    for index, name in enumerate(names):
        some = texts[edges[index] : edges[index + 1]]
        path = folder / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == "jsonl":
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
        else:
            pyarrow.parquet.write_table(pyarrow.table({"text": some}), path)
    return folder


def config_of(folder, ending, tmp_path, **options):
    return DataConfig(
        source=Files(files=(f"{folder}/**/*.{ending}",), held_out=0.1, **options),
        cache_dir=str(tmp_path / "cache"),
    )


def packed(config, processes=1):
    (source,) = OpenData(config).sources
    return [packed_corpus(source, split, config.cache_path, processes) for split in SPLITS]


def contents(corpora):
    """Fingerprints and rows, which are the same for the same documents in the same order."""
    rows = [Rows(corpus, 32) for corpus in corpora]
    ids = [each.batch(range(len(each)))["ids"].tolist() for each in rows]
    return [corpus.fingerprint for corpus in corpora], ids


@pytest.fixture
def expected(tmp_path):
    """The contents that packing all documents in memory gives."""
    (source,) = OpenData(
        config_of(write(tmp_path / "x", "jsonl", names="a"), "jsonl", tmp_path)
    ).sources
    corpora = [pack(d.text for d in source.documents(split)) for split in SPLITS]
    assert all(corpus.num_documents > 1 for corpus in corpora)
    return contents(corpora)[1]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("processes", [1, 2])
def test_all_ways_give_the_same_rows(tmp_path, expected, ending, processes):
    config = config_of(write(tmp_path / "text", ending), ending, tmp_path)
    corpora = packed(config, processes)
    assert contents(corpora)[1] == expected
    assert len(list(config.cache_path.glob("shards/*/"))) == len(NAMES)
    one = config_of(write(tmp_path / "one", ending, names="a"), ending, tmp_path)
    assert contents(packed(one)) == contents(corpora)


def test_a_stored_dataset_gives_the_same_rows(tmp_path, expected, monkeypatch):
    datasets = pytest.importorskip("datasets")
    from bytelm.data.config import HuggingFace

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    source = HuggingFace(dataset=f"hf:{tmp_path / 'saved'}", held_out=0.1)
    config = DataConfig(source=source, cache_dir=str(tmp_path / "cache"))
    assert contents(packed(config))[1] == expected
    assert len(list(config.cache_path.glob("shards/*/"))) > 2


def test_the_same_documents_in_tfds_give_the_same_rows(tmp_path, expected):
    import tensorflow_datasets as tfds

    from bytelm.data.config import Tfds

    class SameText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            # Shuffled, they are in the order of their hashes.
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": ((number, {"text": text}) for number, text in enumerate(TEXTS))}

        def _generate_examples(self):
            raise NotImplementedError

    builder = SameText(data_dir=str(tmp_path / "tfds"), file_format="array_record")
    builder.download_and_prepare()
    source = Tfds(dataset="same_text", data_dir=str(tmp_path / "tfds"), held_out=0.1)
    config = DataConfig(source=source, cache_dir=str(tmp_path / "cache"))
    assert contents(packed(config))[1] == expected


def test_ranges_of_a_dataset_of_tfds(tfds_dir, tmp_path):
    from bytelm.data.config import Tfds

    source = Tfds(dataset="tiny_text", data_dir=tfds_dir, held_out=0.2)
    config = DataConfig(source=source, cache_dir=str(tmp_path))
    (opened,) = OpenData(config).sources
    corpora = packed(config)
    for split, corpus in zip(SPLITS, corpora, strict=True):
        assert list(corpus.documents()) == [d.text for d in opened.documents(split)]


def shards_of(config):
    """The identities of packed shards, by their names."""
    return {
        path.name: (path / "summary.json").stat().st_ino
        for path in config.cache_path.glob("shards/*/")
    }


def test_only_new_and_changed_files_are_packed(tmp_path, expected):
    folder = write(tmp_path / "text", "jsonl")
    last = folder / "e.jsonl"
    content = last.read_text()
    last.unlink()
    config = config_of(folder, "jsonl", tmp_path)
    packed(config)
    before = shards_of(config)
    last.write_text(content)
    assert contents(packed(config, processes=2))[1] == expected
    grown = shards_of(config)
    assert len(grown) == len(before) + 1 and before.items() <= grown.items()
    (folder / "b.jsonl").write_text(json.dumps({"text": "other"}) + "\n")
    assert packed(config)[0].num_documents < packed(config)[0].num_documents + 1
    changed = shards_of(config)
    assert len(changed) == len(grown) + 1 and grown.items() <= changed.items()
    (folder / "c/d.jsonl").rename(folder / "f.jsonl")
    packed(config)
    assert shards_of(config) == changed


def test_nothing_depends_on_how_a_path_is_written(tmp_path, monkeypatch):
    folder = write(tmp_path / "text", "jsonl")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = contents(packed(config_of(folder, "jsonl", tmp_path)))
    shards = shards_of(config_of(folder, "jsonl", tmp_path))
    for name in ("text", "./text", "../" + tmp_path.name + "/text", "~/text", "link"):
        config = config_of(name, "jsonl", tmp_path)
        assert contents(packed(config)) == expected
        assert shards_of(config) == shards
    given = Files(files=(f"file://{folder}/**/*.jsonl",), held_out=0.1)
    config = DataConfig(source=given, cache_dir=str(tmp_path / "other"))
    assert contents(packed(config)) == expected


def test_small_files_are_packed_together(tmp_path, monkeypatch):
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(f"{number} " * 20)
    monkeypatch.setattr(files, "SHARD_BYTES", 300)
    monkeypatch.setattr(files, "MOST_TOGETHER", 1200)
    config = config_of(folder, "txt", tmp_path)
    (source,) = OpenData(config).sources
    before = source.reader.shards("train")
    assert [part.path for shard in before for part in shard.place] == sorted(folder.iterdir())
    assert 5 < len(before) < 40
    (folder / "30.txt").write_text("other")
    (source,) = OpenData(config).sources
    after = source.reader.shards("train")
    kept = [shard for shard in after if shard.content in [each.content for each in before]]
    assert len(after) - len(kept) <= 2
    assert (
        contents(packed(config))[1]
        == contents([pack(d.text for d in source.documents(split)) for split in SPLITS])[1]
    )


def test_a_large_file_of_parquet_is_packed_in_parts(tmp_path, expected):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path, row_group_size=7)
    config = config_of(tmp_path, "parquet", tmp_path)
    (source,) = OpenData(config).sources
    shards = source.reader.shards("train")
    assert [part.within for shard in shards for part in shard.place] == [
        range(index, index + 1) for index in range(9)
    ]
    assert [d.text for shard in shards for d in source.reader.read(shard)] == [
        text.encode() for text in TEXTS
    ]
    assert contents(packed(config, processes=2))[1] == expected
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [*TEXTS[:52], None, *TEXTS[53:]]}), path, row_group_size=7
    )
    with pytest.raises(UserError, match=r"a\.parquet, row 53: a value is missing"):
        packed(config, processes=2)
    skipping = replace(config, source=replace(config.source, skip_bad=True))
    assert packed(skipping)[0].skipped == 1
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read, or is damaged"):
        packed(config)


def lines_of(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def test_a_large_file_of_lines_is_packed_in_ranges(tmp_path, expected, monkeypatch):
    monkeypatch.setattr(files, "RANGE_BYTES", 1000)
    folder = tmp_path / "text"
    folder.mkdir()
    path = folder / "a.jsonl"
    path.write_text(lines_of(TEXTS[:50]))
    config = config_of(folder, "jsonl", tmp_path)
    packed(config)
    before = shards_of(config)
    assert 5 < len(before) < 12
    with path.open("a") as file:
        file.write(lines_of(TEXTS[50:]))
    assert contents(packed(config, processes=2))[1] == expected
    (source,) = OpenData(config).sources
    shards = source.reader.shards("train")
    assert all(source.reader.is_unchanged(shard) for shard in shards)
    grown = shards_of(config)
    assert before.items() <= grown.items()
    assert len(grown) == len(shards) + 1  # the last range of before
    monkeypatch.setattr(files, "RANGE_BYTES", 10**6)
    config = replace(config, cache_dir=str(tmp_path / "whole"))
    assert contents(packed(config))[1] == expected
    assert len(shards_of(config)) == 1


def test_a_large_file_of_lines_is_read_as_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RANGE_BYTES", 1000)
    path, mark = tmp_path / "a.jsonl", b"\xef\xbb\xbf"
    path.write_bytes(mark + b"\n" + lines_of(TEXTS).encode().rstrip() + b"\n" * 3000)
    (source,) = OpenData(config_of(tmp_path, "jsonl", tmp_path)).sources
    read = [
        document
        for shard in source.reader.shards("train")
        for document in source.reader.read(shard)
    ]
    assert read == list(source.reader.documents("train"))
    assert [document.text.decode() for document in read] == TEXTS
    path.write_text(lines_of(TEXTS[:40]) + '["text"]\n' + lines_of(TEXTS[40:]))
    with pytest.raises(UserError, match=r"a\.jsonl, line 41: it is no JSON object"):
        packed(config_of(tmp_path, "jsonl", tmp_path))
    skipping = config_of(tmp_path, "jsonl", tmp_path, skip_bad=True)
    assert packed(skipping)[0].skipped == 1
    path.write_text("[\n" + lines_of(TEXTS))
    with pytest.raises(UserError, match="one JSON array over all its lines"):
        packed(config_of(tmp_path, "jsonl", tmp_path), processes=2)


def test_a_large_file_of_arrow_is_packed_in_parts(tmp_path, expected):
    table = pyarrow.table({"text": TEXTS})
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    config = config_of(tmp_path, "arrow", tmp_path)
    assert contents(packed(config))[1] == expected
    assert len(shards_of(config)) == 9
    table = pyarrow.table({"text": [*TEXTS[:52], None, *TEXTS[53:]]})
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    with pytest.raises(UserError, match=r"a\.arrow, row 53: a value is missing"):
        packed(config)
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    (source,) = OpenData(config).sources
    assert len(source.reader.shards("train")) == 1


KILLED = """
import sys
from bytelm.data.corpus import input_shards
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData
from bytelm.data.sources import files
from pathlib import Path
import time

files.SHARD_BYTES = 1
add, count = input_shards._SplitWriter.write, 0

def slow(self, *arguments):
    global count
    add(self, *arguments)
    count += 1
    if count > 6:
        Path(sys.argv[2], "ready").touch()
        time.sleep(60)

input_shards._SplitWriter.write = slow
config = DataConfig(Files(files=(sys.argv[1],), held_out=0.1), cache_dir=sys.argv[2])
packed_corpus(OpenData(config).sources[0], "train", config.cache_path)
"""


def test_a_killed_process_leaves_its_finished_shards(tmp_path, expected):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    cache = config.cache_path
    arguments = [sys.executable, "-c", KILLED, config.source.files[0], str(cache)]
    with subprocess.Popen(arguments) as process:
        while not (cache / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    partial = [name for name in shards_of_any(cache) if name.endswith(".partial")]
    finished = {name for name in shards_of_any(cache) if name not in partial}
    assert len(partial) == 1 and finished
    before = {name: (cache / "shards" / name / "summary.json").stat().st_ino for name in finished}
    assert contents(packed(config, processes=2))[1] == expected
    assert before.items() <= shards_of(config).items()
    assert len(shards_of_any(cache)) == len(NAMES)


def shards_of_any(cache):
    return [path.name for path in cache.glob("shards/*/")]


def test_an_error_in_another_process_is_one_sentence(tmp_path):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    with open(tmp_path / "text" / "e.jsonl", "a") as file:
        file.write("no JSON\n")
    with pytest.raises(UserError, match=r"e\.jsonl, line \d+: broken JSON"):
        packed(config, processes=2)
    assert packed(replace(config, source=replace(config.source, skip_bad=True)), 2)[0].skipped == 1


def test_a_process_that_dies_is_one_sentence(tmp_path, monkeypatch):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    monkeypatch.setattr(packers, "START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"status -9, perhaps because memory ran out"):
        packed(config, processes=2)


def test_shards_that_another_process_packs_come_last(tmp_path, monkeypatch):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    (source,) = OpenData(config).sources
    shards = source.reader.shards("train")
    order = []
    monkeypatch.setattr(packers, "pack_shard", lambda s, t, shard, *more: order.append(shard))
    first = shard_directory(source, "train", shards[0], config.cache_path)
    first.parent.mkdir(parents=True)
    with exclusive(first.with_name(f"{first.name}.lock"), "write"):
        packers.pack_shards(source, "train", shards, config.cache_path, 1)
    assert order == [*shards[1:], shards[0]]


def test_packed_text_stays_when_its_shards_are_removed(tmp_path):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    expected = contents(packed(config))
    for path in config.cache_path.glob("shards/*/*"):
        path.unlink()
    assert contents(packed(config)) == expected


def test_where_files_have_one_name_only(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    corpus = packed(config)[0]
    assert (corpus.directory / "symbols-0.bin").stat().st_nlink == 1
    assert corpus.num_documents == sum(1 for _ in corpus.documents())


def test_a_damaged_shard_is_packed_once_more(tmp_path):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    expected = contents(packed(config))
    for path in config.cache_path.glob("packed/*/summary.json"):
        path.unlink()
    path = next(config.cache_path.glob("shards/*/train.symbols"))
    path.write_bytes(b"?" + path.read_bytes()[1:])
    assert contents(packed(config)) == expected


def test_shards_without_a_digest_of_their_documents_are_read(tmp_path):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    expected = contents(packed(config))
    shutil.rmtree(config.cache_path / "packed")
    for path in config.cache_path.glob("shards/*"):
        if path.is_dir():
            summary = read_summary(path)
            for about in summary["splits"].values():
                del about["digest"]
            for name in ("sizes", "digests", "check"):
                del summary[name]
            for name in ("summary.json", "digests.bin"):
                (path / name).unlink()
            seal(path, summary)
    assert contents(packed(config)) == expected


def test_files_of_the_version_before_are_read(tmp_path):
    config = config_of(write(tmp_path / "text", "jsonl"), "jsonl", tmp_path)
    corpus = packed(config)[0]
    before = corpus.directory.with_name(corpus.directory.name.replace("-v5", "-v4"))
    before.mkdir()
    summary = json.loads((corpus.directory / "summary.json").read_text())
    for name in ("lengths", "passages", "sizes", "digests", "check"):
        del summary[name]
    (before / "symbols.bin").write_bytes(corpus.symbols.tobytes())
    (before / "starts.bin").write_bytes(corpus.starts.astype("<i8").tobytes())
    (before / "passages.bin").write_bytes(np.concatenate(list(corpus.passages())).tobytes())
    seal(before, summary)
    again = packed(config)[0]
    assert again.directory == before
    assert contents([again]) == contents([corpus])
    assert [each.tolist() for each in again.passages()] == [
        np.concatenate(list(corpus.passages())).tolist()
    ]
