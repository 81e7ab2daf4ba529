"""The whole sharded train step of every family compiles for TPUs, by libtpu on this machine's CPU.

What is read off the compiled text holds for a pod as for these eight chips: what is gathered, in
which dtype, how often, and that nothing large is whole on each chip.
"""

import dataclasses
import math
from functools import partial

import pytest

from bytelm.data.config import DataConfig, SpanCorruption
from bytelm.models.aunet import AUNetConfig
from bytelm.models.blt import BLTConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.hat import HATConfig
from bytelm.models.hat2 import HAT2Config
from bytelm.models.hnet import HNetConfig
from bytelm.models.mamba import MambaConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.patching.router import RouterPatches
from bytelm.patching.segmenter import RulePatches
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.forecast.compiled import DoesNotFitError, compile_step
from bytelm.training.forecast.forecast import forecast
from bytelm.training.forecast.topology import find_topology

pytestmark = pytest.mark.tpu
pytest.importorskip("libtpu")

TOPOLOGIES = ("v5p:2x2x2", "v5e:2x4")
ROWS, LENGTH, WINDOW = 20, 1024, 256
"""Each chip has 5 rows; 20 is no other size in these programs."""
transformer = partial(
    TransformerConfig, width=512, head_width=128, key_value_heads=2, window=WINDOW, scan=True
)
levels = {"local_width": 256, "global_width": 512, "global_depth": 2, "head_width": 128}
MODELS = {
    "transformer": transformer(depth=4, remat="full"),
    "mamba": MambaConfig(width=256, layout="m2", head_width=64),
    "spacebyte": SpaceByteConfig(**levels, local_depth=2, window=WINDOW),
    "megabyte": MegaByteConfig(**levels, local_depth=1, patch_size=8),
    "hat": HATConfig(
        **levels,
        encoder_depth=1,
        decoder_depth=1,
        segmenter=RulePatches("whitespace_run", longest_patch=16),
    ),
    "hat2": HAT2Config(**levels, encoder_depth=1, decoder_depth=1, window=WINDOW),
    "dynamic_pooling": DynamicPoolingConfig(
        width=256, head_width=64, pre_depth=1, backbone_depth=2, post_depth=1
    ),
    "hnet": HNetConfig(
        layout="m1 [T1m1 [T2] m1T1] m1",
        widths=(256, 256, 512),
        segmenter=RouterPatches(target=3.0),
        remat="full",
    ),
    "aunet": AUNetConfig(widths=(256, 384, 512), depths=(1, 1, 2)),
    "blt": BLTConfig(
        local_width=256,
        global_width=512,
        global_depth=2,
        decoder_depth=2,
        window=WINDOW,
        ngram_rows=5004,
        segmenter=EntropyModelPatches(
            model=TransformerConfig(width=128, depth=1, head_width=64, window=WINDOW)
        ),
    ),
    "byt5": ByT5Config(width=256, encoder_depth=2, decoder_depth=1),
    "mrt5": MrT5Config(width=256, encoder_depth=4, decoder_depth=1),
}

QUADRATIC = ("byt5", "mrt5", "dynamic_pooling")
"""Families whose attention has biases of distances: a chip has whole rows of scores of some heads.
"""


def config_of(model, mesh=None):
    has_encoder = model.family in ("byt5", "mrt5")
    task = {"task": SpanCorruption()} if has_encoder else {}
    return ExperimentConfig(
        model,
        DataConfig(sequence_length=LENGTH, batch_size=ROWS, **task),
        mesh=mesh or MeshConfig(data=2, fsdp=2, tensor=2),
        train=TrainConfig(steps=100),
    )


def arrays(step):
    return {
        shape for run in step.program.runs() for shape in run.instruction.shapes if not run.fusion
    }


@pytest.fixture(scope="module")
def found():
    return forecast(config_of(MODELS["transformer"]), find_topology("v5p:2x2x2"), remats=False)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("name", MODELS)
