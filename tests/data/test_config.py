"""Mistakes in a data config, and where the cache goes."""

from pathlib import Path

import pytest
import tyro

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, SourceConfig


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
        ({"noise_density": 0.0}, "data.noise_density is 0.0"),
        ({"noise_density": 1.0}, "data.noise_density is 1.0"),
        ({"mean_span": 0.5}, "data.mean_span is 0.5"),
        ({"mean_span": float("nan")}, "data.mean_span is nan"),
        ({"target_length": 64}, "next_byte has no targets of another length"),
        ({"target_key": "fix"}, "data.target_key is fix.* there are no data.files"),
        ({"files": ("a.jsonl",), "target_key": "fix"}, "add --data.task pairs"),
        ({"task": "pairs", "files": ("a.jsonl",)}, "--data.text-key and --data.target-key"),
        ({"task": "pairs"}, "--data.files"),
        (
            {
                "task": "pairs",
                "mixture": (SourceConfig(files=("a",), target_key="b"), SourceConfig()),
            },
            "--data.target-key",
        ),
        (
            {"task": "pairs", "files": ("a",), "target_key": "b", "target_length": 0},
            "data.target_length is 0; choose 1 or more",
        ),
        ({"task": "span_corruption", "read": "stream"}, "span_corruption cannot be streamed"),
        ({"task": "span_corruption", "unigram": "a.model"}, "no boundaries to supervise"),
        ({"task": "span_corruption", "sequence_length": 2}, "choose 3 or more"),
        ({"task": "span_corruption", "target_length": 188}, "choose 189 or more"),
        (
            {"task": "span_corruption", "sequence_length": 8192, "mean_span": 3.0},
            "make 455 spans in a row, and there are 256 sentinels",
        ),
        ({"task": "merge_abc", "sequence_length": 1}, "choose 2 or more"),
        ({"task": "merge_abc", "target_length": 8}, "choose 1024 or more"),
        ({"task": "merge_abc", "files": ("a.txt",)}, "merge_abc makes up its own text"),
        ({"task": "merge_abc", "scripts": ("eng",)}, "leave out .*data.scripts"),
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


def test_targets_of_a_row():
    assert DataConfig(sequence_length=100).row_length == 100
    assert DataConfig(task="span_corruption").row_length == 189
    assert DataConfig(task="span_corruption", target_length=200).row_length == 200
    assert DataConfig(task="merge_abc", sequence_length=64).row_length == 64
    pairs = DataConfig(task="pairs", files=("a",), target_key="b", target_length=7)
    assert pairs.row_length == 7


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


def test_no_home_directory_is_a_sentence(monkeypatch):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("BYTELM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UserError, match=r"no home directory; name one with --data\.cache-dir"):
        _ = DataConfig().cache_path
