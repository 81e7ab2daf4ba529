"""Training steps in bfloat16: close to those in float32, and by a processor's bfloat16 units."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from bytelm.core.vocabulary import BYTES
from bytelm.data.tasks.span_corruption import SpanCorruption
from bytelm.models import Batch
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.transformer import TransformerConfig
from bytelm.nn import mesh
from bytelm.nn.mesh import MeshConfig, place_batch, single_device_mesh
from bytelm.training.program import train_program
from tests.models.compiled import first_state, random_rows, split_model
from tests.models.families import FAMILIES

CONFIG = TransformerConfig(width=128, depth=1)
TIED = "transformer of many tokens, tied, gelu, scanned and rematerialised"
BLT = "blt, entropy model, first layer, unbounded patches, published block"
SIZES = {"width": 32, "encoder_depth": 2, "decoder_depth": 1, "heads": 1, "mlp_width": 48}
CASES = {
    **{
        name: FAMILIES[name]
        for name in (TIED, "hat", "dynamic_pooling, published blocks", "hnet, attention", BLT)
    },
    "mrt5": MrT5Config(**SIZES, gate_depth=1),
}


def batch_for(config):
    if not isinstance(config, ByT5Config):
        return random_rows(0)
    targets = SpanCorruption().own_row_length(32)
    rng = np.random.default_rng(0)
    inputs = rng.integers(BYTES, size=(8, 32), dtype=np.int32)
    ids = rng.integers(BYTES, size=(8, targets + 1), dtype=np.int32)
    ones = np.ones((8, targets), np.int32)
    return Batch(ids[:, :-1], ids[:, 1:], ones, inputs=inputs)


@functools.cache
def start(config):
    """Parameters before a step, the same for all dtypes."""
    config = dataclasses.replace(config, compute_dtype="auto")
    if not isinstance(config, ByT5Config):
        return split_model(config)[1]
    # Random gates are so near their threshold that rounding deletes other symbols.
    program = train_program(config, optax.sgd(1.0), single_device_mesh())
    return program.init(0).params


def lowered(config, shape=(1, 1, 1)):
    """A step of gradient descent at rate 1, its state, and the placed batch."""
    mesh = MeshConfig(*shape).build()
    program = train_program(config, optax.sgd(1.0), mesh)
    return mesh, program, first_state(program, start(config)), place_batch(batch_for(config), mesh)


def descend(config, shape=(1, 1, 1)):
    """The parameters before and after a step, and its metrics."""
    mesh, program, state, batch = lowered(config, shape)
    before = jax.device_get(state.params)
    with jax.set_mesh(mesh):
        state, metrics = program.train(state, batch)
    return before, jax.device_get(state.params), jax.device_get(metrics)


def check_close(rough, exact):
    """Losses to a thousandth, and gradients in almost the same direction as in float32."""
    before, after, metrics = rough
    _, wanted, wanted_metrics = exact
    assert metrics.sums.nats == pytest.approx(wanted_metrics.sums.nats, rel=2e-3)
    assert metrics.gradient_norm == pytest.approx(wanted_metrics.gradient_norm, rel=0.03)

    def descent(params):
        steps = jax.tree.map(np.subtract, params, before)
        return np.concatenate([np.ravel(step) for step in jax.tree.leaves(steps)])

    got, right = descent(after), descent(wanted)
    assert np.linalg.norm(got - right) < 0.05 * np.linalg.norm(right)


@pytest.mark.parametrize("name", CASES)
def test_a_step_in_bfloat16_is_close_to_one_in_float32(name):
    config = CASES[name]
    check_close(descend(dataclasses.replace(config, compute_dtype="bfloat16")), descend(config))


def test_a_step_in_bfloat16_on_a_mesh_is_close_to_one_in_float32(monkeypatch):
    monkeypatch.setattr(mesh, "SMALLEST_SHARDED", 1)
    rough = descend(dataclasses.replace(CONFIG, compute_dtype="bfloat16"), (2, 2, 2))
    check_close(rough, descend(CONFIG))


def has_bfloat16_units():
    info = Path("/proc/cpuinfo")
    return jax.default_backend() == "cpu" and info.exists() and "amx_bf16" in info.read_text()


@pytest.mark.skipif(not has_bfloat16_units(), reason="needs a processor with bfloat16 units")
@pytest.mark.parametrize("config", [CONFIG, ByT5Config(**SIZES)])
def test_every_matrix_product_is_one_of_the_bfloat16_units(config):
    config = dataclasses.replace(config, compute_dtype="bfloat16")
    mesh, program, state, batch = lowered(config)
    with jax.set_mesh(mesh):
        text = program.lower_train(state, batch).compile().as_text()
    types = dict(re.findall(r"%([\w.\-]+) = (\w+)\[", text))
    factors = [names.split(", ") for names in re.findall(r" dot\(([^)]*)\)", text)]
    assert len(factors) > 8
    in_float32 = [
        names for names in factors if {types[name.lstrip("%")] for name in names} != {"bf16"}
    ]
    assert not in_float32