def test_every_family_compiles_and_is_divided(name, topology):
    found = forecast(config_of(MODELS[name]), find_topology(topology), remats=False)
    step, whole = found.step, 12 * (found.parameters + found.frozen / 3)
    assert step.memory.state < 0.5 * whole
    batch = 3 * ROWS * LENGTH
    assert step.memory.state == pytest.approx(found.state.total + batch, rel=0.05)
    large = [shape for shape in arrays(step) if shape.size >= ROWS * LENGTH * 32]
    assert not [x for x in large if ROWS in x.dims or ROWS * LENGTH in x.dims], "rows are divided"
    if name not in QUADRATIC:
        assert not [x for x in large if sum(size >= LENGTH for size in x.dims) > 1], "[T, T]"
    gathers = [x.bytes for x in step.exchanges if x.kind == "all-gather"]
    assert max(gathers, default=0) < 4 * found.parameters / 2, "parameters are gathered in parts"


def test_the_state_is_updated_in_place(found):
    whole = 12 * found.parameters
    # fsdp x tensor divide the state by 4; the norms, being small, are whole everywhere.
    assert whole / 4 < found.step.memory.state < 1.1 * whole / 4
    assert found.step.memory.temporary < whole + 4 * ROWS / 4 * LENGTH * 4 * 512 * 4


def test_activations_are_rematerialised(found):
    model, rows = MODELS["transformer"], ROWS // 4
    residual_stream = model.depth * rows * LENGTH * model.width * 2
    block = rows * LENGTH * (model.blocks.hidden + 4 * model.width) * 4
    logits = 3 * rows * LENGTH * 257 * 4
    assert found.step.memory.temporary < residual_stream + 3 * block + logits


def test_parameters_travel_in_bfloat16(found):
    by_dtype = {"bf16": 0.0, "f32": 0.0}
    for each in found.step.exchanges:
        if each.in_loop and each.kind in ("all-gather", "collective-permute"):
            by_dtype[each.dtype] += each.times * each.sent
    assert by_dtype["f32"] < 0.05 * by_dtype["bf16"]


def test_exchanges_do_not_grow_with_the_layers(found):
    deeper = compile_step(config_of(transformer(depth=8, remat="full")), found.topology)

    def outside(step):
        return sum(each.times for each in step.exchanges if not each.in_loop)

    assert outside(deeper) == outside(found.step)


def test_attention_is_the_splash_kernel(found):
    assert "tpu_custom_call" in found.step.text
    assert max(shape.size for shape in arrays(found.step)) < ROWS * LENGTH * LENGTH


def test_the_program_computes_what_the_model_counts(found):
    # With all of a block computed again, and the kernels of attention in whole blocks.
    share = found.step.flops * found.devices / found.flops
    assert 1.2 < share < 1.8
    assert math.isclose(found.utilisation, found.flops / found.peak_flops / found.step_seconds)


def test_what_does_not_fit_says_by_how_much():
    large = dataclasses.replace(MODELS["transformer"], width=8192, depth=40, remat="none")
    with pytest.raises(DoesNotFitError, match=r"GB too much; make --mesh\.fsdp"):
        compile_step(config_of(large), find_topology("v5e:2x4"))


SHARED = MeshConfig(data=1, fsdp=2, sequence=2, tensor=2)


def test_rows_that_chips_share(found):
    """As many positions on each chip as with whole rows take as much memory."""
    step = compile_step(config_of(MODELS["transformer"], SHARED), found.topology)
    kinds = {each.kind for each in step.exchanges}
    assert "tpu_custom_call" in step.text and "collective-permute" in kinds, "windows share keys"
    assert step.memory.temporary < 1.25 * found.step.memory.temporary


def test_nested_levels_of_rows_that_chips_share(found):
    whole = compile_step(config_of(MODELS["hnet"]), found.topology)
    step = compile_step(config_of(MODELS["hnet"], SHARED), found.topology)
    kinds = {each.kind for each in step.exchanges}
    assert "all-to-all" in kinds, "positions are exchanged for heads"
    assert step.memory.temporary < 1.5 * whole.memory.temporary
