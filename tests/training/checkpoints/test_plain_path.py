"""A run directory may have any name."""

import jax
import numpy as np
import pytest

from bytelm.data.config import DataConfig, Files
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import load_model
from bytelm.training.checkpoints.plain_path import plain_path
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.loop import train


def test_a_plain_path_is_left_as_it_is(tmp_path):
    assert plain_path(tmp_path / "checkpoints") == tmp_path / "checkpoints"


@pytest.mark.parametrize("name", ["[1e-3]", "a\udcff"])
def test_any_name_of_a_run(tmp_path, name):
    text = tmp_path / name / "\u4e66\udcff[1].txt"
    text.parent.mkdir()
    text.write_bytes(b"to be or not to be " * 50)
    other = text.with_name("other.txt")
    other.write_bytes(b"that is the question " * 9)
    run = tmp_path / name / "run"
    run.mkdir()
    config = ExperimentConfig(
        TransformerConfig(width=16, depth=1, head_width=8),
        DataConfig(
            source=Files(files=(str(text),), validation_files=(str(other),)),
            sequence_length=16,
            cache_dir=str(tmp_path / name / "cache"),
        ),
        train=TrainConfig(steps=2, sample_bytes=0, validation_rows=2),
    )
    train(config, run)
    saved = load_model(run)
    assert saved.step == 2
    assert saved.config == config
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.params))
    assert train(config, run, resume=True).step == 2
