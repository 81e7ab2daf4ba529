"""Mistakes in a data config, and where the cache goes."""

from pathlib import Path

import pytest
import tyro

from bytelm.data.config import DataConfig, SourceConfig
from bytelm.errors import UserError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"held_out": 0.5}, "held_out"),
        ({"weight": 0.0}, "weight"),
        ({"sequence_length": 0}, "sequence_length"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": -1}, "workers"),
        ({"validation_files": ("a.txt",)}, "data.files"),
        ({"files": ("a.jsonl",), "script": "eng", "script_key": "lang"}, "not both"),
        ({"dataset": "lm1b", "script_key": "lang"}, "no data.files beside it.*data.script"),
        ({"scripts": ("eng", "rus", "eng")}, "data.scripts names one twice"),
        ({"mixture": (SourceConfig(),), "script": "eng"}, "its script in the mixture"),
        ({"files": ("a.txt",), "train_split": "train"}, "data.validation_files"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**fields)


def test_mixture_replaces_the_single_source():
    single = DataConfig(files=("a.txt",))
    assert single.source_configs == (single,)
    parts = (SourceConfig(weight=2.0), SourceConfig(dataset="lm1b"))
    assert DataConfig(mixture=parts).source_configs == parts


def test_cache_path(monkeypatch):
    monkeypatch.delenv("BYTELM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert DataConfig().cache_path == Path("/xdg/bytelm")
    monkeypatch.setenv("BYTELM_CACHE", "/mine")
    assert DataConfig().cache_path == Path("/mine")
    assert DataConfig(cache_dir="/other").cache_path == Path("/other")


def test_command_line():
    arguments = ["--files", "books/*.jsonl.xz", "--skip-bad", "--sequence-length", "2048"]
    parsed = tyro.cli(DataConfig, args=arguments)
    assert parsed == DataConfig(files=("books/*.jsonl.xz",), skip_bad=True, sequence_length=2048)
