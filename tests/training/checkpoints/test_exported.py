"""Models of all families as folders of safetensors: there and back, whole, and checked."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import bytelm
from bytelm.cli.main import main
from bytelm.core.config_json import files_needed
from bytelm.core.errors import UserError
from bytelm.data.carried import carry
from bytelm.data.config import DataConfig, Files, NextByte
from bytelm.patching import rules
from bytelm.patching.segmenter import RulePatches
from bytelm.tokenizers.tokenizer import load_tokenizer
from bytelm.training.checkpoints.checkpoint import SavedModel, load_model, save_model
from bytelm.training.checkpoints.exported import (
    ABOUT,
    INDEX,
    WEIGHTS,
    export,
    load_exported,
    model_card,
)
from bytelm.training.experiment import ExperimentConfig, load_json
from bytelm.training.metrics.record import LoopState
from tests.models.compiled import split_model
from tests.models.families import FAMILIES
from tests.models.tiny_t5 import BYT5, write_folder

KNOWN = LoopState(bytes=12_345, flops=6.02e23, last_validation=1.23456, validated_step=7)


def model(name: str, loop: LoopState | None = None) -> SavedModel:
    config = ExperimentConfig(
        model=FAMILIES[name], data=DataConfig(source=Files(files=("/home/me/text.txt",)))
    )
    return SavedModel(config, 7, *split_model(FAMILIES[name]), {"command": ["train"]}, loop)


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


@pytest.fixture
def folder(tmp_path) -> Path:
    export(model("spacebyte", KNOWN), tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        bytelm.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_gives_the_same_bits(name, tmp_path):
    saved = model(name, KNOWN)
    export(saved, tmp_path / "model")
    found = load_model(tmp_path / "model")
    assert (found.config, found.step, found.provenance) == (saved.config, 7, saved.provenance)
    assert found.loop.saved() == KNOWN.saved()
    assert_same(found.params, saved.params)


def test_shards(tmp_path):
    saved = model("spacebyte")
    export(saved, tmp_path / "model", shard_bytes=5000)
    files = sorted(path.name for path in (tmp_path / "model").glob("model-*"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    for file in files:
        arrays = load_file(tmp_path / "model" / file).values()
        assert len(arrays) == 1 or sum(x.nbytes for x in arrays) <= 5000
    assert_same(load_model(tmp_path / "model").params, saved.params)
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1
    (tmp_path / "model" / files[2]).unlink()
    assert f"{files[2]} cannot be read" in refused(tmp_path / "model")
    (tmp_path / "model" / INDEX).write_text('{"weight_map": {"x": "../../etc/passwd"}}')
    assert "is not an index" in refused(tmp_path / "model")


def test_the_card_says_what_it_is(folder):
    card = (folder / "README.md").read_text()
    for said in (
        "family `spacebyte`, trained with bytelm",
        "| Training data | text.txt |",
        "| Bytes seen in training | 12,345 |",
        "| FLOPs of training | 6.02e+23 |",
        "| Bits per byte, validation in training | 1.2346, after step 7 |",
        'bytelm.load("model")',
    ):
        assert said in card
    assert "/home/me" not in card
    assert load_json(folder / "config.json").model == FAMILIES["spacebyte"]


def test_the_card_says_which_code_the_model_needs():
    rules.rule("mine", marks="start")(lambda symbols: symbols[0] == 32)
    try:
        saved = model("spacebyte")
        own = replace(saved.config.model, segmenter=RulePatches("mine"))
        config = replace(saved.config, model=own)
        assert files_needed(config) == [__file__] and not files_needed(saved.config)
        card = model_card(replace(saved, config=config), "name")
        assert "not part of bytelm: `test_exported.py`." in card and "--import FILE" in card
    finally:
        del rules.RULES["mine"]


def test_reading_a_run_logs_nothing(tmp_path, caplog):
    saved = model("transformer")
    save_model(tmp_path / "run", saved.config, saved.params, {})
    caplog.set_level(logging.WARNING, logger="absl")
    bytelm.load(tmp_path / "run")
    assert not caplog.records
    assert logging.getLogger("absl").level == logging.WARNING


def test_a_folder_that_holds_files_is_left_alone(folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="exists and holds files"):
        export(model("hat"), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bytelm.training.checkpoints.tensor_files.save_file", full)
    with pytest.raises(UserError, match=r"could not be written.*No space left"):
        export(model("hat"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_parameter_is_named(folder):
    weights = load_file(folder / WEIGHTS)
    name = sorted(weights)[3]
    weights[name].flat[0] += 1
    save_file(weights, folder / WEIGHTS)
    assert f"params/{name.replace('.', '/')} differ from the digests" in refused(folder)
    bytelm.load(folder, verify=False)


def test_parameters_that_are_not_the_models(folder):
    weights = load_file(folder / WEIGHTS)
    name, value = weights.popitem()
    save_file(weights, folder / WEIGHTS)
    assert f"{name} is missing" in refused(folder)
    save_file({**weights, name: value[..., :1].copy()}, folder / WEIGHTS)
    assert f"{name} has the shape" in refused(folder)
    save_file({**weights, name: value, "more": value}, folder / WEIGHTS)
    assert "more is no parameter of the model" in refused(folder)


def test_whatever_is_damaged_right_values_or_a_sentence(folder, tmp_path):
    good, rng = load_exported(folder), np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        for _ in range(6):
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            content = bytearray(path.read_bytes())
            place = rng.integers(len(content))
            if rng.integers(2):
                content[place] ^= 1 << rng.integers(8)
            else:
                content = content[:place]
            (copy / path.name).write_bytes(content)
            try:
                found = load_model(copy)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert_same(found.params, good.params)
                assert (found.config, found.provenance) == (good.config, good.provenance)
            shutil.rmtree(copy)


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"step": 1, "provenance": 2}'])
@pytest.mark.parametrize("file", [ABOUT, "config.json"])
def test_json_of_another_shape(folder, file, content):
    (folder / file).write_text(content)
    refused(folder)


def test_from_python_with_a_tokenizer(tmp_path, monkeypatch):
    family = "transformer of many tokens, tied, gelu, scanned and rematerialised"
    tokenizer = bpe(tmp_path)
    config = ExperimentConfig(FAMILIES[family], DataConfig(task=NextByte(tokenizer=str(tokenizer))))
    save_model(tmp_path / "run", config, split_model(FAMILIES[family])[1], {})
    carry(tmp_path / "run", load_tokenizer(tokenizer), None)
    loaded = bytelm.load(tmp_path / "run")
    loaded.save(tmp_path / "model")
    again = bytelm.load(str(tmp_path / "model"))
    assert again.tokenizer.content == loaded.tokenizer.content
    assert_same(again.params, loaded.params)
    again.save(tmp_path / "model-2")
    assert_same(bytelm.load(tmp_path / "model-2").params, loaded.params)

    for place in ("run", "model"):
        path = tmp_path / place / "tokenizer.json"
        path.write_text(path.read_text() + " ")
        assert "tokenizer.json is damaged" in refused(tmp_path / place)


def bpe(folder: Path) -> Path:
    """The smallest tokenizer: its tokens are the bytes."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(folder / "bpe.json"))
    return folder / "bpe.json"


def test_half_precision(tmp_path):
    save_model(tmp_path / "run", model("hat").config, split_model(FAMILIES["hat"])[1], {})
    rounded = bytelm.load(tmp_path / "run", weights="bfloat16")
    rounded.save(tmp_path / "model")
    assert "bfloat16" in {str(x.dtype) for x in load_file(tmp_path / "model" / WEIGHTS).values()}
    assert_same(bytelm.load(tmp_path / "model", weights="bfloat16").params, rounded.params)


def test_the_command(tmp_path, capsys):
    source = write_folder(tmp_path / "hf", BYT5)
    run, folder = str(tmp_path / "run"), str(tmp_path / "model")
    assert main(["convert", "--from-hf", str(source), "--output", run]) == 0
    assert main(["convert", "--to-safetensors", folder, "--checkpoint", run, "--step", "0"]) == 0
    assert f"model card in {folder}" in capsys.readouterr().out
    found = bytelm.load(folder)
    assert_same(found.params, bytelm.load(run).params)
    with pytest.raises(UserError, match="no checkpoint of step 3; it has 0"):
        bytelm.load(folder, 3)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "`byt5`, converted with bytelm" in card and "Converted from" in card
    assert "Training data" not in card
