"""Dynamic token pooling: its kinds of boundaries, and the authors' own numbers."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.models import Batch
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.learned import (
    Band,
    EntropyPatches,
    FlexitokensPatches,
    GumbelPatches,
    LearnedSegmenter,
    UnigramPatches,
)
from bytelm.patching.segmenter import Boundaries, FixedPatches, RulePatches, Supervision
from bytelm.training import step
from bytelm.training.experiment import ExperimentConfig, as_saved, from_saved
from tests.models import golden, golden_hourglass
from tests.models.compiled import LENGTH, ROWS, random_rows, split_model
from tests.models.families import dynamic_pooling


@functools.cache
def golden_result(case):
    return golden_hourglass.evaluate(case)


@pytest.fixture(
    params=[
        *golden_hourglass.cases("dynamic_pooling"),
        *golden_hourglass.cases("flexitokens"),
    ],
    scope="module",
)
def case(request):
    return golden.load(request.param)


def has_hidden_states(file):
    return "out.hidden_pre" in file


def has_entropy_targets(file):
    return "out.target_boundaries" in file


def by_row(array):
    return np.swapaxes(array, 0, 1)


def test_golden_hourglass_logits_and_losses(case):
    result, out = golden_result(case), case.out
    if "shift_logits" in out:  # FLEXITOKENS predicts nothing from the last position
        golden.assert_close(result["logits"][:, :-1], by_row(out["shift_logits"]))
    else:
        scored = out["logits"].shape[0]
        golden.assert_close(result["logits"][:, -scored:], by_row(out["logits"]))
        golden.assert_close(result["loss_per_token"][:, -scored:], by_row(out["loss_per_token"]))
    golden.assert_close(result["loss"], out["loss"])
    golden.assert_close(result["total_loss"], out["total_loss"])


def test_golden_hourglass_boundaries(case):
    result, out = golden_result(case), case.out
    made = result["boundaries"]
    wanted = out.get("boundaries_used", out.get("hard_boundaries"))
    np.testing.assert_array_equal(made["hard"], wanted > 0)
    np.testing.assert_array_equal(result["starts"][:, 1:], wanted[:, :-1] > 0)
    if "bp_logits" in out:
        golden.assert_close(made["logits"], out["bp_logits"])
        golden.assert_close(result["loss_boundaries"], out["loss_boundaries"].item())


@pytest.mark.parametrize("path", golden.cases("dynamic_pooling", has_hidden_states))
def test_golden_hourglass_hidden_states(path):
    case = golden.load(path)
    result, out = golden_result(case), case.out
    pre, backbone, _ = result["stacks"]
    golden.assert_close(pre[1], by_row(out["hidden_pre"]))
    for row, ends in enumerate(out["boundaries_used"]):
        count = 1 + int(ends.sum())  # later entries are read by nobody
        golden.assert_close(result["shortened"][row, :count], out["shortened"][:count, row])
        golden.assert_close(backbone[1][row, :count], out["shortened_out"][:count, row])


def test_golden_hourglass_gradients(case):
    result = golden_result(case)
    for name, wanted in case.grad.items():
        tolerance = golden.GRADIENTS * np.abs(wanted).max()
        golden.assert_close(result["grad"][name], wanted, atol=tolerance)


@pytest.mark.parametrize("path", golden.cases("dynamic_pooling", has_entropy_targets))
def test_golden_hourglass_entropy_targets(path):
    case = golden.load(path)
    # A predictor that is sure of the targets has no loss, so the targets are those of the model.
    cfg = golden_hourglass.segmenter(case.cfg)
    result = golden_result(case)
    rows = golden_hourglass.batch(case)
    counted = rows.targets >= 0
    unscored = counted.shape[1] - case.out["target_boundaries"].shape[1]
    sure = np.pad(case.out["target_boundaries"], ((0, 0), (unscored, 0))) * 200.0 - 100.0
    fair = dataclasses.replace(cfg, published=False)
    seen = Supervision(rows.ids, rows.document_ids, counted, result["logits"])
    loss, wanted = fair.loss(Boundaries(sure > 0, sure, sure), seen)
    assert loss < 1e-6
    assert wanted == case.out["target_boundaries"].sum()


def sampled(**changes):
    return dynamic_pooling(segmenter=GumbelPatches(rate=0.3), **changes)


def with_keys(batch, seed=0):
    keys = np.random.default_rng(seed).integers(0, 2**32, (len(batch.ids), 2), dtype=np.uint32)
    return dataclasses.replace(batch, keys=keys)


@functools.cache
def run(config):
    graphdef, params = split_model(config)
    return jax.jit(lambda batch: nnx.merge(graphdef, params)(batch))


def test_sampled_boundaries_of_a_prefix_are_those_of_the_row():
    rows = with_keys(random_rows(1))
    whole = run(sampled())(rows)
    without = run(sampled())(dataclasses.replace(rows, keys=None))
    assert (np.asarray(whole.patch_starts) != np.asarray(without.patch_starts)).any()
    for size in (1, LENGTH - 3):
        cut = Batch(rows.ids[:, :size], rows.targets[:, :size], rows.document_ids[:, :size])
        part = run(sampled())(dataclasses.replace(cut, keys=rows.keys))
        np.testing.assert_array_equal(part.patch_starts, whole.patch_starts[:, :size])
        np.testing.assert_allclose(part.logits, whole.logits[:, :size], atol=2e-5)


def test_sampled_boundaries_are_causal_under_byte_flips():
    row = jax.tree.map(lambda rows: np.repeat(rows, ROWS, axis=0), random_rows(2, rows=1))
    row = dataclasses.replace(row, keys=np.ones((ROWS, 2), np.uint32))
    flipped = row.ids.copy()
    flipped[np.arange(ROWS), np.arange(LENGTH)] ^= 1
    before = run(sampled())(row)
    after = run(sampled())(dataclasses.replace(row, ids=flipped))
    earlier = np.tril(np.ones((ROWS, LENGTH), bool), k=-1)
    changed = (np.asarray(before.logits) != np.asarray(after.logits)).any(axis=-1)
    assert not changed[earlier].any()
    assert np.diag(changed)[1:].all()


def test_each_row_and_each_step_has_noise_of_its_own():
    rng = jax.random.key_data(jax.random.key(0))
    states = [SimpleNamespace(rng=rng, step=number) for number in range(3)]
    keys = [step._row_keys(state, 4) for state in states]
    assert len({tuple(key) for key in np.concatenate(keys).tolist()}) == 12


def test_no_boundary_and_every_boundary_are_read():
    for size, patches in ((LENGTH + 1, 2), (1, LENGTH)):  # the first symbol ends a patch
        output = run(dynamic_pooling(segmenter=FixedPatches(size)))(random_rows(4))
        assert output.patch_starts.sum() == ROWS * patches
        assert output.overflow == 0
        assert np.isfinite(output.logits).all()


# The gradient of boundaries


SIZE = 6
EVERY = np.array(list(itertools.product([0.0, 1.0], repeat=SIZE)), np.float32)
"""All boundaries of the first symbols of a row."""


@functools.cache
def losses_and_estimates(gradient):
    """(row, weights of its positions) -> the loss with each of EVERY, and estimated gradients."""
    config = dynamic_pooling(segmenter=GumbelPatches(), boundary_gradient=gradient)
    graphdef, params = split_model(config)

    @jax.jit
    def run(row, weights):
        rows = jax.tree.map(lambda x: jnp.repeat(x, len(EVERY), axis=0), row)

        def losses(b):
            def find(self, *args, **kwargs):
                return Boundaries(jnp.asarray(EVERY > 0.5), b, jnp.zeros_like(b)), None

            with mock.patch.object(LearnedSegmenter, "__call__", find):
                nats = nnx.merge(graphdef, params)(rows).nats(rows.targets)
            return (nats * weights[None, :]).sum(axis=1)

        values, pull = jax.vjp(losses, jnp.asarray(EVERY))
        return values, pull(jnp.ones_like(values))[0]

    return run


def expected_gradients(gradient, seed):
    """The exact gradient of the expected loss in the boundaries' logits, and the estimator's mean.

    Each boundary is independent with a probability of its own.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, SIZE)
    p = 1 / (1 + np.exp(-logits))
    weights = rng.normal(0, 1, SIZE).astype(np.float32)
    row = random_rows(seed, rows=1, length=SIZE)
    found = losses_and_estimates(gradient)(row, weights)
    values, estimates = (np.asarray(each, np.float64) for each in found)
    probability = np.prod(np.where(EVERY > 0.5, p, 1 - p), axis=1)
    score = np.where(EVERY > 0.5, 1 - p, -p)  # of the logarithm of the probability
    slope = p * (1 - p)
    return probability * values @ score, slope * (probability @ estimates)


