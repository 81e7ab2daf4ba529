"""The whole sharded train step compiles for a TPU, by libtpu on this machine's CPU."""

import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bytelm.models import Batch
from bytelm.models.aunet import AUNetConfig
from bytelm.models.blt import BLTConfig
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.hnet import HNetConfig
from bytelm.models.parameters import roles_of
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import AXES, BATCH_AXES
from bytelm.patching.router import RouterPatches
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program

pytestmark = pytest.mark.tpu
pytest.importorskip("libtpu")

ROWS, LENGTH, WINDOW = 8, 2048, 512
MODEL = TransformerConfig(
    width=512,
    depth=12,
    head_width=128,
    key_value_heads=2,
    window=WINDOW,
    compute_dtype="bfloat16",
    attention="splash",
    scan=True,
    remat="full",
)


NESTED = {
    "hnet": HNetConfig(
        layout="m1 [T1m1 [T2] m1T1] m1",
        widths=(256, 256, 512),
        segmenter=RouterPatches(target=3.0),
        compute_dtype="bfloat16",
        remat="full",
    ),
    "aunet": AUNetConfig(widths=(256, 384, 512), depths=(1, 1, 2), compute_dtype="bfloat16"),
    "blt": BLTConfig(
        local_width=256,
        global_width=512,
        global_depth=2,
        decoder_depth=2,
        window=WINDOW,
        ngram_rows=5003,
        segmenter=EntropyModelPatches(
            model=TransformerConfig(width=128, depth=1, head_width=64, window=WINDOW)
        ),
        compute_dtype="bfloat16",
    ),
}


@pytest.fixture(scope="module")
def compiled():
    return compiled_step(MODEL)


def compiled_step(model, shape=(2, 2, 1, 2)):
    """The train step for 8 chips of a TPU v5p, `shape` of (data, fsdp, sequence, tensor)."""
    chips = topologies.get_topology_desc("v5p:2x2x2", "tpu").devices
    mesh = Mesh(np.reshape(chips, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    program = train_program(model, AdamW().build(100, roles_of(model)), mesh)
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        program.abstract_state,
        program.shardings,
    )
    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    rows = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=by_row)
    # Layers ask what they are traced for.
    with jax.set_mesh(mesh), mock.patch.object(jax, "default_backend", lambda: "tpu"):
        return program, program.lower_train(state, Batch(rows, rows, rows)).compile()


def test_each_chip_holds_its_share(compiled):
    program, step = compiled
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.abstract_state))
    memory = step.memory_analysis()
    # fsdp x tensor divide the state by 4; the norms, being small, are whole everywhere.
    assert whole / 4 < memory.argument_size_in_bytes < 1.1 * whole / 4
    assert memory.alias_size_in_bytes > 0.9 * whole / 4, "the state is not updated in place"


def test_activations_are_divided_and_rematerialised(compiled):
    _, step = compiled
    rows = ROWS // 4
    residual_stream = MODEL.depth * rows * LENGTH * MODEL.width * 2
    block = rows * LENGTH * (MODEL.blocks.hidden + 4 * MODEL.width) * 4
    logits = 3 * rows * LENGTH * 257 * 4
    assert step.memory_analysis().temp_size_in_bytes < residual_stream + 3 * block + logits


def test_collectives(compiled):
    text = compiled[1].as_text()
    assert "all-gather" in text, "fsdp gathers parameters"
    assert "all-reduce" in text or "reduce-scatter" in text, "gradients are summed"


def test_attention_is_the_splash_kernel(compiled):
    text = compiled[1].as_text()
    assert "tpu_custom_call" in text
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"\[(\d+(?:,\d+)+)\]", text)}
    quadratic = [dims for dims in shapes if dims.count(LENGTH) >= 2]
    assert not quadratic
    assert max(map(math.prod, shapes)) < ROWS * LENGTH * LENGTH


@pytest.mark.parametrize("name", NESTED)
def test_nested_levels_compile_and_divide_their_memory(name):
    program, step = compiled_step(NESTED[name])
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.abstract_state))
    # Small parameters, of which these models have many, are whole everywhere.
    assert step.memory_analysis().argument_size_in_bytes < 0.5 * whole


def test_rows_that_chips_share(compiled):
    """As many positions on each chip as with whole rows take as much memory."""
    _, step = compiled_step(MODEL, (1, 2, 2, 2))
    text, whole = step.as_text(), compiled[1].memory_analysis().temp_size_in_bytes
    assert "tpu_custom_call" in text and "collective-permute" in text, "windows exchange keys"
    assert step.memory_analysis().temp_size_in_bytes < 1.25 * whole


def test_nested_levels_of_rows_that_chips_share():
    _, whole = compiled_step(NESTED["hnet"])
    _, step = compiled_step(NESTED["hnet"], (1, 2, 2, 2))
    assert "all-to-all" in step.as_text(), "positions are exchanged for heads"
    temporary = step.memory_analysis().temp_size_in_bytes
    assert temporary < 1.5 * whole.memory_analysis().temp_size_in_bytes
