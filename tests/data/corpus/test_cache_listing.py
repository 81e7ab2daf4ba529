"""`bytelm data cache` lists the cache, finds damage, and removes only unused entries."""

import gc
import os

import pytest

from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.core.locks import exclusive
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.corpus.cache_listing import cache_entries, manage_cache
from bytelm.data.corpus.entries import build_once
from bytelm.data.open_data import OpenData


def pack(config, split):
    return packed_corpus(OpenData(config).sources[0], split, config.cache_path)


@pytest.fixture
def packed(config):
    """Two unused splits of a cache, and a third that a killed process left."""
    for split in ("train", "test"):
        pack(config, split)
    gc.collect()
    (config.cache_path / "packed" / "validation-12-v3.partial").mkdir()
    return config


def run(config, capsys, *options):
    status = main(["data", "cache", "--cache-dir", config.cache_dir, *options])
    return status, capsys.readouterr().out.splitlines()


def test_is_listed(packed, capsys):
    held = pack(packed, "train")
    status, (train, test, rest, shards, total) = run(packed, capsys)
    assert status == 0
    assert "complete       shards/  1 shard of text" in shards
    assert "in use" in train and "text of documents.jsonl (train)" in train
    assert "complete" in test and "text of documents.jsonl (test)" in test
    assert "not complete" in rest and "validation-12-v3.partial" in rest
    assert total.startswith("4 entries, 0.0 MB in ")
    with exclusive(packed.cache_path / "packed" / "validation-12-v3.lock", "write"):
        assert "being written" in run(packed, capsys)[1][2]
    assert held.num_documents


def test_an_empty_cache(tmp_path, capsys):
    assert main(["data", "cache", "--cache-dir", str(tmp_path / "no")]) == 0
    assert capsys.readouterr().out.startswith("0 entries, 0.0 MB in ")


def test_what_is_used_or_written_is_kept(packed, capsys):
    held = pack(packed, "train")
    with exclusive(packed.cache_path / "packed" / "validation-12-v3.lock", "write"):
        status, lines = run(packed, capsys, "--remove-unused", "0")
    assert status == 1
    words = [line.split(",")[0].split(" ")[0] for line in lines[:4]]
    assert sorted(words) == ["kept", "kept", "removed", "removed"]
    assert len(cache_entries(packed.cache_path)) == 2
    expected = list(held.documents())
    del held
    gc.collect()
    assert run(packed, capsys, "--remove-unused", "0")[0] == 0
    # No files are left, not even locks.
    assert (
        list(packed.cache_path.glob("packed/*")) == list(packed.cache_path.glob("shards/*")) == []
    )
    assert list(pack(packed, "train").documents()) == expected


def test_is_removed_by_name_and_by_age(packed, capsys):
    train, test = (each for each in cache_entries(packed.cache_path) if each.content.endswith(")"))
    assert run(packed, capsys, "--remove", train.name[:15], test.name, "shards/")[0] == 0
    assert [entry.name for entry in cache_entries(packed.cache_path)] == [
        "packed/validation-12-v3.partial"
    ]
    for name, message in (("packed/no", "no entry is 'packed/no'"), ("x", "no entry is 'x'")):
        with pytest.raises(UserError, match=message):
            manage_cache(packed.cache_path, verify=False, remove=[name], remove_unused=None)
    pack(packed, "train")
    gc.collect()
    with pytest.raises(UserError, match=r"2 entries begin with 'packed/'"):
        manage_cache(packed.cache_path, verify=False, remove=["packed/"], remove_unused=None)
    (train,) = (each for each in cache_entries(packed.cache_path) if "(train)" in each.content)
    os.utime(train.directory / "summary.json", (1e9, 1e9))
    status, (removed, *_) = run(packed, capsys, "--remove-unused", "3")
    assert (status, removed.split()[0], train.name in removed) == (0, "removed", True)


def test_use_is_noted(packed):
    (entry,) = (each for each in cache_entries(packed.cache_path) if "train" in each.name)
    os.utime(entry.directory / "summary.json", (1e9, 1e9))
    pack(packed, "train")
    (entry,) = (each for each in cache_entries(packed.cache_path) if "train" in each.name)
    assert entry.last_used > 1.1e9


def test_damage_is_found_and_mended(packed, capsys):
    assert run(packed, capsys, "--verify")[0] == 0
    corpus = pack(packed, "train")
    expected = list(corpus.documents())
    path = corpus.directory / "symbols-0.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"?" + content[-2:])
    status, lines = run(packed, capsys, "--verify")
    assert status == 1
    # The same file is in its shard.
    for line, name in zip(sorted(lines[:2]), ("symbols-0.bin", "train.symbols"), strict=True):
        assert line.startswith(f"damaged ({name}), and rebuilt when needed: ")
    assert list(pack(packed, "train").documents()) == expected
    assert run(packed, capsys, "--verify")[0] == 0


def test_what_is_removed_while_it_is_opened_is_built_again(tmp_path):
    def build(partial):
        (partial / "data").write_text("data")
        return {}

    for _ in range(2):
        build_once(tmp_path / "packed" / "one", "it", 4, build)
        manage_cache(tmp_path, verify=False, remove=(), remove_unused=0)
        assert not (tmp_path / "packed" / "one").exists()
