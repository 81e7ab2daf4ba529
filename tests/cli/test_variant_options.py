"""Options choose the source and the task; empty options are errors."""

import dataclasses
import json
from dataclasses import make_dataclass

import pytest

from bytelm.cli.arguments import parse
from bytelm.cli.data import DescribeCommand
from bytelm.cli.main import main
from bytelm.cli.variant_options import choose_variants
from bytelm.core.errors import UserError
from bytelm.data.config import (
    DataConfig,
    Files,
    Mixture,
    Pairs,
    PythonLibrary,
    SpanCorruption,
    Tfds,
)
from bytelm.evaluation import Bits
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.optimizer import AdamW, Muon

MIXTURE = DataConfig(
    source=Mixture(
        sources=(
            Files(files=("a.jsonl",), held_out=0.2, text_key="body", weight=3.0),
            Files(files=("b.jsonl",), held_out=0.2, text_key="body", validation_files=("c",)),
        )
    ),
    sequence_length=64,
)
TFDS = DataConfig(
    source=Tfds(dataset="lm1b", data_dir="d", train_split="train[:9%]", text_key="feature")
)


def read(data, *arguments):
    return parse(DescribeCommand, arguments, "data describe", DescribeCommand(data)).data


@pytest.mark.parametrize("data", [MIXTURE, TFDS, DataConfig()])
def test_files_replace_the_sources(data):
    found = read(data, "--data.files", "new.jsonl", "--data.workers", "2")
    keys = {"text_key": "body", "held_out": 0.2} if data is MIXTURE else {}
    assert found == dataclasses.replace(data, source=Files(files=("new.jsonl",), **keys), workers=2)


def test_files_of_a_run_on_files_are_changed_alone():
    own = Files(files=("a.jsonl",), validation_files=("b.jsonl",), text_key="body")
    found = read(DataConfig(source=own), "--data.files", "new.jsonl")
    assert found.source == dataclasses.replace(own, files=("new.jsonl",))


@pytest.mark.parametrize(
    "data", [MIXTURE, DataConfig(source=Files(files=("a.jsonl",), script_key="lang", held_out=0.2))]
)
def test_a_dataset_replaces_the_sources(data):
    assert read(data, "--data.dataset=lm1b").source == Tfds(dataset="lm1b", held_out=0.2)
    library = read(data, "--data.dataset", "python_stdlib", "--data.script", "py").source
    assert library == PythonLibrary(script="py", held_out=0.2)


def test_a_dataset_of_a_run_on_tfds_is_changed_alone():
    assert read(TFDS, "--data.dataset", "c4").source == dataclasses.replace(
        TFDS.source, dataset="c4"
    )


def test_other_options_leave_the_sources():
    assert read(MIXTURE, "--data.sequence-length", "64") == MIXTURE
    with pytest.raises(UserError, match="two sources"):
        read(TFDS, "--data.files", "new.jsonl", "--data.dataset", "lm1b")


def test_a_task_is_chosen_with_its_options():
    found = read(DataConfig(), "--data.task", "span_corruption", "--data.mean-span", "9")
    assert found.task == SpanCorruption(mean_span=9.0)
    again = read(DataConfig(task=SpanCorruption(mean_span=9.0)), "--data.task=span_corruption")
    assert again.task == SpanCorruption(mean_span=9.0)
    pairs = ["--data.target-key", "fix", "--data.task", "pairs", "--data.files", "a.jsonl"]
    assert read(DataConfig(), *pairs) == DataConfig(
        source=Files(files=("a.jsonl",), target_key="fix"), task=Pairs()
    )
    with pytest.raises(UserError, match="reads an input and a target from each JSON line"):
        read(DataConfig(), "--data.task", "pairs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data.task", "span"],
            "data.task is 'span'; this version of bytelm has .*span_corruption",
        ),
        (["--data.task"], "--data.task needs a name after it"),
        (["--data.source", "files"], "choose a source with --data.files or --data.dataset"),
        (["--data.mean-span", "3"], "option of span_corruption, and data.task is next_byte; add "),
        (
            ["--data.train-split", "x"],
            "option of hugging_face and tfds, and data.source is python_.* --data.dataset",
        ),
        (["--data.text-key", "x"], "option of files and hugging.*, and .*; add --data.files"),
    ],
)
def test_what_cannot_be_chosen(arguments, message):
    with pytest.raises(UserError, match=message):
        read(DataConfig(), *arguments)


@pytest.mark.parametrize("option", ["--model.draft", "--model.draft.heads"])
def test_what_most_families_have_and_one_has_not(option):
    config = ExperimentConfig(model=ByT5Config())
    told = rf"model byt5 has no --model\.draft; leave {option} out, or choose another --model"
    with pytest.raises(UserError, match=told):
        choose_variants(config, [option, "4"])


def test_another_optimiser_keeps_what_all_have():
    config = ExperimentConfig(TransformerConfig(), optimizer=Muon(learning_rate=0.5, momentum=0.9))
    chosen, _ = choose_variants(config, ["--optimizer", "adamw"])
    assert chosen.optimizer == AdamW(learning_rate=0.5)


def test_the_help_names_the_options_of_the_variants(capsys):
    for arguments, option in (([], "--data.read"), (["--data.task", "pairs"], "target-length")):
        with pytest.raises(SystemExit):
            read(DataConfig(), *arguments, "--help")
        printed = capsys.readouterr().out
        assert option in printed and "--data.files FILE... or --data.dataset NAME" in printed
        assert "--data.task NAME chooses one of contextual_vowel_removal" in printed


def test_a_field_of_one_variant_chooses_nothing(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    printed = capsys.readouterr().out
    assert "--bits.no-compressors" in printed and "--data.task NAME chooses" in printed
    assert "--bits NAME" not in printed
    command = make_dataclass("Command", [("bits", Bits, Bits())])()
    arguments = ["--bits", "robustness", "--bits.covers", "3"]
    assert choose_variants(command, arguments) == (command, arguments)  # the parser refuses them


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
        "from bytelm.data.config import DataConfig, Files, Mixture\n"
        "from bytelm.training.presets import load_preset\n"
        "sources = tuple(Files(files=(name,)) for name in ('a.txt', 'b.txt'))\n"
        "base = load_preset('transformer_tiny')\n"
        "config = dataclasses.replace(base, data=DataConfig(Mixture(sources)))\n"
    )
    assert main(["train", str(preset), "--data.files", "new.txt", "--print-config"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["source"]["kind"], data["source"]["files"]) == ("files", ["new.txt"])
    for command in (["data", "describe"], ["data", "rates"], ["tokenizer", "train"], ["profile"]):
        assert main([*command, str(preset), "--data.files", "new.txt"]) == 2
        assert "no file matches 'new.txt'" in capsys.readouterr().err
