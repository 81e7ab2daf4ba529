"""Rows that devices share: what their axis refuses, and the memory that it saves."""

import functools

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, SpanCorruption
from bytelm.models import Batch
from bytelm.models.hat2 import HAT2Config
from bytelm.models.parameters import roles_of
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig, place_batch
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.optimizer import AdamW
from bytelm.training.program import build_program, train_program
from tests.models.compiled import random_rows, split_model
from tests.models.families import FAMILIES

LENGTH = 2048
MODEL = HAT2Config(
    local_width=32,
    global_width=32,
    global_depth=1,
    head_width=8,
    encoder_depth=1,
    decoder_depth=1,
    window=64,
)


def test_rows_that_cannot_be_divided_are_refused():
    mesh = MeshConfig(sequence=8).build()
    config = ExperimentConfig(TransformerConfig(), DataConfig(sequence_length=100))
    with pytest.raises(UserError, match=r"mesh.sequence 8 does not divide rows of 100 positions"):
        build_program(config, mesh)
    config = ExperimentConfig(ByT5Config(), DataConfig(task=SpanCorruption(), sequence_length=1024))
    with pytest.raises(UserError, match=r"mesh.sequence is 8, and the rows of byt5, which has an"):
        build_program(config, mesh)


def test_metrics_of_levels_are_those_of_one_device():
    """The law of sharding has nats and gradients; these are sums over boundaries of two levels."""
    config, batch = FAMILIES["nested, overflow"], random_rows(23)

    def sums(**axes):
        mesh = MeshConfig(data=1, **axes).build()
        program = train_program(config, AdamW().build(10, roles_of(config)), mesh)
        with jax.set_mesh(mesh):
            params = jax.device_put(split_model(config)[1], program.shardings.params)
            return jax.device_get(program.evaluate(params, place_batch(batch, mesh)))

    found, wanted = sums(fsdp=2, sequence=4), sums()
    assert len(wanted.statistics) > 10
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5)
    jax.tree.map(close, found, wanted)


def temporary_bytes(shards):
    """Memory of one device in a training step of one row, without its share of the state."""
    mesh = MeshConfig(data=1, sequence=shards).build()
    program = train_program(MODEL, AdamW().build(10, roles_of(MODEL)), mesh)
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        program.abstract_state,
        program.shardings,
    )
    ids = np.zeros((1, LENGTH), np.int32)
    with jax.set_mesh(mesh):
        step = program.lower_train(state, place_batch(Batch(ids, ids, ids + 1), mesh)).compile()
    return step.memory_analysis().temp_size_in_bytes


def test_memory_of_a_device_falls_with_the_axis():
    assert temporary_bytes(4) < temporary_bytes(1) / 3
