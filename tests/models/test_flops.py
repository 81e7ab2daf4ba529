"""`forward_flops` against the counts of XLA and of the traced program for the same forward pass.

XLA counts every operation, `forward_flops` the matrix products alone, and of attention the pairs
that the mask lets see each other. At the widths here what only XLA counts (norms, softmax, hidden
pairs) is below 5% of all: that is the tolerance. It is far less than any product left out.
"""

import dataclasses
from math import prod
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from bytelm.models import Batch, ModelConfig
from bytelm.models.aunet import AUNetConfig
from bytelm.models.blt import BLTConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.hat import HATConfig
from bytelm.models.hat2 import HAT2Config
from bytelm.models.hierarchy import HierarchyConfig
from bytelm.models.hnet import HNetConfig
from bytelm.models.mamba import MambaConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import ShorteningConfig
from bytelm.models.transformer import FlatConfig, TransformerConfig
from bytelm.patching.segmenter import RulePatches
from tests.models.families import FAMILIES
from tests.models.nested import NestedConfig

FLAT = {name: c for name, c in FAMILIES.items() if isinstance(c, TransformerConfig)}


def program(config, length):
    """The forward pass over one row, without loops over parts of it where it can be.

    Attention multiplies every pair, and Mamba-2 computes all its chunks together.
    """
    row = jax.ShapeDtypeStruct((1, length), jnp.int32)
    batch = Batch(row, row, row)
    keys = jax.ShapeDtypeStruct((1, 2), jnp.uint32)  # as in training
    if isinstance(config, EncoderDecoderConfig):
        targets = jax.ShapeDtypeStruct((1, length // 2), jnp.int32)
        batch = Batch(targets, targets, targets, inputs=row, keys=keys)
    elif isinstance(config, FlatConfig):  # whose draft heads compute less in training
        batch = Batch(row, row, row, keys=keys)
    else:
        config = dataclasses.replace(config, attention="reference")
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    forward = jax.jit(lambda state, batch: nnx.merge(graphdef, state)(batch).logits)
    with mock.patch("bytelm.nn.ssd.chunks_together", lambda: 16):
        return forward.trace(state, batch)


def counted_flops(config, length):
    """`forward_flops` for that row."""
    if isinstance(config, EncoderDecoderConfig):
        return config.forward_flops(length, target_length=length // 2)
    return config.forward_flops(length)


def matmul_flops(jaxpr):
    """FLOPs of all matrix products in a program; the body of a scan counts for each turn."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shared = prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * shared * prod(equation.outvars[0].aval.shape)
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += turns * matmul_flops(inner)
    return total


def pairs_seen(length, window):
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    return ((distance >= 0) & (distance < (window or length))).sum()


@pytest.mark.parametrize("length", [1, 24])
@pytest.mark.parametrize("config", FLAT.values(), ids=FLAT.keys())
def test_flops_are_those_of_the_traced_matrix_products(config, length):
    one, two = (matmul_flops(program(config, size).jaxpr) for size in (1, 2))
    # All else is linear in the length, so what remains is what one pair of positions costs.
    of_pair = (two - 2 * one) / 2
    assert of_pair > 0
    hidden = length**2 - pairs_seen(length, config.window)
    multiplied = matmul_flops(program(config, length).jaxpr)
    counted = config.forward_flops(length) + config.draft_flops(length)
    assert counted == multiplied - hidden * of_pair


# Wide enough for matrix products to dominate; XLA counts norms and softmax as well.
LEVELS = {"local_width": 256, "global_width": 512, "global_depth": 2, "head_width": 32}
T5 = {
    "width": 256,
    "encoder_depth": 3,
    "decoder_depth": 2,
    "heads": 4,
    "head_width": 64,
    "mlp_width": 512,
}
POOLED = {"width": 256, "pre_depth": 1, "backbone_depth": 2, "post_depth": 1, "head_width": 32}
WIDE = {
    "transformer": TransformerConfig(width=256, depth=2, head_width=32),
    "mamba": MambaConfig(width=256, layout="m2M1", state_width=32, chunk=8),
    "mamba, attention": MambaConfig(width=256, head_width=32, layout="t1m1T1", state_width=32),
    "spacebyte": SpaceByteConfig(**LEVELS, local_depth=2),
    "megabyte": MegaByteConfig(**LEVELS, local_depth=2, patch_size=8),
    "hat": HATConfig(**LEVELS, encoder_depth=1, decoder_depth=1, bytes_per_slot=8.0),
    "hat2": HAT2Config(**LEVELS, encoder_depth=1, decoder_depth=1),
    "dynamic_pooling": DynamicPoolingConfig(**POOLED),
    "dynamic_pooling, rule": DynamicPoolingConfig(**POOLED, segmenter=RulePatches("whitespace")),
    "spacebyte, Mamba-2": SpaceByteConfig(**LEVELS, local_layout=("m1", "m1"), chunk=8),
    "hnet": HNetConfig(layout="m2 [T1] m1", widths=(256, 512), head_width=32, chunk=8),
    "hnet, two stages": HNetConfig(
        layout="m1 [T1m1 [T2] m1] m1", widths=(256, 256, 512), head_width=32, chunk=8
    ),
    "aunet": AUNetConfig(
        widths=(256, 512, 768), depths=(1, 1, 2), windows=(16, None, None), head_width=32
    ),
    "blt": BLTConfig(**LEVELS, ngram_rows=64, window=None),
    "blt, other options": BLTConfig(
        **LEVELS,
        ngram_rows=64,
        window=None,
        encoder_depth=2,
        encoder_cross="all",
        decoder_cross="first",
        decoder_patches=2,
        vectors=3,
    ),
    "blt without cross-attention": BLTConfig(
        **LEVELS, ngram_rows=64, window=None, encoder_cross="none", decoder_cross="none"
    ),
    "nested": NestedConfig(channels=(256, 512, 768), head_width=32),
    "byt5": ByT5Config(**T5),
    **{
        f"mrt5, {kind}": MrT5Config(**T5, gate_depth=1, shortening=shortening())
        for kind, shortening in ShorteningConfig.variants.items()
    },
}
HIERARCHIES = {name: c for name, c in WIDE.items() if isinstance(c, HierarchyConfig)}


@pytest.mark.parametrize("config", WIDE.values(), ids=WIDE.keys())
def test_flops_agree_with_the_cost_analysis_of_xla(config):
    traced = program(config, 32)
    of_xla = traced.lower().cost_analysis()["flops"]
    assert counted_flops(config, 32) == pytest.approx(of_xla, rel=0.05)
    # No more than XLA's, and than all products: those of hidden pairs are some of them.
    products = matmul_flops(traced.jaxpr)
    assert counted_flops(config, 32) <= products * (1 + 1e-9) and products <= of_xla


def test_flops_of_every_family_are_checked():
    own = {k for k in ModelConfig.variants.values() if k.__module__.startswith("bytelm.")}
    assert own == set(map(type, WIDE.values())) - {NestedConfig}


def test_flops_of_relative_attention_are_those_of_the_traced_matrix_products():
    # XLA counts some thirty operations for each erf of the published blocks.
    config = DynamicPoolingConfig(**POOLED, published_blocks=True, mlp="gelu")
    assert config.forward_flops(32) == pytest.approx(
        matmul_flops(program(config, 32).jaxpr), rel=0.02
    )


@pytest.mark.parametrize("config", HIERARCHIES.values(), ids=HIERARCHIES.keys())
def test_flops_from_the_patches_there_are(config):
    full = config.capacity(32)
    assert config.forward_flops(32, patches=full) == config.forward_flops(32)
    saved = config.forward_flops(32) - config.forward_flops(32, patches=full / 2)
    assert saved >= config.backbone_flops(full) - config.backbone_flops(full / 2) > 0


def test_a_flat_model_has_no_patches_to_save():
    config = WIDE["transformer"]
    assert config.forward_flops(32, patches=3) == config.forward_flops(32)


def test_a_shortened_row_saves_flops():
    config = WIDE["mrt5, gate"]
    full, half = (config.forward_flops(32, kept, target_length=16) for kept in (None, 16))
    assert config.forward_flops(32, 32, target_length=16) == full > half
