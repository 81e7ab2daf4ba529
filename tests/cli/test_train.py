"""Training from the command line, and what can be wrong before it begins."""

import json
from pathlib import Path

import pytest

from bytelm.cli.main import main
from bytelm.training.run_directory import lock
from tests.cli.running import fails, train


def test_unknown_preset(capsys):
    error = fails(capsys, "train", "transformer_tny")
    assert "no preset 'transformer_tny' (did you mean transformer_tiny" in error


def test_missing_preset(capsys):
    assert "name a preset or the path" in fails(capsys, "train", "--train.steps", "3")


def test_missing_config_file(capsys):
    assert "no config file mine.py" in fails(capsys, "train", "mine.py")


def test_fields_that_contradict_each_other(capsys):
    error = fails(capsys, "train", "transformer_tiny", "--model.width", "100")
    assert "model.width 100 is no multiple of model.head_width 64" in error


def test_print_config_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(train("--print-config")) == 0
    assert json.loads(capsys.readouterr().out)["model"]["width"] == 16
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mesh.data", "3", "--mesh.fsdp", "4"], "needs 12 devices and there are 8"),
        (["--mesh.data", "3"], "cannot be divided by the 3 batch shards"),
        (["--train.accumulation", "3"], "times train.accumulation 3"),
        (["--data.files", "nothing*.txt"], "no file matches 'nothing*.txt'"),
        (["--data.files"], "no file"),
        (["--data.dataset", "wiki41b"], "wiki40b"),
    ],
)
def test_what_cannot_run(capsys, tmp_path, lines, options, sentence):
    run_dir = tmp_path / "run"
    files = [] if options[0].startswith("--data") else ["--data.files", str(lines)]
    if options == ["--data.files"]:
        (tmp_path / "empty.txt").touch()
        options, sentence = ["--data.files", str(tmp_path / "empty.txt")], "empty"
    error = fails(capsys, *train(*files, *options, "--run-dir", str(run_dir)))
    assert sentence in error
    assert not run_dir.exists()


def test_broken_json_line_is_named_or_skipped(capsys, tmp_path, lines):
    with lines.open("a") as file:
        file.write('{"text": "torn\n')
    options = train("--data.files", str(lines), "--run-dir", str(tmp_path / "run"))
    error = fails(capsys, *options)
    assert "lines.jsonl" in error and "41" in error and "skip-bad" in error.replace("_", "-")
    assert main([*options, "--data.skip-bad"]) == 0


def test_missing_key_is_named(capsys, tmp_path, lines):
    options = ["--data.files", str(lines), "--data.text-key", "body"]
    error = fails(capsys, *train(*options, "--run-dir", str(tmp_path / "run")))
    assert "body" in error and "lines.jsonl" in error


def test_train_evaluate_generate(capsys, tmp_path, lines):
    run = str(tmp_path / "run")
    assert main(train("--data.files", str(lines), "--run-dir", run)) == 0
    assert f"checkpoint of step 2 in {run}" in capsys.readouterr().out

    assert "already holds a run" in fails(
        capsys, *train("--data.files", str(lines), "--run-dir", run)
    )
    assert "train.seed: 0 -> 1" in fails(
        capsys,
        *train("--data.files", str(lines), "--run-dir", run, "--resume", "--train.seed", "1"),
    )
    with lock(Path(run)):
        error = fails(capsys, "train", "--run-dir", run, "--resume")
        assert f"run directory {run} is in use by process" in error
    assert main(["train", "--run-dir", run, "--resume"]) == 0

    assert main(["eval", "--checkpoint", run]) == 0
    (report,) = Path(run).glob("eval_*.json")
    content = json.loads(report.read_text())
    bits, figures = content["details"]["bits"], content["figures"]
    assert 0 < figures["bpb"]["value"] < 9
    assert bits["bytes"] > 0 and figures["gzip_bpb"]["value"] > 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "validation of lines.jsonl" in shown
    assert content["text"]["trained_on_bytes"] == 0
    options = [
        "--data.sequence-length",
        "12",
        "--data.held-out",
        "0.4",
        "--output",
        f"{run}/a.json",
    ]
    assert main(["eval", "--checkpoint", run, *options]) == 0
    assert (
        json.loads(Path(run, "a.json").read_text())["details"]["bits"]["documents"]
        == bits["documents"]
    )
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "the run has not read this"}\n' * 40)
    assert main(["eval", "--checkpoint", run, "--data.files", str(other)]) == 0
    (report,) = Path(run).glob("eval_step_2_other.jsonl-all_*.json")
    assert json.loads(report.read_text())["details"]["bits"]["documents"] == 40

    capsys.readouterr()
    command = ["generate", "--checkpoint", run, "--prompt", "line", "--max-bytes", "99"]
    # Long enough for drafts: the first chunks measure the model without any.
    with pytest.warns(UserWarning, match="trained on rows of 16"):
        assert main(command) == 0
        text = capsys.readouterr().out
        assert main([*command, "--draft-checkpoint", run, "--draft-length", "2"]) == 0
    assert text.startswith("line") and capsys.readouterr().out == text
    assert "no checkpoint of step 7" in fails(capsys, "eval", "--checkpoint", run, "--step", "7")
    assert "the model is flat" in fails(capsys, "segment", "--checkpoint", run, "--text", "a")
    error = fails(capsys, "generate", "--checkpoint", run, "--max-bytes", "4", "--top-p", "2")
    assert "top-p is 2" in error.replace("_", "-")


def test_dry_run_and_budget(capsys, tmp_path, lines, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    command = [
        "train",
        "transformer_tiny",
        "--data.batch-size",
        "8",
        "--data.files",
        str(lines),
    ]
    command += ["--data.held-out", "0.2", "--train.budget", "1e6 bytes"]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "(for 1e6 bytes)" in out and str(Path("runs/transformer_tiny")) in out
    assert not list(folder.iterdir())
    error = fails(capsys, *command, "--train.steps", "3")
    assert "train.steps is 3 and train.budget '1e6 bytes'; give one of them" in error
    assert not list(folder.iterdir())