def cosine(a, b):
    return (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))


def test_the_counterfactual_gradient_points_where_the_expected_loss_falls():
    pairs = {
        gradient: [expected_gradients(gradient, seed) for seed in range(12)]
        for gradient in ("counterfactual", "published")
    }
    agreement = {
        gradient: cosine(*(np.concatenate(values) for values in zip(*found, strict=True)))
        for gradient, found in pairs.items()
    }
    assert agreement["counterfactual"] == pytest.approx(0.78, abs=0.03)
    assert agreement["published"] == pytest.approx(0.32, abs=0.03)


# Configs


@pytest.mark.parametrize(
    "segmenter",
    [
        RulePatches("space"),
        FixedPatches(3),
        GumbelPatches(rate=0.4, hidden=7),
        EntropyPatches(left=3),
        FlexitokensPatches(bands=(Band("eng", 0.3, 0.02), Band("rus", 0.2, 0.01))),
    ],
)
def test_a_saved_config_gives_back_the_kind(segmenter):
    config = ExperimentConfig(DynamicPoolingConfig(segmenter=segmenter))
    assert from_saved(as_saved(config)) == config


def test_a_saved_kind_that_is_unknown_is_named():
    saved = as_saved(ExperimentConfig(DynamicPoolingConfig()))
    saved["model"]["segmenter"]["kind"] = "gumble"
    with pytest.raises(UserError, match=r"config\.model\.segmenter\.kind is 'gumble'.*gumbel"):
        from_saved(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmenter": GumbelPatches(rate=0.0)}, r"model\.segmenter\.rate is 0\.0"),
        ({"segmenter": UnigramPatches(rate=1.5)}, r"model\.segmenter\.rate is 1\.5"),
        (
            {"segmenter": FlexitokensPatches(bands=(Band("a", 1.2, 0),))},
            r"model\.segmenter\.bands\[0\]\.rate is 1\.2",
        ),
        ({"segmenter": FlexitokensPatches(rate=0.3, deviation=0.1)}, "without a lower bound"),
        ({"published_blocks": True}, "gelu or relu"),
        ({"width": 100}, "no multiple of model.head_width"),
        ({"pre_depth": 0}, "model.pre_depth is 0"),
    ],
)
def test_a_config_that_cannot_be_is_one_clear_sentence(options, message):
    with pytest.raises(UserError, match=message):
        DynamicPoolingConfig(**options)


def test_room_follows_the_kind():
    room = {
        FixedPatches(4): 4 / 1.125,
        GumbelPatches(rate=0.25): 3.2,
        FlexitokensPatches(bands=(Band("a", 0.2, 0.01), Band("b", 0.4, 0.01))): 2.0,
        GumbelPatches(rate=0.9): 1.0,
    }
    for segmenter, size in room.items():
        assert segmenter.default_bytes_per_slot == size
    config = DynamicPoolingConfig(segmenter=GumbelPatches(rate=0.25), bytes_per_slot=5.0)
    assert config.capacity(1000) == 201
