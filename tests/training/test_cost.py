"""Budgets of text and work, and the steps that follow from them."""

import dataclasses
import json

import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, VowelRemoval
from bytelm.data.open_data import OpenData
from bytelm.models.transformer import TransformerConfig
from bytelm.training.cost import step_flops, with_steps
from bytelm.training.experiment import ExperimentConfig, TrainConfig, parse_budget

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
