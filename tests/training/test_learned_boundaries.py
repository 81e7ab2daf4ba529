"""Runs whose model learns its boundaries: what they need of the data, and what they record."""

import dataclasses
import json
import re

import jax
import numpy as np
import optax
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.nn.mesh import MeshConfig, place_batch, single_device_mesh
from bytelm.patching.learned import Band, FlexitokensPatches, UnigramPatches
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.loop import train
from bytelm.training.program import train_program
from tests.models.compiled import random_rows
from tests.models.families import dynamic_pooling

BANDS = FlexitokensPatches(bands=(Band("eng", 0.3, 0.02), Band("rus", 0.2, 0.01)))


@pytest.fixture
def config(tmp_path) -> ExperimentConfig:
    lines = []
    for script, words in (("eng", "to be or not".split()), ("rus", "быть или не быть".split())):
        for seed in range(6):
            text = " ".join(np.random.default_rng(seed).choice(words, 60))
            lines.append(json.dumps({"text": text, "lang": script}))
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(lines))
    return ExperimentConfig(
        model=DynamicPoolingConfig(
            width=16,
            head_width=8,
            pre_depth=1,
            backbone_depth=1,
            post_depth=1,
            bytes_per_slot=8.0,
            segmenter=BANDS,
        ),
        data=DataConfig(
            source=Files(files=(str(path),), validation_files=(), held_out=0.2, script_key="lang"),
            scripts=("eng", "rus"),
            sequence_length=64,
            batch_size=4,
            cache_dir=str(tmp_path / "cache"),
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(
            steps=3, log_every=3, validate_every=3, sample_bytes=8, tensorboard=False
        ),
    )


def with_boundary(config, boundary):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, segmenter=boundary))


def test_a_run_records_its_boundaries_and_each_script(config, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    train(config, run)
    first, validation = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert 0.2 < first["boundaries/target"] < 0.3
    for name in ("rate", "precision", "recall", "f1"):
        assert 0 <= first[f"boundaries/{name}"] <= 1
    assert first["auxiliary/boundaries"] >= 0
    of_scripts = [first["bytes_per_patch/eng"], first["bytes_per_patch/rus"]]
    assert min(of_scripts) <= first["bytes_per_patch"] <= max(of_scripts)
    # Boundaries are rounded there, and rarer as long as the predictor is not sure of any.
    assert 0 <= validation["validation/boundaries/rate"] < first["boundaries/rate"]
    # Rows are full of patches in training, so that rarer boundaries show in what overflows.
    assert validation["validation/overflow"] < first["overflow"]
    warned = re.findall(r"warning: in training, ([\d.]+)% of the pat", capsys.readouterr().out)
    assert warned == [f"{100 * first['overflow']:.1f}"]


def test_scripts_that_the_data_do_not_tell_are_named(config, tmp_path):
    data = dataclasses.replace(config.data, scripts=("rus", "eng"))
    with pytest.raises(UserError, match=r"scripts eng, rus, and data\.scripts is rus"):
        train(dataclasses.replace(config, data=data), tmp_path)
    data = dataclasses.replace(config.data, scripts=())
    with pytest.raises(UserError, match=r"data\.scripts is empty; give --data.scripts eng rus"):
        train(dataclasses.replace(config, data=data), tmp_path)


def test_a_missing_unigram_model_is_named(config, tmp_path):
    unigram = with_boundary(config, UnigramPatches())
    with pytest.raises(UserError, match="make one with `bytelm data unigram`"):
        train(unigram, tmp_path)
    data = dataclasses.replace(
        config.data,
        task=dataclasses.replace(config.data.task, unigram=str(tmp_path / "none.model")),
    )
    with pytest.raises(UserError, match=r"cannot read the model .*none\.model"):
        train(dataclasses.replace(unigram, data=data), tmp_path)


def test_pieces_are_learned():
    mesh = single_device_mesh()
    program = train_program(dynamic_pooling(segmenter=UnigramPatches()), optax.adam(0.03), mesh)
    rows = random_rows(0)
    # Pieces that end with every fourth byte value.
    rows = place_batch(dataclasses.replace(rows, boundaries=rows.ids % 4 == 0), mesh)
    with jax.set_mesh(mesh):
        state = program.init(0)
        for _ in range(40):
            state, metrics = program.train(state, rows)
    ratios = jax.device_get(metrics.sums).statistics
    found = {figure.name: figure.value for ratio in ratios for figure in ratio.figures}
    assert found["boundaries/rate"] == pytest.approx(0.25, abs=0.08)
    assert found["auxiliary/boundaries"] < 0.3
