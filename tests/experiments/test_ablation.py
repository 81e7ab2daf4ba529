"""Whole ablations of tiny models: what they write, how they go on, and what they refuse."""

import csv
import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files
from bytelm.experiments import ablate as module
from bytelm.experiments import plan, runs
from bytelm.experiments.ablate import AblationPlan, ablation_runs, run_ablation
from bytelm.experiments.ablation import Ablation
from bytelm.experiments.contenders import changed, count_tasks
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training import program as program_module
from bytelm.training.cost import step_flops
from bytelm.training.distributed import StopRequest
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.presets import ablation_names, find_file, run_file
from bytelm.training.validation import Validation
from tests.training.tiny_run import stop_after

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
            bytes_per_slot=2.0,
        ),
        data=DataConfig(
            source=Files(
                files=(str(folder / "train.txt"),),
                validation_files=(str(folder / "valid.txt"),),
                test_files=(str(folder / "*test.txt"),),
            ),
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
    """The rows of the report but the speeds, which differ from run to run."""
    entries = json.loads((output / "report.json").read_text())["contenders"]
    for row in entries:
        for holder in (row, *row["runs"]):
            for name in ("train_bytes_per_second", "compile_seconds", "training_seconds"):
                holder["figures"].pop(name, None)
    return entries


def values(row: dict) -> dict[str, float]:
    """The values of a row's figures."""
    return {name: figure["value"] for name, figure in row["figures"].items()}


@pytest.fixture(scope="module")
def whole(ablation, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "ablation"
    held = len(jax.live_arrays())
    assert run_ablation(ablation, output) == 0
    assert len(jax.live_arrays()) <= held, "a contender left arrays"
    return output


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """The finished ablation, to go on with."""
    return Path(shutil.copytree(whole, tmp_path / "ablation"))


def test_the_report_has_all_contenders(whole, ablation):
    rows = table(whole)
    assert [(row["contender"], row["state"]) for row in rows] == [
        ("first", "done"),
        ("second", "done"),
    ]
    assert [row["changes"] for row in rows] == [{}, {"train.seed": 1}]
    for row in rows:
        figures = values(row)
        assert 0 < figures["bpb"] < 9
        assert "low" not in row["figures"]["bpb"]  # two documents are too few for an interval
        assert 0 < figures["validation_bits"] < 9
        assert 2 < figures["bytes_per_patch"] < 16
        assert figures["parameters"] > 0 and figures["forward_flops_per_byte"] > 0
        (run,) = row["runs"]
        assert len(run["curve"]) == 1 and len(run["document_bits"]) == 2
    first, second = (values(row)["bpb"] for row in rows)
    assert rows[0]["difference"] is None
    assert rows[1]["difference"]["value"] == pytest.approx(second - first) != 0
    assert (whole / "patches.png").read_bytes().startswith(b"\x89PNG")
    text = (whole / "report.md").read_text()
    assert f"| second | {second:.4f} |" in text and "Differences from first" in text
    with open(whole / "runs.csv") as file:
        assert [float(row["bpb"]) for row in csv.DictReader(file)] == [first, second]
    assert not [path.name for path in whole.iterdir() if path.name.endswith(".tmp")]


def test_contenders_that_are_done_are_not_run_again(whole, copy, ablation, monkeypatch):
    def never(*_, **__):
        raise AssertionError("was run again")

    monkeypatch.setattr(runs, "train", never)
    monkeypatch.setattr(module, "measure_run", never)
    assert run_ablation(ablation, copy) == 0
    assert table(copy) == table(whole)


def test_programs_are_forgotten_after_each_contender(copy, ablation, monkeypatch):
    monkeypatch.setattr(plan, "forget_programs", program_module.forget_programs)
    traced = []
    program = jax.jit(lambda x: traced.append(x) or x)
    program(1.0)
    program(1.0)
    assert len(traced) == 1
    assert run_ablation(ablation, copy) == 0
    program(1.0)
    assert len(traced) == 2


def test_another_extent_of_the_test_is_tested_again(whole, copy, ablation, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    one = Ablation(ablation.base, {"second": SECOND})
    assert run_ablation(one, copy, max_bytes=10) == 0
    for output, documents in ((copy, 1), (whole, 2)):
        report = json.loads((output / "second" / "test_report.json").read_text())
        assert len(report["document_bits"]) == documents


@pytest.mark.parametrize(("point", "step"), [("first", 0), ("second", 1)])
def test_an_interrupted_contender_goes_on_to_the_same_report(
    whole, copy, ablation, monkeypatch, point, step
):
    shutil.rmtree(copy / point)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        assert run_ablation(ablation, copy) == 143
    states = {row["contender"]: (row["state"], row["reason"]) for row in table(copy)}
    assert states.pop(point) == ("stopped", f"after step {step} of 2")
    assert list(states.values()) == [("done", "")]
    assert run_ablation(ablation, copy) == 0
    assert table(copy) == table(whole)


def test_a_stop_keeps_later_contenders_from_starting(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr(StopRequest, "agreed", lambda self: True)
    assert run_ablation(ablation, tmp_path) == 143
    assert [row["state"] for row in table(tmp_path)] == ["stopped", "waiting"]
    assert not (tmp_path / "second").exists()


def test_a_stop_in_the_last_validation_leaves_that_to_the_next_process(
    whole, copy, ablation, monkeypatch
):
    shutil.rmtree(copy / "second")
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", lambda self, params, stop: None)
        assert run_ablation(ablation, copy) == 143
    assert run_ablation(ablation, copy) == 0
    assert table(copy) == table(whole)


def test_a_contender_whose_config_changed_is_refused(whole, copy, ablation):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    other = Ablation(ablation.base, {"new": {}, "first": {}, "second": {"train.seed": 2}})
    with pytest.raises(
        UserError, match=r"second holds a run of another config \(train.seed: 1 -> 2"
    ):
        run_ablation(other, copy)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_text_that_changed_is_refused(whole, copy, ablation, monkeypatch):
    path = Path(ablation.base.data.source.files[0])
    text = path.read_bytes()
    try:
        path.write_bytes(text + b"more")
        with pytest.raises(UserError, match=r"first is of other text than train.txt holds now"):
            run_ablation(ablation, copy)
        assert table(copy) == table(whole)
        # As if it changed while an earlier contender was trained.
        shutil.rmtree(copy / "second")
        path.write_bytes(text)
        plan = AblationPlan(ablation, copy)
        path.write_bytes(text + b"more")
        monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("was trained"))
        with pytest.raises(UserError, match="first is of other text"):
            plan.do_all()
    finally:
        path.write_bytes(text)


def test_what_only_changes_reports_may_change(copy, ablation, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    one = Ablation(ablation.base, {"second": {**SECOND, "train.log_every": 2}})
    assert run_ablation(one, copy) == 0


def test_a_budget_decides_the_steps(copy, ablation, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    budget = f"{2.5 * step_flops(ablation.configs['second'])} flops"
    one = Ablation(ablation.base, {"second": {**SECOND, "train.budget": budget}})
    assert run_ablation(one, copy) == 0
    assert table(copy)[0]["state"] == "done"


def test_a_contender_that_fails_does_not_stop_the_others(whole, copy, ablation, monkeypatch):
    def diverge(config, run_dir, **_):
        (run_dir / "metrics.jsonl").touch()
        raise UserError("10 steps in a row\nhad a loss | gradient that is not finite.")

    failing = {"nowhere": {"data.source.files": ("nothing*.txt",)}, "diverging": {"train.steps": 9}}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", diverge)
        both = Ablation(ablation.base, {**failing, **ablation.contenders}, baseline="first")
        assert run_ablation(both, copy) == 1
    rows = table(copy)
    assert [row["state"] for row in rows] == ["failed", "failed", "done", "done"]
    assert "nothing*.txt" in rows[0]["reason"] and not (copy / "nowhere").exists()
    assert "10 steps in a row" in rows[1]["reason"] and (copy / "diverging").exists()
    assert rows[2:] == table(whole)
    assert "| failed: 10 steps in a row had a loss \\| gradient" in (copy / "report.md").read_text()


def test_a_contender_without_test_text_fails_before_it_trains(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    point = {
        "data.source.validation_files": (),
        "data.source.test_files": (),
        "data.source.held_out": 0.0,
    }
    assert run_ablation(Ablation(ablation.base, {"untested": point}), tmp_path) == 1
    assert "test" in table(tmp_path)[0]["reason"]


def test_changes_are_applied_together_and_deeply(ablation):
    config = changed(
        ablation.base, {"model": TransformerConfig(width=64), "model.depth": 3, "train.seed": 5}
    )
    assert config.model == TransformerConfig(width=64, depth=3)
    assert config.train == dataclasses.replace(ablation.base.train, seed=5)
    assert config.data == ablation.base.data
    files = (
        Ablation(ablation.base, {"a": {"data.source.files": ["x.txt"]}})
        .configs["a"]
        .data.source.files
    )
    assert files == ("x.txt",)


@pytest.mark.parametrize(
    ("contenders", "sentence"),
    [
        ({}, "no contenders"),
        ({"../up": {}}, "directory"),
        (
            {"a": {"model.segmentr": "fixed"}},
            r"contender a .*model\.segmentr \(did you mean model\.segmenter\?\)",
        ),
        ({"a": {"modl.segmenter": "fixed"}}, r"modl\.segmenter \(did you mean model\?\)"),
        ({"a": {"train.steps.x": 1}}, r"no config field train\.steps\.x"),
        ({"a": {"train.steps": "many"}}, r"contender a .*train\.steps is 'many'"),
        ({"a": {"model.boundary": "fixed"}}, r"contender a .*boundary is now model\.segmenter\."),
        ({"a": {"model.segmenter.patch_size": 0}}, r"contender a .*segmenter\.patch_size"),
    ],
)
def test_bad_contenders(ablation, contenders, sentence):
    with pytest.raises(UserError, match=sentence):
        Ablation(ablation.base, contenders)


def test_seeds_are_averaged_and_rates_are_swept(ablation, tmp_path, capsys, monkeypatch):
    made = []
    train_program = program_module.train_program
    monkeypatch.setattr(
        program_module,
        "train_program",
        lambda *all, **options: made.append(all) or train_program(*all, **options),
    )
    two = {"deep": {"model.global_depth": 2}, "base": {}}
    many = Ablation(ablation.base, two, "base", seeds=(3, 4), learning_rates=(1.0, 2.0))
    assert count_tasks(many) == (4, 8)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="task 4 needs the learning rate of deep"):
        run_ablation(many, tmp_path, task=4)
    for task in (0, 1, 4):  # the sweep of `deep`, and a final run that was one of it
        assert run_ablation(many, tmp_path, task=task) == 0
    last = functools.lru_cache(maxsize=1)(program_module._program.__wrapped__)
    monkeypatch.setattr(program_module, "_program", last)
    program_module.forget_programs()
    made.clear()
    assert run_ablation(many, tmp_path) == 0
    # The two rates of `base` share a program, and so do all that are final of a point.
    assert len(made) == 3
    results = json.loads((tmp_path / "report.json").read_text())
    deep, base = table(tmp_path)
    for row in (deep, base):
        bits = [values(run)["bpb"] for run in row["runs"]]
        assert [run["seed"] for run in row["runs"]] == [3, 4] and bits[0] != bits[1]
        assert values(row)["bpb"] == pytest.approx(np.mean(bits))
        assert row["over_seeds"] == [min(bits), max(bits)]
        tried = [each for each in results["sweep"] if each["contender"] == row["contender"]]
        best = min(tried, key=lambda each: each["validation_bits"])
        assert [each["chosen"] for each in tried] == [each is best for each in tried]
        assert {run["learning_rate"] for run in row["runs"]} == {best["learning_rate"]}
    assert deep["difference"]["seeds"] == 2 and len(deep["difference"]["by_seed"]) == 2
    assert "less" in capsys.readouterr().out
    assert "over seeds" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"baseline": "third"}, "the baseline 'third' is not a contender"),
        ({"seeds": (1, 1)}, "one of its seeds twice"),
        ({"seeds": (1, 2)}, "contender second changes train.seed"),
        ({"learning_rates": (0.0,)}, "learning_rates of the ablation must be above 0"),
        ({"contenders": {"a": {}, "a-s1": {}}, "seeds": (0, 1)}, None),
        ({"contenders": {"a": {}, "a-lr2": {}}, "learning_rates": (1.0, 2.0)}, None),
        ({"contenders": {"a": {}, "a-lr1": {}}, "learning_rates": (1.0,)}, None),
        (
            {"contenders": {"a": {}, "a-lr2": {}}, "learning_rates": (1.0, 2.0), "seeds": (0, 1)},
            None,
        ),
    ],
)
def test_bad_plans(ablation, changes, sentence):
    if sentence is None:
        names = [
            run.name for run in ablation_runs(dataclasses.replace(ablation, **changes), Path())
        ]
        assert len(set(names)) == len(names)
        return
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(ablation, **changes)


@pytest.mark.parametrize("name", ablation_names())
def test_every_ablation_of_the_repository_is_sound(name):
    path = find_file(name, "ablation", ablation_names())
    assert run_file(path, "ablation", Ablation).configs
