"""SpaceByte: its configs, what its blocks see, and the authors' own numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.models import ModelConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.patching.learned import EntropyPatches, GumbelPatches
from bytelm.patching.patches import find_patches
from bytelm.patching.rules import find_edges
from bytelm.patching.segmenter import FixedPatches, RulePatches
from tests.models import golden
from tests.models.compiled import LENGTH, ROWS, backward, padded, random_rows, split_model
from tests.models.families import FAMILIES, spacebyte


def golden_config(case, more_keys=1):
    """The case's model; the authors' CPU path sees one key more than the window."""
    cfg = case.cfg
    fixed = cfg["patch_method"] == "periodic"
    bytes_per_slot = cfg["context_size"] / cfg["global_context_size"]
    return SpaceByteConfig(
        compute_dtype="float32",
        bytes_per_slot=bytes_per_slot,
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
        segmenter=FixedPatches(round(bytes_per_slot)) if fixed else RulePatches("spacelike"),
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
def golden_result(case):
    length = case.cfg["context_size"]
    return golden.evaluate(case, golden_config(case), golden_parameters, length)


def is_spacebyte(file):
    return file.get("cfg.model") == "SpaceByte"


def overflows(file):
    return is_spacebyte(file) and bool(file["cfg.overflow"])


def overflows_with_rotary_positions(file):
    return overflows(file) and bool(file["cfg.rope"])


@pytest.fixture(params=golden.cases("spacebyte", is_spacebyte), scope="module")
def case(request):
    return golden.load(request.param)


def test_golden_spacebyte_logits_and_losses(case):
    result = golden_result(case)
    golden.assert_reproduced(case, result)
    if "logits_f64_row0_first8" in case.out:
        golden.assert_close(result.logits[0, :8], case.out["logits_f64_row0_first8"])


def test_golden_spacebyte_gradients(case):
    golden.assert_gradients(case, golden_result(case))


def test_golden_spacebyte_hidden_states(case):
    (_, initial), (_, backbone), _ = golden_result(case).stacks
    golden.assert_close(initial[:, : case.scored.shape[1]], case.out["h_initial"])
    wanted = case.out["h_global_out"]
    counts = case.out.get("n_patches", np.full(len(wanted), wanted.shape[1]))
    for row, count in enumerate(counts):
        golden.assert_close(backbone[row, :count], wanted[row, :count])
    assert golden_result(case).opened == counts.sum()


def test_golden_spacebyte_patches(case):
    config, tokens = golden_config(case), case.input["tokens"]
    document_ids = np.ones_like(tokens)
    slots = case.out["h_global_out"].shape[1]

    segmenter = config.segmenter.build(1, config.needs, norm=None, relu=False, rngs=nnx.Rngs(0))

    @jax.jit
    def find(ids, document_ids):
        boundaries, _ = segmenter(None, ids, document_ids)
        return boundaries.hard, find_patches(boundaries.hard, document_ids, slots)

    starts, patches = jax.device_get(find(golden.symbols(tokens), document_ids))
    every = round(config.bytes_per_slot)
    fixed = np.broadcast_to(np.arange(tokens.shape[1]) % every == 0, tokens.shape)
    np.testing.assert_array_equal(starts, case.out.get("boundary_mask", fixed))
    if isinstance(config.segmenter, FixedPatches):
        np.testing.assert_array_equal(patches.positions, [np.arange(slots) * every] * len(tokens))
    else:
        np.testing.assert_array_equal(patches.total, case.out["n_patches"])
        positions = case.out["patch_positions"][patches.valid]
        np.testing.assert_array_equal(patches.positions[patches.valid], positions)


def test_golden_spacebyte_window(case):
    # Their GPU path sees as many keys as the window says.
    config, length = golden_config(case, more_keys=0), case.cfg["context_size"]
    result = golden.evaluate(case, config, golden_parameters, length, gradients=False)
    golden.assert_close(result.logits[0], case.out["logits_gpu_window_row0"])
    golden.assert_close(result.loss, case.out["loss_gpu_window"])
    assert np.abs(result.logits[0] - case.out["logits"][0]).max() > 100 * golden.LOGITS


@pytest.mark.parametrize("path", golden.cases("spacebyte", overflows_with_rotary_positions))
def test_golden_spacebyte_decoding(path):
    case = golden.load(path)
    logits = golden.decode(case, golden_config(case), golden_parameters, case.cfg["context_size"])
    golden.assert_close(logits, case.out["logits"])


@pytest.mark.parametrize("path", golden.cases("spacebyte", overflows))
def test_golden_spacebyte_overflow_is_scored(path):
    case = golden.load(path)
    result, first = golden_result(case), case.out["overflow_position"]
    scored = np.where(first[:, None] < 0, True, np.arange(case.scored.shape[1]) < first[:, None])
    np.testing.assert_array_equal(case.scored, scored)
    assert not scored.all()
    golden.assert_close(result.logits[scored], case.out["logits"][scored])
    assert np.isfinite(result.nats).all() and (result.nats > 0).all()
    surplus = case.out["boundary_mask"].sum() - case.out["n_patches"].sum()
    assert surplus > 0
    assert result.overflow == surplus


@pytest.mark.parametrize("path", golden.cases("spacebyte", lambda file: "out.mask" in file))
def test_golden_spacebyte_boundaries(path):
    case = golden.load(path)
    tokens = case.input["bytes"]
    document_ids = (tokens >= 0).astype(np.int32)
    np.testing.assert_array_equal(document_ids.sum(axis=1), case.input["length"])
    edges, _ = find_edges("spacelike", golden.symbols(tokens), document_ids)
    np.testing.assert_array_equal(edges.starts, case.out["mask"])


def test_a_local_block_sees_a_window():
    # Letters alone open no patch: only two local blocks pass anything on, each 4 bytes back.
    config = FAMILIES["spacebyte"]
    ids = np.random.default_rng(1).integers(ord("a"), ord("z"), (LENGTH, LENGTH), dtype=np.int32)
    batch = dataclasses.replace(random_rows(1), ids=ids)
    nudges = last_position_nudges(config, batch)
    reach = 2 * (config.window - 1)
    assert (nudges[:, : LENGTH - 1 - reach] == 0).all()
    assert (nudges[:, LENGTH - 1 - reach :] != 0).all()


def test_global_blocks_see_beyond_the_window():
    config = FAMILIES["spacebyte"]
    batch = dataclasses.replace(random_rows(2), ids=np.full((LENGTH, LENGTH), ord("a"), np.int32))
    batch.ids[:, [2, 12]] = ord(" ")
    seen = last_position_nudges(config, batch)[0] != 0
    # What the first patch's first byte saw through its window, and what the last byte sees itself.
    np.testing.assert_array_equal(seen, [True] * 3 + [False] * 4 + [True] * 9)


def last_position_nudges(config, batch):
    weights = jnp.zeros((LENGTH, LENGTH)).at[:, -1].set(1.0)
    return np.asarray(backward(config)(split_model(config)[1], batch, weights)[3])


@pytest.mark.parametrize(("bytes_per_slot", "opened"), [(1.0, [3, 6]), (5.0, [3, 4])])
def test_it_counts_patches_and_those_refused(bytes_per_slot, opened):
    config = spacebyte(bytes_per_slot=bytes_per_slot)
    graphdef, params = split_model(config)
    batch = padded(text(b"the cat sat"), text(b"a b c d e f"))
    output = jax.jit(lambda *args: nnx.merge(graphdef, args[0])(args[1]))(params, batch)
    assert output.patch_starts.sum() == sum(opened)
    assert output.overflow == 9 - sum(opened)


def text(content):
    return np.array([START, *content], np.int32)


def test_the_defaults_follow_the_paper():
    config = spacebyte(local_depth=5)
    assert config.initial_blocks == 2
    assert config.local_block(2).mask.window == config.local_width
    assert ModelConfig.variants["spacebyte"] is SpaceByteConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bytes_per_slot": 0.5}, r"model\.bytes_per_slot is 0\.5; .* at least 1"),
        ({"head_width": 0}, r"model\.head_width is 0; .* at least 1"),
        ({"head_width": 7}, r"model\.head_width is 7; .* even"),
        ({"local_depth": 0}, r"model\.local_depth is 0"),
        ({"global_depth": 0}, r"model\.global_depth is 0"),
        ({"window": 0}, r"model\.window is 0"),
        ({"learned_positions": 0}, r"model\.learned_positions is 0"),
        ({"local_width": 0}, r"model\.local_width is 0"),
        ({"local_width": 100}, r"local_width 100 is no multiple of model\.head_width 64"),
        ({"global_width": 500}, r"global_width 500 is no multiple of model\.head_width 64"),
        ({"global_width": 128}, r"global_width 128 is less than model\.local_width 256"),
        ({"initial_depth": 0}, r"model\.initial_depth is 0; it must be from 1 to 5"),
        ({"initial_depth": 6}, r"model\.initial_depth is 6; .* the 6 local blocks"),
        ({"local_depth": 1}, r"model\.local_depth is 1; it must be at least 2"),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        SpaceByteConfig(**fields)


def test_the_loss_reaches_a_sampled_segmenter_and_its_own_loss_a_supervised_one():
    def gradient_of_nats(segmenter):
        graphdef, params = split_model(spacebyte(segmenter=segmenter))

        def nats(params, batch):
            return nnx.merge(graphdef, params)(batch).nats(batch.targets).sum()

        rows = dataclasses.replace(random_rows(0), keys=np.ones((ROWS, 2), np.uint32))
        return jax.jit(jax.grad(nats))(params, rows)["segmenter"]["predictor"]

    for segmenter, reached in ((GumbelPatches(0.4), True), (EntropyPatches(), False)):
        leaves = jax.tree.leaves(gradient_of_nats(segmenter))
        assert all((np.asarray(leaf) != 0).any() == reached for leaf in leaves)
