"""H-Net's router and its loss: the authors' own numbers, and what follows from the formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.statistics import warnings
from bytelm.patching.router import RatioLoss, RouterPatches
from bytelm.patching.segmenter import Boundaries, Needs, Supervision
from bytelm.patching.smoothing import decided
from tests.models import golden

NEEDS = Needs("start", states=True, gradient=True)
PROBABILITIES = 1e-6
GRADIENTS = 1e-3
"""Tolerance of a gradient, relative to the root mean square of its array."""


@pytest.fixture(
    params=golden.cases("hnet", lambda file: "in.packed.cotangent_prob" in file), scope="module"
)
def case(request):
    return golden.load(request.param)


def router(width, weights=None, config=RouterPatches(), needs=NEEDS):  # noqa: B008
    found = config.build(width, needs, norm=None, relu=False, rngs=nnx.Rngs(0))
    for part, name in ((found.query, "q"), (found.key, "k")):
        if weights is not None:
            part.kernel.set_value(jnp.asarray(weights[f"{name}_proj_layer.weight"]).T)
    return found


def documents_of(borders):
    return np.repeat(np.arange(1, len(borders)), np.diff(borders))[None].astype(np.int32)


def layouts(case):
    """Of each layout its name, states `[B, T, d]`, and document ids."""
    packed = case.input["packed.hidden"][None], documents_of(case.input["packed.cu_seqlens"])
    mask = case.input["masked.mask"].astype(np.int32)
    return {"packed": packed, "masked": (case.input["masked.hidden"], mask)}


def test_golden_probabilities_and_boundaries(case):
    route = router(case.cfg["d_model"], case.param)

    @jax.jit
    def find(states, documents):
        found, _ = route(states, documents, documents)
        return found, decided(found)

    for name, (states, documents) in layouts(case).items():
        found, c = jax.device_get(find(states, documents))
        here = documents > 0
        wanted = {
            k: case.out[f"{name}.{k}"] for k in ("boundary_prob", "boundary_mask", "selected_probs")
        }
        wanted = {k: v[None] if name == "packed" else v for k, v in wanted.items()}
        p = found.probabilities
        golden.assert_close(p[here], wanted["boundary_prob"][here][:, 1], PROBABILITIES)
        golden.assert_close(c[here], wanted["selected_probs"][here][:, 0], PROBABILITIES)
        np.testing.assert_array_equal(found.hard, wanted["boundary_mask"])


def test_golden_gradients(case):
    def weighted(weights, states, documents, of_p, of_c):
        found, _ = router(case.cfg["d_model"], weights)(states, documents, documents)
        return (found.probabilities * of_p).sum() + (decided(found) * of_c).sum()

    for name, (states, documents) in layouts(case).items():
        cotangents = (case.input[f"{name}.cotangent_{k}"] for k in ("prob", "selected"))
        of_p, of_c = (x.reshape(documents.shape) for x in cotangents)
        # Theirs do not know padding.
        documents = np.maximum(documents, 1)
        gradient = jax.jit(jax.grad(weighted, argnums=(0, 1)))
        of_weights, of_states = gradient(case.param, states, documents, of_p, of_c)
        found = {**of_weights, "hidden": of_states.reshape(case.grad[f"{name}.hidden"].shape)}
        for key, value in found.items():
            wanted = case.grad[f"{name}.{key}"]
            golden.assert_close(value, wanted, GRADIENTS * np.sqrt((wanted**2).mean()))


def test_golden_steps(case):
    find = jax.jit(router(case.cfg["d_model"], case.param))
    prefill = case.input["step.prefill_mask"].astype(np.int32)
    states = case.input["masked.hidden"][:, : prefill.shape[1]]
    carry = router(case.cfg["d_model"]).init_carry(*prefill.shape, jnp.dtype("float32"))
    found, carry = find(states, prefill, prefill, carry)
    np.testing.assert_array_equal(found.hard, case.out["step.prefill_boundary_mask"])
    last, begun = carry
    np.testing.assert_array_equal(begun, case.out["step.state_has_seen"])
    seen = np.asarray(begun)
    golden.assert_close(last[seen], case.out["step.state_last_hidden"][seen], PROBABILITIES)
    one = np.ones((len(prefill), 1), np.int32)
    for step, states in enumerate(case.input["step.hidden"]):
        found, carry = find(states[:, None], one, one, carry)
        golden.assert_close(
            found.probabilities[:, 0], case.out["step.boundary_prob"][step][:, 1], PROBABILITIES
        )
        np.testing.assert_array_equal(found.hard[:, 0], case.out["step.boundary_mask"][step])
        c = case.out["step.selected_probs"][step][:, 0]
        golden.assert_close(decided(found)[:, 0], c, PROBABILITIES)


def test_golden_degenerate_vectors(case):
    states = case.input["degenerate.hidden"]
    ids = np.ones(states.shape[:2], np.int32)
    found, _ = jax.jit(router(states.shape[2]))(states, ids, ids)
    wanted = case.out["degenerate.boundary_prob"][:, :, 1]
    golden.assert_close(found.probabilities, wanted, PROBABILITIES)
    np.testing.assert_array_equal(found.hard, case.out["degenerate.boundary_mask"])


@pytest.fixture(params=golden.cases("hnet", lambda file: "in.c0.N" in file), scope="module")
def ratio_case(request):
    return golden.load(request.param)


def ratio_loss(p, hard, counted, target):
    here = hard & counted
    sums = counted.sum(), here.sum(), jnp.where(counted, p, 0).sum()
    return RatioLoss(*sums, target, weight=0.5).value


def test_golden_ratio_loss(ratio_case):
    case = ratio_case
    for index in range(case.cfg["n_cases"]):
        name = f"c{index}"
        pair, hard = case.input[f"{name}.boundary_prob"], case.input[f"{name}.boundary_mask"]
        everywhere, target = np.ones_like(hard), float(case.input[f"{name}.N"])
        loss, gradient = jax.value_and_grad(ratio_loss)(
            jnp.asarray(pair[..., 1]), hard, everywhere, target
        )
        golden.assert_close(loss, case.out[f"{name}.loss"], PROBABILITIES)
        wanted = case.grad[f"{name}.boundary_prob"]
        golden.assert_close(gradient, wanted[..., 1], GRADIENTS * np.sqrt((wanted**2).mean()))
        if f"{name}.valid" in case.input:
            valid = case.input[f"{name}.valid"]
            loss = ratio_loss(pair[..., 1], hard, valid, target)
            golden.assert_close(loss, case.out[f"{name}.loss_valid_only"], PROBABILITIES)


def test_a_document_in_a_row_is_routed_as_if_alone():
    states = np.random.default_rng(0).normal(size=(1, 12, 5)).astype(np.float32)
    documents = np.repeat([[1, 2, 0]], [5, 4, 3], axis=1).astype(np.int32)
    route = jax.jit(router(5))
    found, _ = jax.device_get(route(states, documents, documents))
    for first, last in ((0, 5), (5, 9)):
        part = documents[:, first:last]
        alone, _ = route(states[:, first:last], part, part)
        np.testing.assert_array_equal(found.hard[:, first:last], alone.hard)
        golden.assert_close(found.probabilities[:, first:last], alone.probabilities, 1e-7)
    assert not found.hard[0, 9:].any() and found.hard[0, [0, 5]].all()


def test_a_patch_that_ends_with_its_boundary_does_not_end_at_once():
    ends = dataclasses.replace(NEEDS, mark="end")
    ids = np.ones((1, 3), np.int32)
    route = jax.jit(router(4, needs=ends))
    found, _ = jax.device_get(route(np.ones((1, 3, 4), np.float32), ids, ids))
    assert found.probabilities[0, 0] == 0.5 and not found.hard.any()


def test_no_vector_has_a_gradient_that_is_not_finite():
    ids = np.ones((1, 6), np.int32)

    def total(states):
        return router(3)(states, ids, ids)[0].probabilities.sum()

    states = jnp.ones((1, 6, 3)).at[0, 2:4].set(0.0)
    assert np.isfinite(jax.jit(jax.grad(total))(states)).all()


def test_the_decision_carries_the_gradient_of_its_probability():
    states = np.random.default_rng(1).normal(size=(1, 9, 4)).astype(np.float32)
    ids = np.ones((1, 9), np.int32)
    weights = np.random.default_rng(2).normal(size=(1, 9)).astype(np.float32)

    def weighted(states, name):
        return (getattr(router(4)(states, ids, ids)[0], name) * weights).sum()

    found, _ = jax.device_get(jax.jit(router(4))(states, ids, ids))
    np.testing.assert_array_equal(found.values, found.hard.astype(np.float32))
    gradient = jax.jit(jax.grad(weighted), static_argnums=1)
    gradients = (gradient(states, name) for name in ("values", "probabilities"))
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("level", [1, 3])
def test_its_loss_and_statistics_are_those_of_its_level(level):
    document_ids = np.array([[1] * 8, [1] * 4 + [0] * 4], np.int32)
    hard = np.arange(16).reshape(2, 8) % 4 == 0
    p = np.where(hard, 0.9, 0.2).astype(np.float32)
    seen = Supervision(document_ids, document_ids, document_ids > 0, None, level=level)
    found = Boundaries(hard & (document_ids > 0), hard * 1.0, probabilities=p)
    losses, statistics = router(2, config=RouterPatches(target=2.5, weight=0.5)).supervise(
        found, seen
    )
    share, mean = 3 / 12, (3 * 0.9 + 9 * 0.2) / 12
    wanted = 2.5 / 1.5 * (1.5 * share * mean + (1 - share) * (1 - mean))
    end = "" if level == 1 else f"/level_{level}"
    (name, loss), *_ = losses.items()
    assert (len(losses), name, loss.weight) == (1, f"boundaries{end}", 0.5)
    assert loss.value == pytest.approx(wanted)
    assert loss.statistic.name == f"boundaries/ratio_loss{end}"
    values = {ratio.statistic.name: ratio.value for ratio in statistics}
    assert values[f"boundaries/rate{end}"] == share
    assert values[f"boundaries/probability{end}"] == pytest.approx(mean)
    assert values[f"boundaries/target{end}"] == pytest.approx(0.4)
    assert ("boundaries/f1" in values) == (level == 1)
    assert not warnings(statistics)


def test_its_collapse_is_told_of_its_level():
    ids = np.ones((1, 8), np.int32)
    everywhere = Boundaries(ids > 0, ids * 1.0, probabilities=ids * 1.0)
    for level, words in ((1, "model.segmenter.weight"), (2, "symbols of level 2 are boundaries")):
        seen = Supervision(ids, ids, ids > 0, None, level=level)
        (text,) = warnings(router(2).supervise(everywhere, seen)[1]).values()
        assert "collapsed" in text and words in text
