"""Mistakes in a data config, and the directory of the cache."""

import json
from pathlib import Path

import pytest

from bytelm.core.config_json import from_dict, to_dict
from bytelm.core.errors import UserError
from bytelm.data.config import (
    DataConfig,
    Files,
    MergeAbc,
    Mixture,
    NextByte,
    Pairs,
    PythonLibrary,
    SpanCorruption,
    Tfds,
)
from bytelm.data.tasks.task import Task

A = ("a.jsonl",)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PythonLibrary, {"held_out": 0.5}, "data.held_out is 0.5"),
        (PythonLibrary, {"weight": 0.0}, "data.weight is 0.0"),
        (PythonLibrary, {"split_above": 100}, "data.split_above is 100"),
        (Files, {}, "data.files names no file"),
        (Files, {"files": A, "test_files": ("",)}, "data.test_files names an empty file"),
        (Files, {"files": A, "script": "eng", "script_key": "lang"}, "not both"),
        (Tfds, {}, "data.dataset is empty"),
        (Mixture, {"sources": ()}, "one or more single sources"),
        (Mixture, {"sources": (Mixture((PythonLibrary(),)),)}, "one or more single sources"),
        (SpanCorruption, {"noise_density": 0.0}, "data.noise_density is 0.0"),
        (SpanCorruption, {"noise_density": 1.0}, "data.noise_density is 1.0"),
        (SpanCorruption, {"mean_span": 0.5}, "data.mean_span is 0.5"),
        (SpanCorruption, {"mean_span": float("nan")}, "data.mean_span is nan"),
        (SpanCorruption, {"target_length": 2**31}, "data.target_length is 2147483648"),
        (DataConfig, {"sequence_length": 0}, "sequence_length"),
        (DataConfig, {"batch_size": 0}, "batch_size"),
        (DataConfig, {"workers": -1}, "workers"),
        (DataConfig, {"scripts": ("eng", "rus", "eng")}, "data.scripts names one twice"),
    ],
)
def test_mistakes_are_named(kind, fields, message):
    with pytest.raises(UserError, match=message):
        kind(**fields)


@pytest.mark.parametrize(
    ("source", "task", "fields", "message"),
    [
        (Files(files=A, target_key="fix"), NextByte(), {}, "add --data.task pairs"),
        (Files(files=A), Pairs(), {}, "--data.text-key and --data.target-key"),
        (PythonLibrary(), Pairs(), {}, "--data.files"),
        (
            Mixture((Files(files=A, target_key="b"), PythonLibrary())),
            Pairs(),
            {},
            "--data.target-key",
        ),
        (
            Files(files=A, target_key="b"),
            Pairs(target_length=0),
            {},
            "data.target_length is 0; choose 1 or more",
        ),
        (Mixture((PythonLibrary(), Files(files=A))), NextByte(shard_bytes=4), {}, "a mixture has"),
        (PythonLibrary(), SpanCorruption(), {"sequence_length": 2}, "choose 3 or more"),
        (PythonLibrary(), SpanCorruption(target_length=188), {}, "choose 189 or more"),
        (
            PythonLibrary(),
            SpanCorruption(mean_span=3.0),
            {"sequence_length": 8192},
            "make 455 spans in a row, and there are 256 sentinels",
        ),
        (PythonLibrary(), MergeAbc(), {"sequence_length": 1}, "choose 2 or more"),
        (PythonLibrary(), MergeAbc(target_length=8), {}, "choose 1024 or more"),
        (Files(files=A), MergeAbc(), {}, "merge_abc makes up its own text"),
        (PythonLibrary(), MergeAbc(), {"scripts": ("eng",)}, "leave out .*data.scripts"),
    ],
)
def test_what_does_not_go_together(source, task, fields, message):
    with pytest.raises(UserError, match=message):
        DataConfig(source=source, task=task, **fields)


def test_the_parts_of_a_mixture_are_the_sources():
    single = Files(files=("a.txt",))
    assert DataConfig(source=single).source_configs == (single,)
    parts = (PythonLibrary(weight=2.0), Tfds(dataset="lm1b"))
    assert DataConfig(source=Mixture(sources=parts)).source_configs == parts


@pytest.mark.parametrize(
    "data",
    [
        DataConfig(source=Mixture((Files(files=A, weight=2.0), Tfds(dataset="lm1b")))),
        DataConfig(source=Files(files=A, target_key="b"), task=Pairs(target_length=4)),
        *(DataConfig(task=kind()) for name, kind in Task.variants.items() if name != "pairs"),
    ],
)
def test_sources_and_tasks_are_saved_and_loaded(data):
    assert from_dict(json.loads(json.dumps(to_dict(data))), DataConfig) == data


def test_targets_of_a_row():
    assert DataConfig(sequence_length=100).row_length == 100
    assert DataConfig(task=SpanCorruption()).row_length == 189
    assert DataConfig(task=SpanCorruption(target_length=200)).row_length == 200
    assert DataConfig(task=MergeAbc(), sequence_length=64).row_length == 64
    pairs = DataConfig(source=Files(files=("a",), target_key="b"), task=Pairs(target_length=7))
    assert pairs.row_length == 7


def test_cache_path(monkeypatch):
    monkeypatch.delenv("BYTELM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert DataConfig().cache_path == Path("/xdg/bytelm")
    monkeypatch.setenv("BYTELM_CACHE", "/mine")
    assert DataConfig().cache_path == Path("/mine")
    assert DataConfig(cache_dir="/other").cache_path == Path("/other")


def test_no_home_directory_is_a_sentence(monkeypatch):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("BYTELM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UserError, match=r"no home directory; name one with --data\.cache-dir"):
        _ = DataConfig().cache_path
