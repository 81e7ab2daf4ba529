"""The header of a run."""

import dataclasses
import json

import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.checkpoints.checkpoint import save_model
from bytelm.training.cost import header, run_facts, step_flops
from bytelm.training.experiment import ExperimentConfig, TrainConfig, to_json
from bytelm.training.loop import dry_run
from bytelm.training.program import build_program
from bytelm.training.validation import Validation
from tests.models.families import split_model


@pytest.fixture
def config(tmp_path) -> ExperimentConfig:
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"{n:030}"}) + "\n" for n in range(100))
    )
    return ExperimentConfig(
        TransformerConfig(width=8, depth=1, head_width=8),
        DataConfig(
            source=Files(files=(str(tmp_path / "text.jsonl"),), held_out=0.1),
            sequence_length=32,
            batch_size=8,
            cache_dir=str(tmp_path / "cache"),
        ),
        mesh=MeshConfig(data=2, fsdp=2),
        train=TrainConfig(steps=30, validation_rows=2),
    )


def described(config: ExperimentConfig, tmp_path):
    mesh = config.mesh.build()
    program = build_program(config, mesh)
    data = OpenData(config.data)
    validation = Validation(config, data, program, mesh)
    facts = run_facts(config, data, mesh)
    return facts, header(facts, validation.text, tmp_path / "run")


def test_facts_and_header(config, tmp_path):
    facts, shown = described(config, tmp_path)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["family"], facts["dtype"]) == ("transformer", "float32")
    assert facts["parameters"] > facts["parameters_without_embeddings"] > 0
    assert facts["parameters"] - facts["parameters_without_embeddings"] == 8 * (259 + 257)
    assert facts["flops"] == 30 * step_flops(config)
    assert facts["bytes_per_step"] == pytest.approx(240, abs=8)
    assert facts["flops_per_byte"] == step_flops(config) / facts["bytes_per_step"]
    assert facts["epochs"] == pytest.approx(30 * 240 / facts["text_bytes"], rel=0.05)
    for part in ("30 of 8 rows of 32 bytes", "data 2, fsdp 2, tensor 1", "kB of text.jsonl"):
        assert part in shown
    assert str(tmp_path / "run") in shown


def test_devices_that_stay_idle_are_named(config, tmp_path):
    facts, shown = described(config, tmp_path)
    assert facts["idle_devices"] == 4
    assert "warning: 4 of 8 devices stay idle" in shown
    whole = dataclasses.replace(config, mesh=MeshConfig())
    assert "stay idle" not in described(whole, tmp_path)[1]


def test_a_dry_run_shows_it_and_writes_nothing(config, tmp_path, capsys):
    train = dataclasses.replace(config.train, budget="2 epochs")
    dry_run(dataclasses.replace(config, train=train), tmp_path / "run")
    out = capsys.readouterr().out
    assert "(for 2 epochs) of 8 rows" in out and " epochs\n" in out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reads_what_the_run_carries(config, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(to_json(config))
    with pytest.raises(UserError, match="already holds a run"):
        dry_run(config, run)
    dry_run(config, run, resume=True)
    assert "30 of 8 rows of 32 bytes" in capsys.readouterr().out
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_a_dry_run_checks_the_run_that_it_would_start_from(config, tmp_path):
    other = tmp_path / "other"
    save_model(other, config, split_model(config.model)[1], {})
    train = dataclasses.replace(config.train, initial=str(other))
    dry_run(dataclasses.replace(config, train=train), tmp_path / "run")
    wider = dataclasses.replace(config.model, width=16)
    with pytest.raises(UserError, match="choose the sizes that it was trained with"):
        dry_run(dataclasses.replace(config, train=train, model=wider), tmp_path / "run")
