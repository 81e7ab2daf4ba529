"""Laws of training that every family obeys: micro-batches add up, and a stop changes nothing."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from bytelm.core.vocabulary import PAD, UNSCORED
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.parameters import roles_of
from bytelm.nn.mesh import place_batch, single_device_mesh
from bytelm.training.checkpoints.checkpoint import Checkpoints
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.metrics.record import LoopState
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program
from tests.models.compiled import LENGTH, ROWS, TOLERANCE, first_state, random_rows, split_model
from tests.models.families import ACCUMULATED, ENCODER_DECODERS, FAMILIES, TRAINED
from tests.models.test_encoder_decoder import random_batch

ALL = {**FAMILIES, **ENCODER_DECODERS}
RESUMED = [*TRAINED, *{config.family: name for name, config in ENCODER_DECODERS.items()}.values()]


@functools.cache
def training(config, accumulation=1):
    optimizer = AdamW(warmup=0.0).build(4, roles_of(config))
    return train_program(config, optimizer, single_device_mesh(), accumulation)


@pytest.mark.parametrize("name", ACCUMULATED)
def test_accumulated_micro_batches_equal_the_whole_batch(name):
    # Rows hold more and more padding, so that a mean of the micro-batches' means is another.
    batch = random_rows(20)
    scored = np.arange(LENGTH) <= np.arange(ROWS)[::-1, None]
    batch = dataclasses.replace(
        batch,
        ids=np.where(scored, batch.ids, PAD),
        targets=np.where(scored, batch.targets, UNSCORED),
        document_ids=scored.astype(np.int32),
    )

    def step(accumulation):
        mesh, program = single_device_mesh(), training(FAMILIES[name], accumulation)
        with jax.set_mesh(mesh):
            start = first_state(program, split_model(FAMILIES[name])[1])
            return jax.device_get(program.train(start, place_batch(batch, mesh)))

    (whole, wanted_metrics), (state, metrics) = step(1), step(4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), metrics, wanted_metrics)
    # The first moment after one step is the gradient, up to a factor.
    gradients, got = first_moment(whole), first_moment(state)
    terms = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) / 32
    for path, wanted in jax.tree.leaves_with_path(gradients):
        values = dict(jax.tree.leaves_with_path(got))[path]
        tolerance = TOLERANCE * max(np.abs(wanted).max(), terms)
        np.testing.assert_allclose(values, wanted, rtol=0, atol=tolerance, err_msg=str(path))


def first_moment(state):
    adam = [part for part in state.optimizer if isinstance(part, optax.ScaleByAdamState)]
    return adam[0].mu


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_goes_on_bit_for_bit(name, tmp_path):
    config, mesh = ALL[name], single_device_mesh()
    rows = random_batch if isinstance(config, EncoderDecoderConfig) else random_rows
    batches = [place_batch(rows(17 + step), mesh) for step in range(3)]

    def steps(program, state, batches):
        for batch in batches:
            state, _ = program.train(state, batch)
        return state

    with jax.set_mesh(mesh):
        program = training(config)
        params = split_model(config)[1]
        whole = steps(program, first_state(program, params), batches)
        first = steps(program, first_state(program, params), batches[:2])
        checkpoints = Checkpoints(tmp_path, keep=1)
        saved = {"data": {}, "config": ExperimentConfig(config), "provenance": {}}
        checkpoints.save(2, first, **saved, loop=LoopState().saved(), validation_bits=None)
        checkpoints.wait()
        restored = checkpoints.restore(program.abstract_state, program.shardings)
        resumed = steps(program, restored.state, batches[2:])
        checkpoints.close()
    for path, wanted in jax.tree.leaves_with_path(whole):
        got = dict(jax.tree.leaves_with_path(resumed))[path]
        np.testing.assert_array_equal(got, wanted, err_msg=str(path))
