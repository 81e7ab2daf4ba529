"""A family of the user's own: it trains from a file, and is loaded when that is named."""

import json
import sys

import pytest

from bytelm.cli.main import main
from bytelm.core.config_json import differences, from_dict
from bytelm.core.errors import UserError
from bytelm.core.user_code import import_user_code
from bytelm.models import ModelConfig
from bytelm.training.checkpoints.checkpoint import load_model

FAMILY = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from flax import nnx

from bytelm.models import Batch, LanguageModel, ModelConfig, ModelOutput
from bytelm.core.vocabulary import OUTPUT_SIZE


class Bigram(LanguageModel):
    def __init__(self, *, rngs: nnx.Rngs):
        self.table = nnx.Param(
            0.1 * jax.random.normal(rngs.params(), (259, OUTPUT_SIZE)), role="embedding"
        )

    def __call__(self, batch: Batch) -> ModelOutput:
        return ModelOutput(self.table[...][batch.ids])


@dataclass(frozen=True)
class BigramConfig(ModelConfig):
    family: ClassVar[str] = "bigram_of_test"
    order: int = 2

    def build(self, rngs: nnx.Rngs) -> Bigram:
        return Bigram(rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        return 0.0
"""
PRESET = """
from pathlib import Path

from bigram_module_of_test import BigramConfig

from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.data.config import DataConfig, Files
from bytelm.nn.mesh import MeshConfig

config = ExperimentConfig(
    BigramConfig(order=2.0),
    DataConfig(
        Files(files=[Path(__file__).parent / "text.jsonl"], held_out=0.3), sequence_length=16.0
    ),
    mesh=MeshConfig(data=1),
    train=TrainConfig(steps=2, validate_every=1e3, validation_rows=4, tensorboard=False),
)
"""


def forget():
    """What a new process would not know."""
    ModelConfig.variants.pop("bigram_of_test", None)
    sys.modules.pop("bigram_module_of_test", None)


@pytest.fixture
def folder(tmp_path):
    lines = (json.dumps({"text": f"line {i}"}) + "\n" for i in range(30))
    (tmp_path / "text.jsonl").write_text("".join(lines))
    (tmp_path / "bigram_module_of_test.py").write_text(FAMILY)
    (tmp_path / "preset.py").write_text(PRESET)
    yield tmp_path
    forget()


def test_a_family_of_ones_own_trains_and_is_loaded_when_it_is_named(folder, capsys):
    preset, family = str(folder / "preset.py"), str(folder / "bigram_module_of_test.py")
    run = str(folder / "run")
    assert main(["train", preset, "--run-dir", run]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"evaluate: bytelm eval --checkpoint {run} --import {family}" in told
    assert "the family bigram_of_test has no extend and no init_state, so there will be no" in told
    saved = json.loads((folder / "run" / "config.json").read_text())
    assert saved["model"] == {
        "family": "bigram_of_test",
        "defined_in": family,
        "compute_dtype": "auto",
        "order": 2,
    }

    forget()
    for command in (
        ["eval", "--checkpoint", run],
        ["train", "--run-dir", run, "--resume"],
        ["generate", "--checkpoint", run],
        ["segment", "--checkpoint", run, "--text", "a"],
        ["convert", "--to-hf", str(folder / "hf"), "--checkpoint", run],
    ):
        assert main(command) == 2
        assert f"defined in {family}: add --import {family}" in capsys.readouterr().err
        assert "bigram_of_test" not in ModelConfig.variants  # nothing was imported unasked
    with pytest.raises(UserError, match="import it before loading"):
        load_model(folder / "run")

    named = ["--import", family]
    assert main(["eval", "--checkpoint", run, *named]) == 0
    assert main(["train", "--run-dir", run, "--resume", f"--import={family}"]) == 0
    assert main(["generate", "--checkpoint", run, "--max-bytes", "3", *named]) == 2
    assert "Bigram cannot write text: it has no extend" in capsys.readouterr().err


def test_a_file_may_be_moved(folder):
    import_user_code(str(folder / "bigram_module_of_test.py"))
    saved = {"family": "bigram_of_test", "defined_in": "/elsewhere.py", "compute_dtype": "auto"}
    config = from_dict({**saved, "order": 3}, ModelConfig)
    assert config.order == 3
    assert differences({"model": saved}, {"model": {**saved, "defined_in": "/x.py"}}) == []


def test_a_family_within_a_package_is_imported_as_its_module(folder):
    package = folder / "package_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(FAMILY)
    (package / "family.py").write_text("from .base import BigramConfig")
    import_user_code(str(package / "family.py"))
    assert ModelConfig.variants["bigram_of_test"].__module__ == "package_of_test.base"


def test_a_name_is_taken_once(folder):
    other = folder / "other.py"
    other.write_text(FAMILY.replace("bigram_of_test", "transformer"))
    with pytest.raises(
        UserError, match=r"itself 'transformer', and so does .*Transformer.*another"
    ):
        import_user_code(str(other))
    import_user_code(str(folder / "bigram_module_of_test.py"))
    import_user_code(str(folder / "bigram_module_of_test.py"))  # the same again is no clash


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "there is no such file"),
        ("no_module_of_this_name", "ModuleNotFoundError"),
        ("", "--import needs the name"),
    ],
)
def test_what_cannot_be_imported_is_named(capsys, name, message):
    assert main(["train", "transformer_tiny", "--print-config", "--import", name]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_family_is_named_with_its_like():
    with pytest.raises(UserError, match=r"'transfomer' \(did you mean transformer\?\)"):
        from_dict({"family": "transfomer"}, ModelConfig)
