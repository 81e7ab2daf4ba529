"""Whole comparisons of tiny models: what they run, and what they do not run again."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from bytelm.core.errors import UserError
from bytelm.experiments import compare, runs
from bytelm.experiments import plan as plan_module
from bytelm.experiments.compare import run_comparison
from bytelm.experiments.contenders import count_tasks
from bytelm.experiments.measurements import document_beginnings
from bytelm.experiments.sizing import bytes_per_symbol
from bytelm.training.distributed import StopRequest
from tests.experiments.toys import CONTENDERS, TWO, plan_of


def rows(output: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The runs of the CSV, by contender and budget."""
    with open(output / "runs.csv") as file:
        return {(row["contender"], row["budget"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def whole(comparison, root, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "comparison"
    assert run_comparison(comparison, output, root=root) == 0
    return output


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """The finished comparison in another place, to go on with."""
    return Path(shutil.copytree(whole, tmp_path / "comparison"))


def test_all_runs_are_done_and_reported(whole, comparison):
    found = rows(whole)
    assert len(found) == len(TWO) * 2
    for (name, budget), row in found.items():
        assert row["state"] == "done"
        assert 0 < float(row["bpb"]) < 9 and "bpb_low" not in row  # two documents are too few
        assert float(row["train_flops"]) <= float(budget)
        assert float(row["train_flops"]) > 0.5 * float(budget)
        assert float(row["parameters"]) > float(row["parameters_without_embeddings"]) > 0
        assert float(row["peak_memory_bytes"]) > 4 * float(row["parameters"])
        assert (row["bytes_per_patch"] != "") == (name == "spacebyte")
        assert (row["bytes_per_token"] != "") == (name == "bpe")
        assert row["upper_bound"] == str(name == "bpe")
        largest = float(budget) == max(comparison.budgets)
        assert (row["perturbed/delete/0.1/bpb"] != "") == largest
        assert (row["adapted/german/bpb"] != "") == largest
    page = (whole / "report.html").read_text()
    assert "Toys" in page and all(name in page for name in TWO)
    assert (whole / "report.md").exists() and (whole / "pareto_train.png").exists()


def test_inference_flops_are_of_the_patches_that_there_were(whole):
    for (name, _), row in rows(whole).items():
        needed = float(row["inference_flops_per_byte"])
        room = float(row["inference_flops_per_byte_capacity"])
        assert needed < room if name == "spacebyte" else needed == pytest.approx(room)


def test_steps_are_timed_in_turns(whole):
    found = rows(whole)
    for name in TWO:
        speeds = {
            row["train_bytes_per_second_in_turns"] for (n, _), row in found.items() if n == name
        }
        assert len(speeds) == 1 and float(speeds.pop()) > 0  # one step for all budgets
    assert "from steps of all contenders in turns" in (whole / "report.md").read_text()


def test_the_sweep_keeps_the_rate_with_the_fewest_bits(whole, comparison, root):
    plan = plan_of(comparison, whole, root)
    assert len(plan.sweep) == 2 * len(TWO)
    for name in TWO:
        bits = {run.multiple: plan.validation(run) for run in plan.sweep if run.contender == name}
        assert plan.chosen(name) == min(bits, key=bits.get)
        used = {run.multiple for run in plan.final() if run.contender == name}
        assert used == {plan.chosen(name)}


def test_all_contenders_read_the_same_text_and_validate_on_it(comparison, whole, root):
    plan = plan_of(comparison, whole, root)
    for run in plan.sweep:
        data = run.config.data
        assert data.task.shard_bytes == 32 and data.source.files == (
            str(root / "english.train.txt"),
        )
        size = run.config.train.validation_rows * data.sequence_length * bytes_per_symbol(data)
        assert size == pytest.approx(2**16, rel=0.01)


def test_a_run_that_is_deleted_is_redone_alone(copy, whole, comparison, root, monkeypatch):
    name = next(path.name for path in sorted(copy.glob("runs/spacebyte-english-*")))
    wanted = rows(whole)
    shutil.rmtree(copy / "runs" / name)
    trained = []
    train = runs.train
    monkeypatch.setattr(
        runs,
        "train",
        lambda config, run_dir, **kw: trained.append(run_dir.name) or train(config, run_dir, **kw),
    )
    assert run_comparison(dataclasses.replace(comparison, adaptation={}), copy, root=root) == 0
    assert trained == [name]
    found = rows(copy)
    for key, row in wanted.items():
        assert row["bpb"] == found[key]["bpb"]


def never(*arguments, **keywords):
    raise AssertionError("this was done before")


def test_nothing_is_done_twice(whole, comparison, root, monkeypatch):
    monkeypatch.setattr(runs, "train", never)
    monkeypatch.setattr(compare, "measure_run", never)
    monkeypatch.setattr(compare, "measure_adaptation", never)
    monkeypatch.setattr(compare, "measure_speeds", never)
    before = rows(whole)
    assert run_comparison(comparison, whole, root=root) == 0
    assert rows(whole) == before


def test_no_report_on_the_way_forgets_a_run_that_is_done(copy, comparison, root, monkeypatch):
    reports = []
    monkeypatch.setattr(
        plan_module,
        "write_report",
        lambda heading, records, output, images: reports.append((images, records)),
    )
    next(copy.glob("runs/bpe-english-*/test_report.json")).unlink()
    run_comparison(dataclasses.replace(comparison, adaptation={}), copy, root=root)
    assert [images for images, _ in reports] == [False, True]
    for images, records in reports:
        assert sum(record.state == "waiting" for record in records) == (not images)


def test_a_report_that_says_the_same_is_not_written_again(whole, comparison, root):
    def written():
        return {path: path.stat().st_mtime_ns for path in whole.iterdir() if path.suffix != ".lock"}

    before = written()
    assert run_comparison(comparison, whole, root=root) == 0
    assert written() == before


def test_noise_is_in_the_beginnings_of_all_documents():
    documents = [b"abcdef", b"xy", b"0123456789"]
    assert document_beginnings(documents, 10) == [b"abcd", b"xy", b"0123"]
    assert document_beginnings(documents, 10**6) == documents


def test_a_run_that_fails_does_not_stop_the_others(comparison, root, tmp_path, monkeypatch):
    small = dataclasses.replace(
        comparison,
        learning_rates=(1.0,),
        budgets=comparison.budgets[:1],
        adaptation={},
        robustness=None,
    )
    train = runs.train

    def failing(config, run_dir, **keywords):
        if run_dir.name.startswith("bpe"):
            raise UserError("no luck")
        return train(config, run_dir, **keywords)

    monkeypatch.setattr(runs, "train", failing)
    assert run_comparison(small, tmp_path / "out", root=root) == 1
    states = {name: row["state"] for (name, _), row in rows(tmp_path / "out").items()}
    assert states == {"bpe": "failed", "spacebyte": "done"}
    (done,) = (row for row in rows(tmp_path / "out").values() if row["state"] == "done")
    assert float(done["train_bytes_per_second_in_turns"]) > 0 < float(done["peak_memory_bytes"])
    assert "no luck" in (tmp_path / "out" / "report.md").read_text()


def test_a_contender_that_no_learning_rate_suits_is_reported(
    comparison, root, tmp_path, monkeypatch
):
    small = dataclasses.replace(
        comparison,
        contenders={"bytes": CONTENDERS["bytes"]},
        baseline="bytes",
        budgets=comparison.budgets[:1],
    )

    def failing(config, run_dir, **keywords):
        raise UserError("it diverged")

    monkeypatch.setattr(runs, "train", failing)
    assert run_comparison(small, tmp_path / "out", root=root) == 1
    (row,) = rows(tmp_path / "out").values()
    assert row["state"] == "failed"
    assert row["reason"] == "no learning rate can be trained: it diverged"


def test_a_stop_ends_it_and_the_report_says_so(comparison, root, tmp_path, monkeypatch):
    monkeypatch.setattr(StopRequest, "agreed", lambda self: True)
    assert run_comparison(comparison, tmp_path / "out", root=root) == 143
    assert {row["state"] for row in rows(tmp_path / "out").values()} == {"waiting"}


def test_tasks_do_one_run_each(comparison, root, tmp_path, capsys):
    small = dataclasses.replace(
        comparison,
        contenders={"bytes": CONTENDERS["bytes"]},
        baseline="bytes",
        learning_rates=(1.0, 2.0),
        budgets=comparison.budgets[:1],
        adaptation={},
        robustness=None,
        timed_steps=0,
    )
    output = tmp_path / "out"
    assert count_tasks(small) == (2, 3)
    with pytest.raises(UserError, match=r"task 2 needs the learning rate of bytes"):
        run_comparison(small, output, root=root, task=2)
    for task in range(3):
        assert run_comparison(small, output, root=root, task=task) == 0
    with pytest.raises(UserError, match="there is no task 3; there are 3"):
        run_comparison(small, output, root=root, task=3)
    assert sum("done" in line for line in capsys.readouterr().out.splitlines()) >= 3
    report = next(output.glob("runs/*/test_report.json"))
    assert json.loads(report.read_text())["figures"]["bpb"]["value"] > 0


def test_a_directory_of_another_comparison_is_left_alone(whole, comparison, root):
    other = dataclasses.replace(comparison, shard_bytes=16)
    with pytest.raises(UserError, match="holds a run of another config"):
        run_comparison(other, whole, root=root)
