"""An ablation of families with an encoder: its own columns, and no mixture with others."""

import dataclasses
import json

import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, NextByte, VowelRemoval
from bytelm.experiments.ablate import run_ablation
from bytelm.experiments.ablation import Ablation
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import FixedShortening
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

SIZES = {
    "width": 16,
    "encoder_depth": 2,
    "decoder_depth": 1,
    "heads": 2,
    "head_width": 8,
    "mlp_width": 16,
}
BASE = ExperimentConfig(
    model=ByT5Config(**SIZES),
    data=DataConfig(task=VowelRemoval(), sequence_length=12, batch_size=8),
    optimizer=AdamW(),
    mesh=MeshConfig(data=1),
    train=TrainConfig(steps=1, log_every=1, validation_rows=8, sample_bytes=0, tensorboard=False),
)
FIXED = MrT5Config(**SIZES, gate_depth=1, shortening=FixedShortening(0.5))


def cells(line):
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def test_the_report_of_encoder_decoders(tmp_path, capsys):
    ablation = Ablation(BASE, {"byt5": {}, "fixed": {"model": FIXED}})
    assert run_ablation(ablation, tmp_path, max_bytes=100) == 0
    tables = (tmp_path / "report.md").read_text().split("\n\n")
    header, _, *lines = next(part for part in tables if part.startswith("|")).splitlines()
    columns = cells(header)
    for name in ("test bits/target byte", "exact match", "deleted"):
        assert name in columns
    assert not [name for name in columns if "bpb" in name or "patch" in name]
    byt5, fixed = (dict(zip(columns, cells(line), strict=True)) for line in lines)
    assert byt5["deleted"] == "" and fixed["deleted"] == "50.00%"
    shown = capsys.readouterr().out
    assert "bpb" not in shown and "less byt5" in shown

    entries = json.loads((tmp_path / "report.json").read_text())["contenders"]
    bits = [entry["figures"]["bits_per_target_byte"]["value"] for entry in entries]
    for entry, row, value in zip(entries, (byt5, fixed), bits, strict=True):
        figures = {name: figure["value"] for name, figure in entry["figures"].items()}
        assert entry["state"] == "done" and "bpb" not in figures
        assert "low" not in entry["figures"]["bits_per_target_byte"]  # the rows are too few
        assert row["test bits/target byte"] == f"{value:.4f}"
        assert row["exact match"] == f"{figures['exact_match']:.2%}"
        (run,) = entry["runs"]
        assert len(run["curve"]) == 1 and len(run["document_bits"]) > 1
        total = sum(run["document_bits"]) / sum(run["document_bytes"])
        assert total == pytest.approx(value)
    assert entries[1]["difference"]["value"] == pytest.approx(bits[1] - bits[0])
    assert "encoder_time_saved" in entries[1]["figures"]
    assert (tmp_path / "pareto_kept.png").read_bytes().startswith(b"\x89PNG")


def test_bits_of_texts_and_of_targets_are_not_compared():
    text = {"model": TransformerConfig(width=16, depth=1, head_width=8), "data.task": NextByte()}
    with pytest.raises(UserError, match=r"with and without an encoder.*an ablation of each kind"):
        Ablation(BASE, {"byt5": {}, "text": text})
    both = dataclasses.replace(BASE, model=FIXED)
    assert len(Ablation(both, {"fixed": {}, "byt5": {"model": BASE.model}}).configs) == 2
