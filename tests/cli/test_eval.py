"""Evaluations from the command line: where reports go, and which suites fit."""

import contextlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bytelm.cli.eval import _names as names_of_suite
from bytelm.cli.main import main
from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig
from tests.cli.running import fails, train

LOADED = SimpleNamespace(config=ExperimentConfig(TransformerConfig(), DataConfig()))


def test_eval_needs_a_checkpoint(capsys):
    assert "--checkpoint RUN" in fails(capsys, "eval")


def test_evaluations_are_kept_and_checked_before_the_work(capsys, tmp_path, lines, monkeypatch):
    run = tmp_path / "run"
    options = ("--data.files", str(lines), "--train.validate-every", "1")
    assert main(train(*options, "--run-dir", str(run))) == 0
    shown = capsys.readouterr().out
    assert f"bytelm eval --checkpoint {run}\n" in shown and "def " not in shown
    checkpoint = ("eval", "--checkpoint", str(run))
    for settings in ((), (), ("--stride", "3"), ("--max-bytes", "30"), ("--step", "best")):
        assert main((*checkpoint, *settings)) == 0
    names = sorted(path.name for path in run.glob("eval_*.json"))
    steps = {json.loads((run / name).read_text())["checkpoint"]["step"] for name in names}
    assert len(names) == 5 and 2 in steps
    assert "eval_step_2_validation-2.json" in names
    assert "eval_step_2_validation_stride-3.json" in names

    on_mesh = tmp_path / "mesh.json"
    mesh = ("--mesh.data", "2", "--mesh.sequence", "4", "--output", str(on_mesh))
    assert main((*checkpoint, "--max-bytes", "30", *mesh)) == 0
    first = run / "eval_step_2_validation_max-bytes-30.json"
    one, other = (json.loads(path.read_text())["figures"]["bpb"] for path in (first, on_mesh))
    assert one["value"] == pytest.approx(other["value"], rel=1e-5)
    error = fails(capsys, *checkpoint, "--mesh.sequence", "16", "--mesh.data", "1")
    assert "needs 16 devices and there are 8" in error

    mine = tmp_path / "mine.json"
    mine.write_text("mine")
    monkeypatch.setattr("bytelm.cli.eval.load", lambda *_: pytest.fail("the work was begun"))
    for output in (mine, tmp_path, tmp_path / "missing/x.json"):
        error = fails(capsys, *checkpoint, "--output", str(output))
        assert any(text in error for text in ("exists already", "is a directory", "no directory"))
    assert mine.read_text() == "mine"
    assert "--step is 'last'; it must be a whole number, best or None" in fails(
        capsys, *checkpoint, "--step", "last"
    )


def test_an_evaluation_that_cannot_be_shown_is_kept(tmp_path, lines, monkeypatch):
    run = tmp_path / "run"
    assert main(train("--data.files", str(lines), "--run-dir", str(run))) == 0
    with (
        contextlib.suppress(OSError),  # of closing it
        open("/dev/full", "w", buffering=1) as full,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", full)
        assert main(("eval", "--checkpoint", str(run))) == 2
    assert (run / "eval_step_2_validation.json").is_file()


def test_a_run_that_is_read_only_is_evaluated_and_printed(capsys, tmp_path, lines, monkeypatch):
    run = tmp_path / "run"
    assert main(train("--data.files", str(lines), "--run-dir", str(run))) == 0
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run)
    with pytest.warns(UserWarning, match="name a file for it with --output"):
        assert main(["eval", "--checkpoint", str(run)]) == 0
    assert "bpb_with_end" in capsys.readouterr().out and not list(run.glob("eval_*"))


def test_tasks_of_the_harness_have_short_names(monkeypatch):
    seen = []
    monkeypatch.setattr("bytelm.cli.eval.load", lambda *_, **__: LOADED)
    monkeypatch.setattr(
        "bytelm.cli.eval._evaluate", lambda loaded, command, keep: seen.append(command)
    )
    command = ("eval", "--checkpoint", "run", "--harness", "a", "b", "--harness-path=tasks")
    assert main(command) == 0 and main((*command, "--suite", "bits")) == 0
    assert seen[0].harness.tasks == ("a", "b") and seen[0].harness.path == "tasks"
    assert [names_of_suite(each) for each in seen] == [("harness",), ("bits", "harness")]


def test_a_suite_is_listed_chosen_and_refused(capsys, tmp_path, lines):
    assert main(["eval", "--suite", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("bits", "marginal", "robustness", "targets"))
    run = tmp_path / "run"
    assert main(train("--data.files", str(lines), "--run-dir", str(run))) == 0
    capsys.readouterr()
    evaluate = ("eval", "--checkpoint", str(run), "--max-bytes", "60", "--suite")
    assert "marginal needs a subword model" in fails(capsys, *evaluate, "bits", "marginal")
    assert "segmentation needs a model with patches" in fails(capsys, *evaluate, "segmentation")
    assert "targets needs a model with an encoder" in fails(capsys, *evaluate, "targets")
    assert "did you mean robustness" in fails(capsys, *evaluate, "robustnes")
    error = fails(capsys, *evaluate, "robustness", "--robustness.knds", "case")
    assert "no option --robustness.knds (did you mean --robustness.kinds?)" in error
    assert "is now `--suite bits marginal`" in fails(capsys, "eval", "--byte-marginal")
    noise = ("--robustness.kinds", "case", "delete", "--robustness.rates", "0.5")
    assert main((*evaluate, "bits,robustness", *noise)) == 0
    (report,) = run.glob("eval_step_2_validation_suite-bits-robustness_*.json")
    assert "robustness.kinds-case-delete" in report.name
    figures = json.loads(report.read_text())["figures"]
    assert figures["perturbed/none/0/bpb"]["value"] == figures["bpb"]["value"]
    assert "perturbed/case/0.5/accuracy" in figures and "gzip_bpb" in figures
    assert report.with_suffix(".html").read_text().startswith("<!DOCTYPE html>")
    error = fails(capsys, *evaluate, "bits", "--output", str(tmp_path / "x.html"))
    assert "name the JSON report" in error
