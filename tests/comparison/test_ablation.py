"""Whole ablations of tiny models: what they write, how they go on, and what they refuse."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from bytelm.comparison import ablation as module
from bytelm.comparison import runs
from bytelm.comparison.ablation import Ablation, run_ablation
from bytelm.comparison.changes import changed
from bytelm.config import ExperimentConfig, TrainConfig
from bytelm.data.config import DataConfig
from bytelm.errors import UserError
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.presets import ablation_names, find_file, run_file
from bytelm.training.distributed import StopRequest
from bytelm.training.sharding import MeshConfig

SECOND = {"train.seed": 1}


@pytest.fixture(scope="module")
def ablation(tmp_path_factory) -> Ablation:
    folder = tmp_path_factory.mktemp("text")
    for seed, name in enumerate(("train", "valid", "test", "other_test")):
        words = np.random.default_rng(seed).choice(["to", "be", "or", "not", "\n"], 300)
        (folder / f"{name}.txt").write_text(" ".join(words))
    base = ExperimentConfig(
        model=SpaceByteConfig(
            local_width=16,
            local_depth=2,
            global_width=16,
            global_depth=1,
            head_width=8,
            bytes_per_patch=2.0,
        ),
        data=DataConfig(
            files=(str(folder / "train.txt"),),
            validation_files=(str(folder / "valid.txt"),),
            test_files=(str(folder / "*test.txt"),),
            sequence_length=32,
            batch_size=8,
            cache_dir=str(folder / "cache"),
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(
            steps=2, log_every=1, validation_rows=8, sample_bytes=0, tensorboard=False
        ),
    )
    return Ablation(base, {"first": {}, "second": SECOND})


def table(output: Path) -> list[dict]:
    """The rows of the table but the speeds, which differ from run to run."""
    points = json.loads((output / "table.json").read_text())["points"]
    return [{k: v for k, v in point.items() if k != "bytes_per_second"} for point in points]


@pytest.fixture(scope="module")
def whole(ablation, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "ablation"
    held = len(jax.live_arrays())
    assert run_ablation(ablation, output) == 0
    assert len(jax.live_arrays()) <= held, "a point left arrays behind"
    return output


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """The finished ablation, to go on with."""
    return Path(shutil.copytree(whole, tmp_path / "ablation"))


def test_the_table_tells_all_points(whole, ablation):
    rows = table(whole)
    assert [(row["point"], row["state"]) for row in rows] == [("first", "done"), ("second", "done")]
    assert [row["changes"] for row in rows] == [{}, {"train.seed": 1}]
    for row in rows:
        assert row["test_interval"] is None  # two documents are too few
        assert 0 < row["test_bpb"] < 9
        assert 0 < row["validation_bpb"] < 9
        assert 2 < row["bytes_per_patch"] < 16
        assert [step for step, _ in row["curve"]] == [1, 2]
        assert row["parameters"] > 0 and row["forward_flops_per_byte"] > 0
    assert rows[0]["test_bpb"] != rows[1]["test_bpb"]
    assert (whole / "plot.png").read_bytes().startswith(b"\x89PNG")
    lines = (whole / "table.md").read_text().splitlines()
    assert len(lines) == 4
    assert f"| second | {rows[1]['test_bpb']:.4f} |" in lines[3]
    assert not [path.name for path in whole.iterdir() if path.name.endswith(".tmp")]


def test_points_that_are_done_are_not_run_again(whole, copy, ablation, monkeypatch):
    def never(*_, **__):
        raise AssertionError("was run again")

    monkeypatch.setattr(runs, "train", never)
    monkeypatch.setattr(module, "evaluate", never)
    assert run_ablation(ablation, copy) == 0
    assert table(copy) == table(whole)


def test_programs_are_forgotten_after_each_point(copy, ablation):
    traced = []
    program = jax.jit(lambda x: traced.append(x) or x)
    program(1.0)
    program(1.0)
    assert len(traced) == 1
    assert run_ablation(ablation, copy) == 0
    program(1.0)
    assert len(traced) == 2


def test_another_extent_of_the_test_is_tested_anew(whole, copy, ablation, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    one = Ablation(ablation.base, {"second": SECOND})
    assert run_ablation(one, copy, max_bytes=10) == 0
    report = json.loads((copy / "second" / "test_report.json").read_text())
    assert report["documents"] == 1
    assert json.loads((whole / "second" / "test_report.json").read_text())["documents"] == 2


@pytest.mark.parametrize(("point", "step"), [("first", 0), ("second", 1)])
def test_an_interrupted_point_goes_on_to_the_same_table(
    whole, copy, ablation, monkeypatch, point, step
):
    shutil.rmtree(copy / point)
    asked = iter(range(2))
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", lambda self: next(asked) == step)
        assert run_ablation(ablation, copy) == 143
    states = {row["point"]: (row["state"], row["reason"]) for row in table(copy)}
    assert states.pop(point) == ("stopped", f"after step {step} of 2")
    assert list(states.values()) == [("done", "")]
    assert run_ablation(ablation, copy) == 0
    assert table(copy) == table(whole)


def test_a_stop_keeps_the_points_after_from_starting(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr(StopRequest, "agreed", lambda self: True)
    assert run_ablation(ablation, tmp_path) == 143
    assert [row["state"] for row in table(tmp_path)] == ["stopped", "waiting"]
    assert not (tmp_path / "second").exists()


def test_a_point_whose_config_changed_is_refused(whole, copy, ablation):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    other = Ablation(ablation.base, {"new": {}, "first": {}, "second": {"train.seed": 2}})
    with pytest.raises(
        UserError, match=r"second holds a run of another config \(train.seed: 1 -> 2"
    ):
        run_ablation(other, copy)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_what_only_changes_reports_may_change(copy, ablation, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    one = Ablation(ablation.base, {"second": {**SECOND, "train.log_every": 2}})
    assert run_ablation(one, copy) == 0


def test_a_point_that_fails_does_not_stop_the_others(whole, copy, ablation, monkeypatch):
    def diverge(config, run_dir, **_):
        (run_dir / "metrics.jsonl").touch()
        raise UserError("10 steps in a row\nhad a loss | gradient that is not finite.")

    points = {"nowhere": {"data.files": ("nothing*.txt",)}, "diverging": {"train.steps": 9}}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", diverge)
        both = Ablation(ablation.base, {**points, **ablation.points})
        assert run_ablation(both, copy) == 1
    rows = table(copy)
    assert [row["state"] for row in rows] == ["failed", "failed", "done", "done"]
    assert "nothing*.txt" in rows[0]["reason"] and not (copy / "nowhere").exists()
    assert "10 steps in a row" in rows[1]["reason"] and (copy / "diverging").exists()
    assert rows[2:] == table(whole)
    assert "| failed: 10 steps in a row had a loss \\| gradient" in (copy / "table.md").read_text()


def test_a_point_without_test_text_fails_before_it_trains(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    point = {"data.validation_files": (), "data.test_files": (), "data.held_out": 0.0}
    assert run_ablation(Ablation(ablation.base, {"untested": point}), tmp_path) == 1
    assert "test" in table(tmp_path)[0]["reason"]


def test_changes_are_applied_together_and_deeply(ablation):
    config = changed(
        ablation.base, {"model": TransformerConfig(width=64), "model.depth": 3, "train.seed": 5}
    )
    assert config.model == TransformerConfig(width=64, depth=3)
    assert config.train == dataclasses.replace(ablation.base.train, seed=5)
    assert config.data == ablation.base.data
    files = Ablation(ablation.base, {"a": {"data.files": ["x.txt"]}}).configs["a"].data.files
    assert files == ("x.txt",)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ({}, "no points"),
        ({"../up": {}}, "directory"),
        (
            {"a": {"model.boundry": "fixed"}},
            r"point a .*model\.boundry \(did you mean model\.boundary\?\)",
        ),
        ({"a": {"modl.boundary": "fixed"}}, r"modl\.boundary \(did you mean model\?\)"),
        ({"a": {"train.steps.x": 1}}, r"no config field train\.steps\.x"),
        ({"a": {"train.steps": "many"}}, r"point a .*train\.steps is 'many'"),
        ({"a": {"model.boundary": "fixed"}}, r"point a .*model\.stride"),
    ],
)
def test_bad_points(ablation, points, sentence):
    with pytest.raises(UserError, match=sentence):
        Ablation(ablation.base, points)


@pytest.mark.parametrize("name", ablation_names())
def test_every_ablation_of_the_repository_is_sound(name):
    path = find_file(name, "ablation", ablation_names())
    assert run_file(path, "ablation", Ablation).configs
