"""`--data.files` and `--data.dataset` replace the sources; empty options are errors."""

import dataclasses
import json

import pytest

from bytelm.cli.arguments import parse
from bytelm.cli.data import DescribeCommand
from bytelm.cli.main import main
from bytelm.cli.source_options import with_named_source
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, SourceConfig

MIXTURE = DataConfig(
    mixture=(
        SourceConfig(files=("a.jsonl",), held_out=0.2, text_key="body", weight=3.0),
        SourceConfig(files=("b.jsonl",), held_out=0.2, text_key="body", validation_files=("c",)),
    ),
    sequence_length=64,
)
TFDS = DataConfig(dataset="lm1b", data_dir="d", train_split="train[:9%]", text_key="feature")


def read(data, *arguments):
    default = DescribeCommand(with_named_source(data, arguments))
    return parse(DescribeCommand, arguments, "data describe", default).data


@pytest.mark.parametrize("data", [MIXTURE, TFDS, DataConfig()])
def test_files_replace_the_sources(data):
    found = read(data, "--data.files", "new.jsonl", "--data.workers", "2")
    assert found.source_configs == (found,)
    assert (found.files, found.dataset, found.mixture) == (("new.jsonl",), "python_stdlib", ())
    assert (found.train_split, found.data_dir, found.validation_files) == (None, None, ())
    assert (found.sequence_length, found.workers) == (data.sequence_length, 2)
    assert found.text_key == ("body" if data is MIXTURE else None)
    assert found.held_out == data.source_configs[0].held_out


def test_files_of_a_run_on_files_are_changed_alone():
    data = DataConfig(files=("a.jsonl",), validation_files=("b.jsonl",), text_key="body")
    found = read(data, "--data.files", "new.jsonl")
    assert found == dataclasses.replace(data, files=("new.jsonl",))


@pytest.mark.parametrize("data", [MIXTURE, DataConfig(files=("a.jsonl",), script_key="lang")])
def test_a_dataset_replaces_the_sources(data):
    found = read(data, "--data.dataset=lm1b")
    assert (found.files, found.dataset, found.mixture) == ((), "lm1b", ())
    assert (found.text_key, found.script_key) == (None, None)


def test_other_options_leave_the_sources():
    assert read(MIXTURE, "--data.sequence-length", "64") == MIXTURE
    with pytest.raises(UserError, match="two sources"):
        read(TFDS, "--data.files", "new.jsonl", "--data.dataset", "lm1b")


@pytest.mark.parametrize(
    "arguments", [[], ["--data.held-out", "0.1"], [""], ["a.txt", ""]], ids=repr
)
@pytest.mark.parametrize("option", ["--data.files", "--data.validation-files", "--data.test_files"])
def test_an_empty_shell_variable(capsys, option, arguments):
    more = [] if option == "--data.files" else ["--data.files", "a.txt"]
    assert main(["data", "describe", *more, option, *arguments]) == 2
    error = capsys.readouterr().err
    assert "shell variable" in error and error.count("\n") == 1


def test_options_replace_the_sources_of_a_preset_too(tmp_path, capsys):
    """In every command that takes a preset, as in evaluation."""
    preset = tmp_path / "mixed.py"
    preset.write_text(
        "import dataclasses\n"
        "from bytelm.data.config import DataConfig, SourceConfig\n"
        "from bytelm.training.presets import load_preset\n"
        "sources = tuple(SourceConfig(files=(name,)) for name in ('a.txt', 'b.txt'))\n"
        "base = load_preset('transformer_tiny')\n"
        "config = dataclasses.replace(base, data=DataConfig(mixture=sources))\n"
    )
    assert main(["train", str(preset), "--data.files", "new.txt", "--print-config"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["files"], data["mixture"]) == (["new.txt"], [])
    for command in (["data", "describe"], ["data", "rates"], ["tokenizer", "train"], ["profile"]):
        assert main([*command, str(preset), "--data.files", "new.txt"]) == 2
        assert "no file matches 'new.txt'" in capsys.readouterr().err
