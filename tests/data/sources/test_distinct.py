"""Documents that a source has twice are left out, within and across splits, and counted."""

import json
import logging

import numpy as np
import pytest

from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData
from bytelm.data.sources.source import open_source


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_equal_documents_of_train_and_of_held_out_splits(tmp_path, caplog):
    source = Files(
        files=(write(tmp_path / "a.jsonl", ["a", "b", "a", "", "held", "", "both"]),),
        validation_files=(write(tmp_path / "b.jsonl", ["held", "held", "other", "both"]),),
        test_files=(write(tmp_path / "c.jsonl", ["both"]),),
        deduplicate=True,
    )
    opened = open_source(source, tmp_path / "cache")
    texts = {
        split: [document.text.decode() for document in opened.documents(split)]
        for split in ("train", "validation", "test")
    }
    assert texts == {"train": ["a", "b", ""], "validation": ["held", "other"], "test": ["both"]}
    data = OpenData(DataConfig(source=source, cache_dir=str(tmp_path / "cache")))
    with caplog.at_level(logging.WARNING):
        assert data.packed(data.sources[0], "train").repeated == 4
    assert "4 documents" in caplog.text
    assert "9 bytes" in caplog.text  # "a", "", "held" and "both"


def test_equal_documents_that_a_hash_places_are_in_one_split_once(tmp_path):
    texts = [f"document {index % 40}" for index in range(120)]
    opened = open_source(
        Files(files=(write(tmp_path / "a.jsonl", texts),), held_out=0.2, deduplicate=True),
        tmp_path / "cache",
    )
    found = [d.text for split in ("train", "validation", "test") for d in opened.documents(split)]
    assert sorted(found) == sorted({text.encode() for text in texts})


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_are_packed_without_documents_of_others(tmp_path, monkeypatch, processes):
    monkeypatch.setattr("bytelm.data.sources.files.SHARD_BYTES", 1)
    generator = np.random.default_rng(0)
    for name in "abcd":
        write(tmp_path / f"{name}.jsonl", [f"{n}" * 9 for n in generator.integers(0, 30, 20)])
    write(tmp_path / "e.jsonl", [])
    held = write(tmp_path / "held.jsonl", ["1" * 9, "2" * 9, "2" * 9])
    source = Files(
        files=(str(tmp_path / "?.jsonl"),),
        validation_files=(held,),
        held_out=0.2,
        deduplicate=True,
    )
    last, more = tmp_path / "d.jsonl", (tmp_path / "d.jsonl").read_text()
    last.unlink()
    config = DataConfig(source=source, cache_dir=str(tmp_path / "cache"))
    for content in (None, more):
        if content is not None:
            last.write_text(content)
        data = OpenData(config, processes=processes)
        (opened,) = data.sources
        for split in ("train", "validation", "test"):
            expected = [document.text for document in opened.documents(split)]
            packed = data.packed(opened, split)
            assert list(packed.documents()) == expected
        train = data.packed(opened, "train")
        list(opened.documents("train"))
        assert (train.repeated, train.skipped) == (opened.reader.repeated, 0)
    names = [path.name for path in (tmp_path / "cache" / "shards").glob("*/")]
    assert len(names) == 6  # d, and each other file once


def test_the_option_and_the_held_out_text_change_the_fingerprint(tmp_path):
    files = (write(tmp_path / "a.jsonl", ["a", "b"]),)
    held = write(tmp_path / "b.jsonl", ["c"])
    found = {
        open_source(each, tmp_path / "cache").fingerprint("train")
        for each in (
            Files(files=files, validation_files=(held,)),
            Files(files=files, validation_files=(held,), deduplicate=True),
            Files(
                files=files,
                validation_files=(write(tmp_path / "d.jsonl", ["d"]),),
                deduplicate=True,
            ),
        )
    }
    assert len(found) == 3
