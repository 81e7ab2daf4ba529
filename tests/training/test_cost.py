"""Budgets of text and work, the steps that follow from them, and the header of a run."""

import dataclasses
import json

import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, VowelRemoval
from bytelm.data.open_data import OpenData
from bytelm.models.draft import LinearDraft
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.checkpoints.checkpoint import save_model
from bytelm.training.cost import header, run_facts, step_flops, with_steps
from bytelm.training.experiment import ExperimentConfig, TrainConfig, parse_budget, to_json
from bytelm.training.loop import dry_run
from bytelm.training.program import build_program
from bytelm.training.validation import Validation
from tests.models.compiled import split_model
from tests.models.families import spacebyte

DOCUMENTS = 100
LENGTH = 30  # bytes of each; START and END come to it


@pytest.fixture
def config(tmp_path) -> ExperimentConfig:
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": "a" * LENGTH}) + "\n" for _ in range(DOCUMENTS))
    )
    data = DataConfig(
        source=Files(files=(str(tmp_path / "text.jsonl"),), held_out=0.0),
        sequence_length=32,
        batch_size=4,
        cache_dir=str(tmp_path / "cache"),
    )
    return ExperimentConfig(TransformerConfig(width=8, depth=1, head_width=8), data)


def steps(config: ExperimentConfig, budget: str) -> int:
    train = dataclasses.replace(config.train, budget=budget)
    return with_steps(dataclasses.replace(config, train=train), OpenData(config.data)).train.steps


def test_what_a_budget_may_be():
    assert parse_budget("10e9 bytes") == (10e9, "bytes")
    assert parse_budget("1 epoch") == (1.0, "epochs")
    assert parse_budget("2.5Epochs") == (2.5, "epochs")
    assert parse_budget("1e+18 FLOPs") == (1e18, "flops")
    for wrong in ("10e9", "10 GB", "0 bytes", "-1 epochs", "1e999 flops", "1.2.3 bytes", "bytes"):
        with pytest.raises(UserError, match=r"train\.budget is '.*' or '1e18 flops'"):
            TrainConfig(budget=wrong)


def test_a_step_counts_what_is_trained_three_times_and_draft_heads():
    data = DataConfig(sequence_length=32, batch_size=2)

    def cost(model, patches):
        return step_flops(ExperimentConfig(model, data), patches)

    small = TransformerConfig(width=8, depth=1, head_width=8)
    stored = EntropyModelPatches(threshold=1.0, stored=True, model=small)
    for options in ({}, {"segmenter": stored}):
        plain = spacebyte(**options)
        trained = spacebyte(**options, draft=LinearDraft(3))
        alone = spacebyte(**options, draft=LinearDraft(3, train_model=False))
        of_heads = 2 * trained.draft_flops(32)
        unused = plain.frozen_flops(32)  # entropies that are stored
        for patches in (None, 6.0):
            of_row = plain.forward_flops(32, patches and patches / 2) - unused
            assert cost(plain, patches) == 2 * 3 * of_row
            assert cost(trained, patches) == 2 * 3 * of_row + 3 * of_heads
            assert cost(alone, patches) == 2 * of_row + 3 * of_heads


def test_steps_follow_from_a_budget(config):
    # A row holds one document of 30 bytes.
    assert steps(config, "1 epoch") == 25
    assert steps(config, "2.5 epochs") == 62
    assert steps(config, "1199 bytes") == 9
    assert steps(config, "1200 bytes") == 10
    assert steps(config, f"{7.9 * step_flops(config)} flops") == 7
    assert with_steps(config, OpenData(config.data)) is config
    resolved = with_steps(
        dataclasses.replace(config, train=TrainConfig(budget="1 epoch")), OpenData(config.data)
    )
    assert (resolved.train.budget, with_steps(resolved, OpenData(config.data))) == (
        "1 epoch",
        resolved,
    )


def test_a_budget_that_pays_for_nothing(config):
    with pytest.raises(UserError, match="too little for one step, which takes 120 bytes"):
        steps(config, "100 bytes")
    with pytest.raises(UserError, match="too little for one step; give more"):
        steps(config, "0.001 epochs")
    endless = DataConfig(task=VowelRemoval(), sequence_length=8)
    with pytest.raises(UserError, match="the size of vowel_removal is not known"):
        steps(dataclasses.replace(config, data=endless), "1 epoch")


@pytest.fixture
def shown_config(tmp_path) -> ExperimentConfig:
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


def described(shown_config: ExperimentConfig, tmp_path):
    mesh = shown_config.mesh.build()
    program = build_program(shown_config, mesh)
    data = OpenData(shown_config.data)
    validation = Validation(shown_config, data, program, mesh)
    facts = run_facts(shown_config, data, mesh)
    return facts, header(facts, validation.text, tmp_path / "run")


def test_facts_and_header(shown_config, tmp_path):
    facts, shown = described(shown_config, tmp_path)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["family"], facts["dtype"]) == ("transformer", "float32")
    assert facts["parameters"] > facts["parameters_without_embeddings"] > 0
    assert facts["parameters"] - facts["parameters_without_embeddings"] == 8 * (259 + 257)
    assert facts["flops"] == 30 * step_flops(shown_config)
    assert facts["bytes_per_step"] == pytest.approx(240, abs=8)
    assert facts["flops_per_byte"] == step_flops(shown_config) / facts["bytes_per_step"]
    assert facts["epochs"] == pytest.approx(30 * 240 / facts["text_bytes"], rel=0.05)
    for part in ("30 of 8 rows of 32 bytes", "data 2, fsdp 2, sequence 1", "kB of text.jsonl"):
        assert part in shown
    assert str(tmp_path / "run") in shown


def test_devices_that_stay_idle_are_named(shown_config, tmp_path):
    facts, shown = described(shown_config, tmp_path)
    assert facts["idle_devices"] == 4
    assert "warning: 4 of 8 devices stay idle" in shown
    whole = dataclasses.replace(shown_config, mesh=MeshConfig())
    assert "stay idle" not in described(whole, tmp_path)[1]


def test_a_dry_run_shows_it_and_writes_nothing(shown_config, tmp_path, capsys):
    train = dataclasses.replace(shown_config.train, budget="2 epochs")
    dry_run(dataclasses.replace(shown_config, train=train), tmp_path / "run")
    out = capsys.readouterr().out
    assert "(for 2 epochs) of 8 rows" in out and " epochs\n" in out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reads_what_the_run_carries(shown_config, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(to_json(shown_config))
    with pytest.raises(UserError, match="already holds a run"):
        dry_run(shown_config, run)
    dry_run(shown_config, run, resume=True)
    assert "30 of 8 rows of 32 bytes" in capsys.readouterr().out
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_a_dry_run_checks_the_run_that_it_would_start_from(shown_config, tmp_path):
    other = tmp_path / "other"
    save_model(other, shown_config, split_model(shown_config.model)[1], {})
    train = dataclasses.replace(shown_config.train, initial=str(other))
    dry_run(dataclasses.replace(shown_config, train=train), tmp_path / "run")
    wider = dataclasses.replace(shown_config.model, width=16)
    with pytest.raises(UserError, match="choose the sizes that it was trained with"):
        dry_run(dataclasses.replace(shown_config, train=train, model=wider), tmp_path / "run")
