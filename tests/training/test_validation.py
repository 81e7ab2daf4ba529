"""The figures that a validation gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.core.statistics import BPB, BPB_WITH_END
from bytelm.data.config import DataConfig, Files, Mixture
from bytelm.data.open_data import OpenData
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.metrics.display import format_figures
from bytelm.training.step import Sums
from bytelm.training.validation import Validation


class LetterProgram:
    """Stands for a model: a costs 1 bit, anything else 7."""

    @staticmethod
    def evaluate(params, batch):
        is_text = (batch.targets >= 0) & (batch.targets < 256)
        bits = jnp.where(batch.targets == ord("a"), 1.0, 7.0)
        nats = jnp.where(is_text, bits * np.log(2), 0.0).sum()
        size = is_text.sum()
        both = (BPB(nats, size), BPB_WITH_END(nats + size, size))
        return Sums(nats + size, size, size, None, None, both)


@pytest.fixture
def config(tmp_path):
    sources = []
    for letter in "ab":
        for name in (f"{letter}.txt", f"{letter}-valid.txt"):
            (tmp_path / name).write_text(letter * 4000)
        files = (str(tmp_path / f"{letter}.txt"),)
        held_out = (str(tmp_path / f"{letter}-valid.txt"),)
        sources.append(Files(files=files, validation_files=held_out))
    return ExperimentConfig(
        model=TransformerConfig(width=8, depth=1, head_width=8),
        data=DataConfig(
            source=Mixture(sources=tuple(sources)),
            sequence_length=32,
            batch_size=8,
            cache_dir=str(tmp_path),
        ),
        train=TrainConfig(validation_rows=16),
    )


def test_a_mixture_has_a_figure_for_each_source(config):
    mesh = config.mesh.build()
    validation = Validation(config, OpenData(config.data), LetterProgram(), mesh)
    with jax.set_mesh(mesh):
        found = validation({})
    values = {figure.name: figure.value for figure in found.figures}
    assert values["validation_bpb/a.txt"] == pytest.approx(1.0)
    assert values["validation_bpb/b.txt"] == pytest.approx(7.0)
    assert found.bits == values["validation_bpb"] == pytest.approx(4.0, abs=0.05)
    assert values["validation_bpb_with_end"] == pytest.approx(found.bits + 1 / np.log(2))
    assert "validation 4.0" in format_figures(found.figures)
    assert "(a.txt 1.000, b.txt 7.000)" in format_figures(found.figures)


def test_the_identity_tells_other_rows(config):
    mesh = config.mesh.build()
    more = dataclasses.replace(config, train=TrainConfig(validation_rows=20))
    found = {
        Validation(each, OpenData(each.data), LetterProgram(), mesh).identity
        for each in (config, config, more)
    }
    assert len(found) == 2
