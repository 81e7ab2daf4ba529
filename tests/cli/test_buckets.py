"""Commands whose runs and output lie at an address of a store in memory."""

import importlib
import json
import pkgutil
import re
import typing
from pathlib import Path

import fsspec
import pytest
import tyro

import bytelm.cli
from bytelm.cli.main import main
from bytelm.cli.options import Addressable, options_of
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
    report = ["--output", "memory://bucket/report.json"]
    assert main(["eval", "--checkpoint", folder, "--max-bytes", "40", *report]) == 0
    assert place("memory://bucket/report.html").exists()
    table = "memory://bucket/table.md"
    assert main(["results", "memory://bucket/runs", "--output", table]) == 0
    assert "first" in place(table).read_text()
    capsys.readouterr()
    assert main(["runs", "memory://bucket/runs"]) == 0
    assert "done" in capsys.readouterr().out


def options_with_paths() -> dict[str, tuple[set[str], set[str]]]:
    """By command, its options that take addresses, and those that take paths of this machine."""
    found = {}
    for module in pkgutil.iter_modules(bytelm.cli.__path__):
        members = vars(importlib.import_module(f"bytelm.cli.{module.name}"))
        for name, kind in members.items():
            if not name.endswith("Command") or kind.__module__ != f"bytelm.cli.{module.name}":
                continue
            word = name.removesuffix("Command").lower()
            free, bound = set(), set()
            for option in options_of(kind):
                kinds = (option.hint, *typing.get_args(option.hint))
                if Path not in [getattr(kind, "__origin__", kind) for kind in kinds]:
                    continue
                is_free = any(isinstance(extra, Addressable) for extra in option.extras)
                is_word = tyro.conf.Positional in option.extras
                shown = option.field.upper() if is_word else option.name
                (free if is_free else bound).add(shown)
            if free | bound:
                groups = {"data": "data ", "tokenizer": "tokenizer "}
                group = groups.get(module.name, "")
                found[f"{group}{'train' if word == 'tokenizer' else word}"] = free, bound
    return found


def test_the_page_tells_which_options_take_addresses():
    page = (Path(__file__).parents[2] / "docs/how_to/buckets.md").read_text()
    rows = re.findall(r"^\| `([a-z ]+)` \|(.*?)\|(.*?)\|$", page, re.M)
    told = {row[0]: tuple({*re.findall("`(.+?)`", cell)} for cell in row[1:]) for row in rows}
    assert told == options_with_paths()


def test_addresses_that_cannot_be_used(capsys, lines):
    assert "no addresses that begin with s4://" in fails(
        capsys, *train("--data.files", str(lines), "--run-dir", "s4://bucket/run")
    )
    assert "two slashes" in fails(capsys, "eval", "--checkpoint", "s3:/bucket/run")
    assert "--trace-dir: memory://trace is an address" in fails(
        capsys, "profile", "transformer_tiny", "--trace-dir", "memory://trace"
    )
    prompts = ["--prompts", "memory://prompts", "--output", "memory://texts"]
    assert "--output: memory://texts is an address; name a path of this machine" in fails(
        capsys, "generate", "--checkpoint", "memory://nothing", *prompts
    )
    assert "memory://nothing is no run directory" in fails(
        capsys, "eval", "--checkpoint", "memory://nothing"
    )
