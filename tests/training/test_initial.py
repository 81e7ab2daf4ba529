"""Starting from another run: which differences are refused, allowed and listed."""

import dataclasses
import operator
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.experiments.contenders import changed
from bytelm.models.hat import HATConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import save_model
from bytelm.training.compatibility import start_from
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from tests.models.families import split_model

LEVELS = {"local_width": 16, "global_width": 32, "global_depth": 1, "head_width": 8}
OLD = {
    "transformer": TransformerConfig(width=16, depth=1, head_width=8, window=8),
    "spacebyte": SpaceByteConfig(**LEVELS, local_depth=2),
    "hat": HATConfig(**LEVELS, encoder_depth=1, decoder_depth=1),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, model in OLD.items():
        config = ExperimentConfig(model=model)
        save_model(folder / name, config, split_model(model)[1], {})
    return {name: folder / name for name in OLD}


def start(run: Path, model, *allowed: str):
    graph = nnx.eval_shape(lambda: model.build(nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.split(graph)[1])
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    train = TrainConfig(initial=str(run), initial_differences=allowed)
    shardings = jax.tree.map(lambda _: device, params)
    return start_from(ExperimentConfig(model=model, train=train), params, shardings)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("transformer", "window", 4),
        ("transformer", "window", None),
        ("transformer", "rope_theta", 500_000.0),
        ("spacebyte", "segmenter.rule", "words"),
        ("spacebyte", "rope_theta", None),
        ("hat", "segmenter.rule", "whitespace"),
        ("hat", "segmenter.longest_patch", 8),
    ],
)
def test_what_changes_the_meaning_has_to_be_allowed(runs, family, field, value):
    model = changed(OLD[family], {field: value})
    with pytest.raises(UserError) as error:
        start(runs[family], model)
    listed = f"{field}: {operator.attrgetter(field)(OLD[family])!r} -> {value!r}"
    assert listed in str(error.value)
    assert f"--train.initial-differences {field}." in str(error.value)
    with pytest.raises(UserError):
        start(runs[family], model, "depth", "qk_norm")
    params, said = start(runs[family], model, field)
    assert said == [listed]
    jax.tree.map(np.testing.assert_array_equal, params, split_model(OLD[family])[1])


def test_what_does_not_is_said(runs):
    model = dataclasses.replace(OLD["transformer"], remat="full", compute_dtype="bfloat16")
    _, said = start(runs["transformer"], model)
    assert said == ["compute_dtype: 'auto' -> 'bfloat16'", "remat: 'none' -> 'full'"]
    assert start(runs["transformer"], OLD["transformer"])[1] == []
