"""MegaByte: its configs, what its blocks see, and the authors' own numbers."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.models import ModelConfig
from bytelm.models.megabyte import MegaByteConfig
from tests.models import golden
from tests.models.compiled import LENGTH, backward, padded, random_rows, split_model
from tests.models.families import FAMILIES, megabyte


def golden_config(case):
    cfg = case.cfg
    return MegaByteConfig(
        compute_dtype="float32",
        patch_size=cfg["patch_size"],
        bytes_per_slot=cfg["patch_size"],
        head_width=cfg["d_key"],
        mlp="relu",
        norm="layer",
        rope_theta=10_000.0 if cfg["rope"] else None,
        scaled_init=False,
        local_width=cfg["d_local"],
        local_depth=cfg["n_local_layers"],
        global_width=cfg["d_model"],
        global_depth=cfg["n_layers"],
        learned_positions=cfg["context_size"],
    )


def golden_parameters(weights):
    return {
        "global_embedding": golden.embedding_parameters(weights["global_token_embedding.weight"]),
        "global_positions": {"table": weights["global_position_encoding"]},
        "global_pad": weights["global_pad"],
        "backbone": golden.stack_parameters(weights, "global_blocks"),
        "to_local": {"kernel": weights["global_to_local.weight"].T},
        "to_local_bias": weights["global_to_local.bias"],
        "local_embedding": golden.embedding_parameters(weights["local_token_embedding.weight"]),
        "local_positions": {"table": weights["local_position_encoding"]},
        "local_pad": weights["local_pad"],
        "local": golden.stack_parameters(weights, "local_blocks"),
        **golden.head_parameters(weights),
    }


@functools.cache
def golden_result(case):
    length = case.scored.shape[1]
    return golden.evaluate(case, golden_config(case), golden_parameters, length)


def is_megabyte(file):
    return file.get("cfg.model") == "MegaByte"


@pytest.fixture(params=golden.cases("spacebyte", is_megabyte), scope="module")
def case(request):
    return golden.load(request.param)


def test_golden_megabyte_logits_and_losses(case):
    golden.assert_reproduced(case, golden_result(case))


def test_golden_megabyte_gradients(case):
    golden.assert_gradients(case, golden_result(case))


def test_golden_megabyte_hidden_states(case):
    (global_in, global_out), (local_in, _) = golden_result(case).stacks
    golden.assert_close(global_in, case.out["h_global_in"])
    golden.assert_close(global_out, case.out["h_global_out"])
    golden.assert_close(local_in.reshape(case.out["h_local_in"].shape), case.out["h_local_in"])


def test_golden_megabyte_decoding(case):
    logits = golden.decode(case, golden_config(case), golden_parameters, case.scored.shape[1])
    golden.assert_close(logits, case.out["logits"])


def seen(params):
    """[t, s]: whether the prediction at t depends on the symbol at s."""
    batch = jax.tree.map(lambda rows: np.repeat(rows, LENGTH, axis=0), random_rows(1, rows=1))
    return np.asarray(backward(FAMILIES["megabyte"])(params, batch, np.eye(LENGTH))[3]) != 0


def test_the_local_model_sees_its_patch_alone_and_the_pad_first():
    _, params = split_model(FAMILIES["megabyte"])
    cut = {**params, "to_local": jax.tree.map(np.zeros_like, params["to_local"])}
    t, s = np.mgrid[:LENGTH, :LENGTH]
    size = FAMILIES["megabyte"].patch_size
    np.testing.assert_array_equal(seen(cut), (t // size == s // size) & (s <= t) & (s % size > 0))


def test_the_global_model_adds_all_that_went_before():
    t, s = np.mgrid[:LENGTH, :LENGTH]
    # A pad stands for the first symbol, which is START in any case.
    _, params = split_model(FAMILIES["megabyte"])
    np.testing.assert_array_equal(seen(params), (s <= t) & (s > 0))


@pytest.mark.parametrize(("bytes_per_slot", "refused"), [(1.0, 0), (8.0, 2)])
def test_it_counts_patches_and_those_refused(bytes_per_slot, refused):
    graphdef, params = split_model(megabyte(bytes_per_slot=bytes_per_slot))
    # Patches of 4 symbols: documents of 9 and 3 in one row have 3 and 1, one of 4 has 1.
    batch = padded(np.full(12, START, np.int32), np.full(4, START, np.int32))
    batch.document_ids[0, 9:12] = 2
    output = jax.jit(lambda *args: nnx.merge(graphdef, args[0])(args[1]))(params, batch)
    assert output.patch_starts.sum() == 5 - refused
    assert output.overflow == refused


def test_it_is_registered_under_its_family():
    assert ModelConfig.variants["megabyte"] is MegaByteConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bytes_per_slot": 0.5}, r"model\.bytes_per_slot is 0\.5; .* at least 1"),
        ({"head_width": 0}, r"model\.head_width is 0; .* at least 1"),
        ({"head_width": 7}, r"model\.head_width is 7; .* even"),
        ({"patch_size": 0}, r"model\.patch_size is 0"),
        ({"global_depth": 0}, r"model\.global_depth is 0"),
        ({"local_depth": 0}, r"model\.local_depth is 0"),
        ({"learned_positions": 0}, r"model\.learned_positions is 0"),
        ({"local_width": 0}, r"model\.local_width is 0"),
        ({"local_width": 100}, r"local_width 100 is no multiple of model\.head_width 64"),
        ({"global_width": 500}, r"global_width 500 is no multiple of model\.head_width 64"),
        ({"patch_size": 7}, r"global_width 512 is no multiple of model\.patch_size 7"),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        MegaByteConfig(**fields)
