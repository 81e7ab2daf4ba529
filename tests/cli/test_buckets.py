"""Commands whose runs and output lie at an address of a store in memory."""

import json

import fsspec
import pytest

from bytelm.cli.main import main
from bytelm.core.places import objects, place
from tests.cli.running import TINY, fails, train


@pytest.fixture(autouse=True)
def store():
    yield
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_train_resume_evaluate_and_collect(capsys, lines):
    run = "memory://bucket/runs/first"
    options = [word for word in TINY if word != "--train.no-tensorboard"]
    options += ["--data.files", str(lines), "--run-dir", run]
    command = ["train", "transformer_tiny", *options]
    assert main(command) == 0
    assert f"checkpoint of step 2 in {run}" in capsys.readouterr().out
    assert "already holds a run" in fails(capsys, *command)
    more = ["--run-dir", run, "--resume", "--allow-config-change", "--train.steps", "3"]
    assert main(["train", *more]) == 0
    found = objects(place(run))
    assert {"config.json", "run.json", "metrics.jsonl", "text_record.npz"} <= {*found}
    assert ".lock" not in found
    assert any(name.startswith("tensorboard/") for name in found)
    records = (place(run) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(records[-1])["step"] == 3

    assert main(["eval", "--checkpoint", run, "--max-bytes", "40"]) == 0
    assert "report: memory://bucket/runs/first/eval_step_3" in capsys.readouterr().out
    assert main(["generate", "--checkpoint", run, "--max-bytes", "4", "--prompt", "a"]) == 0
    folder = "memory://bucket/exported"
    assert main(["convert", "--checkpoint", run, "--to-safetensors", folder]) == 0
    assert main(["eval", "--checkpoint", folder, "--max-bytes", "40"]) == 0
    table = "memory://bucket/table.md"
    assert main(["results", "memory://bucket/runs", "--output", table]) == 0
    assert "first" in place(table).read_text()
    capsys.readouterr()
    assert main(["runs", "memory://bucket/runs"]) == 0
    assert "done" in capsys.readouterr().out


def test_addresses_that_cannot_be_used(capsys, lines):
    assert "no addresses that begin with s4://" in fails(
        capsys, *train("--data.files", str(lines), "--run-dir", "s4://bucket/run")
    )
    assert "two slashes" in fails(capsys, "eval", "--checkpoint", "s3:/bucket/run")
    assert "--trace-dir: memory://trace is an address" in fails(
        capsys, "profile", "transformer_tiny", "--trace-dir", "memory://trace"
    )
    assert "memory://nothing is no run directory" in fails(
        capsys, "eval", "--checkpoint", "memory://nothing"
    )
