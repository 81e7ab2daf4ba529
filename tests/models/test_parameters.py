"""Roles of the parameters of every family, and what follows from them."""

import re

import jax
import pytest
from flax import nnx

from bytelm.models.parameters import abstract_model, count_parameters, roles_of
from bytelm.nn.mesh import path_name
from bytelm.nn.roles import KERNELS
from tests.models.families import ENCODER_DECODERS, FAMILIES

ALL = {**FAMILIES, **ENCODER_DECODERS}
OUTSIDE_STACKS = {
    "embedding/embedding": "embedding",
    "encoder_embedding/embedding": "embedding",
    "decoder_embedding/embedding": "embedding",
    "global_embedding/embedding": "embedding",
    "local_embedding/embedding": "embedding",
    "embedding/ngrams/table": "ngrams",
    "decoder_embedding/ngrams/table": "ngrams",
    "local_embedding/ngrams/table": "ngrams",
    "head/kernel": "head",
    "head/bias": "head_bias",
    "to_backbone/kernel": "projection",
    "to_queries/kernel": "projection",
    "to_global/kernel": "projection",
    "cross/query/kernel": "projection",
    "cross/key/kernel": "projection",
    "cross/value/kernel": "projection",
    "cross/output/kernel": "projection",
    "decoder_cross/query/kernel": "projection",
    "decoder_cross/key/kernel": "projection",
    "decoder_cross/value/kernel": "projection",
    "decoder_cross/output/kernel": "projection",
    "to_decoder/kernel": "projection",
    "to_local/kernel": "projection",
    "to_local_bias": "bias",
    "pooling/key/kernel": "projection",
    "pooling/value/kernel": "projection",
    "pooling/output/kernel": "projection",
    "pooling/query": "vector",
    "router/query/kernel": "projection",
    "router/key/kernel": "projection",
    "segmenter/query/kernel": "projection",
    "segmenter/key/kernel": "projection",
    "residual/kernel": "projection",
    "residual/bias": "bias",
    "pad": "vector",
    "inner_down/kernel": "projection",
    "inner_up/kernel": "projection",
    "up/kernel": "projection",
    "up_by_place/kernel": "projection",
    "up/bias": "bias",
    "down/kernel": "projection",
    "down/bias": "bias",
    "projection/kernel": "projection",
    "projection/bias": "bias",
    "shortener/kernel": "gate",
    "shortener/bias": "bias",
    "word_mark": "vector",
    "first_word": "vector",
    "global_pad": "vector",
    "local_pad": "vector",
    "null_group": "vector",
    "content_bias": "bias",
    "position_bias": "bias",
    "global_positions/table": "positions",
    "local_positions/table": "positions",
    "encoder_bias/table": "positions",
    "decoder_bias/table": "positions",
    "down_norm/bias": "bias",
}
"""The role of each parameter outside the stacks, by the end of its path; scales are norms."""
IN_BLOCKS = {
    "convolution/kernel": "convolution",
    "kernel": "matrix",
    "log_rate": "recurrence",
    "skip": "recurrence",
    "bias": "bias",
}
"""The role of each parameter of a block, by the first of these that its path ends with."""


@pytest.fixture(params=ALL, scope="module")
def config(request):
    return ALL[request.param]


@pytest.fixture(scope="module")
def roles(config):
    """Of the parameters that are trained."""
    found = {path_name(path): role for path, role in jax.tree.leaves_with_path(roles_of(config))}
    assert all("segmenter/model/" in path for path, role in found.items() if role == "frozen")
    return {path: role for path, role in found.items() if role != "frozen"}


def test_every_parameter_has_the_role_of_its_kind(roles):
    for path, role in roles.items():
        if path.endswith("scale"):
            assert role == "norm", path
        elif "blocks/" in path:
            assert role == next(r for end, r in IN_BLOCKS.items() if path.endswith(end)), path
        else:
            found = {r for end, r in OUTSIDE_STACKS.items() if f"/{path}".endswith(f"/{end}")}
            missing = f"add {path!r} with its role {role!r} to OUTSIDE_STACKS, which says {found}"
            assert found == {role}, missing


def test_roles_group_parameters_as_regular_expressions_of_paths_did(roles):
    """Those of Muon, of weight decay, and of what is counted apart."""
    for path, role in roles.items():
        assert (role == "matrix") == bool(re.search("blocks/.*(?<!convolution/)kernel$", path))
        assert (role in KERNELS) == path.endswith("kernel"), path
        counted_apart = "embedding" in path or path.startswith("head")
        assert (role in ("embedding", "ngrams", "head", "head_bias")) == counted_apart, path


def test_the_count(config, roles):
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(abstract_model(config)[1]))
    leaves = [(path, leaf) for path, leaf in leaves if path_name(path) in roles]
    ends = ("/embedding", "ngrams/table")
    apart = sum(leaf.size for path, leaf in leaves if path_name(path).endswith(ends))
    apart += sum(leaf.size for path, leaf in leaves if path_name(path).startswith("head"))
    total = sum(leaf.size for _, leaf in leaves)
    assert count_parameters(config) == (total, total - apart)
