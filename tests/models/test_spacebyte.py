"""SpaceByte: its configs, what its blocks see, and the authors' own numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.errors import UserError
from bytelm.layers.boundaries import BoundaryRule, find_boundaries
from bytelm.layers.patching import find_patches
from bytelm.models import ModelConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.vocabulary import START
from tests.models import golden
from tests.models.families import (
    FAMILIES,
    LENGTH,
    backward,
    padded,
    random_rows,
    spacebyte,
    split_model,
)


def golden_config(case, more_keys=1):
    """The case's model; the authors' CPU path sees one key more than the window."""
    cfg = case.cfg
    fixed = cfg["patch_method"] == "periodic"
    bytes_per_patch = cfg["context_size"] / cfg["global_context_size"]
    return SpaceByteConfig(
        compute_dtype="float32",
        bytes_per_patch=bytes_per_patch,
        head_width=cfg["d_key"],
        mlp="relu",
        norm="layer",
        rope_theta=10_000.0 if cfg["rope"] else None,
        scaled_init=False,
        local_width=cfg["d_local"],
        local_depth=cfg["n_local_layers"],
        initial_depth=cfg["n_initial_layers"],
        global_width=cfg["d_model"],
        global_depth=cfg["n_layers"],
        window=cfg["local_attention_window"] + more_keys,
        boundary="fixed" if fixed else "spacelike",
        stride=round(bytes_per_patch) if fixed else None,
        learned_positions=cfg["context_size"],
    )


def golden_parameters(weights):
    return {
        "embedding": golden.embedding_parameters(weights["token_embedding.weight"]),
        "local_positions": {"table": weights["local_position_encoding"]},
        "global_positions": {"table": weights["global_position_encoding"]},
        "initial": golden.stack_parameters(weights, "initial_blocks"),
        "backbone": golden.stack_parameters(weights, "global_blocks"),
        "final": golden.stack_parameters(weights, "final_blocks"),
        **golden.head_parameters(weights),
    }


@functools.cache
def golden_result(case, more_keys=1):
    config = golden_config(case, more_keys)
    return golden.evaluate(case, config, golden_parameters, case.cfg["context_size"])


def is_spacebyte(file):
    return "cfg.model" in file and file["cfg.model"] == "SpaceByte"


@pytest.fixture(params=golden.cases("spacebyte", is_spacebyte), scope="module")
def case(request):
    return golden.load(request.param)


def close(got, wanted, atol=golden.LOGITS):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def test_golden_spacebyte_logits(case):
    logits = golden_result(case).logits
    close(logits, case.out["logits"])
    if "logits_f64_row0_first8" in case.out:
        close(logits[0, :8], case.out["logits_f64_row0_first8"])


def test_golden_spacebyte_losses(case):
    result = golden_result(case)
    close(result.loss_per_token, case.out["loss_per_token"])
    per_row = result.loss_per_token.sum(axis=1) / case.scored.sum(axis=1)
    close(per_row, case.out["loss_per_sequence"])
    close(result.loss, case.out["loss"])
    close(result.loss, case.out.get("loss_f64", case.out["loss"]))


def test_golden_spacebyte_gradients(case):
    got = golden_result(case).grad
    assert case.grad
    for name, wanted in case.grad.items():
        close(got[name], wanted, atol=golden.GRADIENTS * np.abs(wanted).max())


def test_golden_spacebyte_hidden_states(case):
    (_, initial), (_, backbone), _ = golden_result(case).stacks
    close(initial[:, : case.scored.shape[1]], case.out["h_initial"])
    wanted = case.out["h_global_out"]
    counts = case.out.get("n_patches", np.full(len(wanted), wanted.shape[1]))
    for row, count in enumerate(counts):
        close(backbone[row, :count], wanted[row, :count])
    assert golden_result(case).statistics["patches"] == counts.sum()


def test_golden_spacebyte_patches(case):
    config, tokens = golden_config(case), case.input["tokens"]
    segment_ids = np.ones_like(tokens)
    boundaries, _ = find_boundaries(config.rule, golden.symbols(tokens), segment_ids)
    slots = case.out["h_global_out"].shape[1]
    patches = find_patches(boundaries.starts, segment_ids, slots)
    every = round(config.bytes_per_patch)
    fixed = np.broadcast_to(np.arange(tokens.shape[1]) % every == 0, tokens.shape)
    np.testing.assert_array_equal(boundaries.starts, case.out.get("boundary_mask", fixed))
    if config.boundary == "fixed":
        np.testing.assert_array_equal(patches.at, [np.arange(slots) * every] * len(tokens))
    else:
        np.testing.assert_array_equal(patches.total, case.out["n_patches"])
        valid = np.asarray(patches.valid)
        np.testing.assert_array_equal(patches.at[valid], case.out["patch_positions"][valid])


def test_golden_spacebyte_window(case):
    # Their GPU path sees as many keys as the window says.
    result = golden_result(case, more_keys=0)
    close(result.logits[0], case.out["logits_gpu_window_row0"])
    close(result.loss, case.out["loss_gpu_window"])
    assert np.abs(result.logits[0] - case.out["logits"][0]).max() > 100 * golden.LOGITS


def test_golden_spacebyte_decoding(case):
    logits = golden.decode(case, golden_config(case), golden_parameters, case.cfg["context_size"])
    close(logits, case.out["logits"])


@pytest.mark.parametrize(
    "path", golden.cases("spacebyte", lambda file: "out.overflow_position" in file)
)
def test_golden_spacebyte_overflow_is_scored(path):
    case = golden.load(path)
    result, first = golden_result(case), case.out["overflow_position"]
    scored = np.where(first[:, None] < 0, True, np.arange(case.scored.shape[1]) < first[:, None])
    np.testing.assert_array_equal(case.scored, scored)
    assert not scored.all()
    close(result.logits[scored], case.out["logits"][scored])
    assert np.isfinite(result.nats).all() and (result.nats > 0).all()
    surplus = case.out["boundary_mask"].sum() - case.out["n_patches"].sum()
    assert result.statistics["overflow"] == surplus > 0


@pytest.mark.parametrize("path", golden.cases("spacebyte", lambda file: "out.mask" in file))
def test_golden_spacebyte_boundaries(path):
    case = golden.load(path)
    tokens = case.input["bytes"]
    segment_ids = (tokens >= 0).astype(np.int32)
    np.testing.assert_array_equal(segment_ids.sum(axis=1), case.input["length"])
    boundaries, _ = find_boundaries(
        BoundaryRule("spacelike"), golden.symbols(tokens), segment_ids
    )
    np.testing.assert_array_equal(boundaries.starts, case.out["mask"])
