"""From patches back to symbols as in H-Net: the authors' own numbers, and overflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.patching.budget import Budget
from bytelm.patching.levels import OpenPatch, PatchingState, Segmentation, Symbols, segment, take
from bytelm.patching.patches import find_patches, gather_first
from bytelm.patching.segmenter import Boundaries, Segmenter
from bytelm.patching.smoothing import LEAST, confidence, decided, moving_average, smoothed
from tests.models import golden

GRADIENTS = 1e-3
"""Tolerance of a gradient, relative to the root mean square of its array."""


@pytest.fixture(params=golden.cases("hnet", lambda file: "in.masked.inner" in file), scope="module")
def case(request):
    return golden.load(request.param)


@pytest.fixture(params=["masked", "packed"])
def layout(request):
    return request.param


def rows(case, layout):
    """The inputs of a layout, those of a packed one as one row."""
    own = {k.partition(".")[2]: v for k, v in case.input.items() if k.startswith(layout)}
    if layout == "masked":
        return own | {"document_ids": own["mask"].astype(np.int32)}
    borders = own.pop("cu_seqlens")
    ids = np.repeat(np.arange(1, len(borders)), np.diff(borders)).astype(np.int32)
    return {k: v[None] for k, v in (own | {"document_ids": ids}).items()}


def cut_of(inputs, p):
    """The segmentation that the inputs give, with the probabilities p `[B, T]`."""
    hard, document_ids = inputs["boundary_mask"], inputs["document_ids"]
    boundaries = Boundaries(hard, hard * 1.0, probabilities=p)
    patches = find_patches(hard, document_ids, inputs["inner"].shape[1])
    return Segmentation(Symbols.of_rows(document_ids, document_ids), boundaries, patches)


@jax.jit
def joined_back(inputs):
    """The segmentation, and what joins the patches to the symbols; compiled as one program."""
    cut = cut_of(inputs, inputs["boundary_prob"][:, :, 1])
    z = cut.spread(smoothed(inputs["inner"], cut))
    joined = z * confidence(cut) + inputs["residual"]
    return cut, gather_first(inputs["hidden"], cut.patches), z, joined, decided(cut.boundaries)


def test_golden_values(case, layout):
    inputs = rows(case, layout)
    cut, chunks, z, joined, chosen = jax.device_get(joined_back(inputs))
    wanted = {k.partition(".")[2]: v for k, v in case.out.items() if k.startswith(layout)}
    if layout == "packed":
        wanted = {k: v[None] for k, v in wanted.items()}
    here, filled = inputs["document_ids"] > 0, np.asarray(cut.patches.valid)
    assert cut.patches.overflow == 0
    golden.assert_close(chunks[filled], wanted["chunks"][filled], 0)
    golden.assert_close(z[here], wanted["dechunked"][here], 1e-5)
    golden.assert_close(joined[here], wanted["combined"][here], 1e-5)
    golden.assert_close(chosen[here], wanted["selected_probs"][here][:, 0], 1e-6)


def test_golden_gradients(case, layout):
    inputs = rows(case, layout)
    here = (inputs["document_ids"] > 0)[:, :, None]

    def dechunked(inner, p):
        return cut_of(inputs, p).spread(smoothed(inner, cut_of(inputs, p)))

    def ema(inner, p):
        return (dechunked(inner, p) * inputs["cotangent"] * here).sum()

    def combined(inner, p, residual):
        joined = dechunked(inner, p) * confidence(cut_of(inputs, p)) + residual
        return (joined * inputs["cotangent"] * here).sum()

    def chunks(hidden):
        cut = cut_of(inputs, inputs["boundary_prob"][:, :, 1])
        found = gather_first(hidden, cut.patches) * inputs["cotangent_chunks"]
        return jnp.where(cut.patches.valid[:, :, None], found, 0).sum()

    inner, p = inputs["inner"], inputs["boundary_prob"][:, :, 1]
    of_ema = jax.jit(jax.grad(ema, argnums=(0, 1)))(inner, p)
    of_combined = jax.jit(jax.grad(combined, argnums=(0, 1, 2)))(inner, p, inputs["residual"])
    found = {
        "ema.inner": of_ema[0],
        "ema.boundary_prob": of_ema[1],
        "chunks.hidden": jax.jit(jax.grad(chunks))(inputs["hidden"]),
        "combined.inner": of_combined[0],
        "combined.boundary_prob": of_combined[1],
        "combined.residual": of_combined[2],
    }
    for name, value in found.items():
        wanted = case.grad[f"{layout}.{name}"]
        wanted = wanted[None] if layout == "packed" else wanted
        if name.endswith("boundary_prob"):
            wanted = wanted[:, :, 1] - wanted[:, :, 0]  # they take 1 - p for another input
        mask = np.ones(value.shape, bool)
        if value.shape[1] == here.shape[1] and name != "ema.inner" and name != "combined.inner":
            mask = np.broadcast_to(here if value.ndim == 3 else here[:, :, 0], value.shape)
        tolerance = GRADIENTS * np.sqrt((wanted**2).mean())
        golden.assert_close(np.asarray(value)[mask], wanted[mask], tolerance)


class Given(Segmenter):
    """Boundaries and probabilities of the next symbols, as the test gives them."""

    def __init__(self, hard, p):
        self.hard, self.p = hard, p

    def __call__(self, states, ids, document_ids, carry=None, keys=None):
        return Boundaries(self.hard, self.hard * 1.0, probabilities=self.p), carry

    def init_carry(self, rows, length, dtype):
        return ()


def test_golden_steps(case):
    row, prefill = case.cfg["step_row"], case.cfg["step_prefill"]
    own = {k: v[row : row + 1] for k, v in rows(case, "masked").items()}
    length = int(own["document_ids"].sum())
    hard, p, inner = own["boundary_mask"], own["boundary_prob"][:, :, 1], own["inner"]
    state = PatchingState.start(
        Given(hard, p), 1, length, Budget.of(lambda n: n, length), jnp.dtype("float32")
    )
    open_patch = OpenPatch.none(1, inner.shape[2], jnp.dtype("float32"))

    @jax.jit
    def read(hard, p, ids, first, opened, state, open_patch):
        symbols = Symbols.following(ids, first, jnp.array([hard.shape[1]]))
        cut, state = segment(Given(hard, p), None, symbols, lambda n: n, state, open=open_patch)
        slots = jnp.minimum(opened + jnp.arange(hard.shape[1]), inner.shape[1] - 1)[None]
        z = smoothed(take(jnp.asarray(inner), slots), cut)
        return cut.spread(z)[:, -1], opened + cut.patches.total[0], state, cut.after(z)

    opened, steps = 0, []
    for first, last in [(0, prefill), *((at, at + 1) for at in range(prefill, length))]:
        given = (values[:, first:last] for values in (hard, p, own["document_ids"]))
        last_of_them, *after = read(*given, np.array([first]), opened, state, open_patch)
        opened, state, open_patch = after
        steps.append(np.asarray(last_of_them))
        if first == 0:
            golden.assert_close(open_patch.vector, case.out["step.state_after_prefill"], 1e-5)
    golden.assert_close(
        np.concatenate(steps[1:]), case.out["step.dechunked"][: len(steps) - 1], 1e-5
    )


def test_the_average_is_the_recurrence():
    rng = np.random.default_rng(0)
    new, kept = rng.normal(size=(2, 9, 3)), rng.random((2, 9, 1))
    z = first = rng.normal(size=(2, 3))
    wanted = []
    for position in range(9):
        z = new[:, position] + kept[:, position] * z
        wanted.append(z)
    found = jax.jit(moving_average)(*(x.astype(np.float32) for x in (new, kept, first)))
    np.testing.assert_allclose(found, np.stack(wanted, axis=1), atol=1e-5)


def test_a_rule_averages_nothing_but_what_the_bounds_leave():
    hard = np.arange(8)[None] % 2 == 0
    ids = np.ones((1, 8), np.int32)
    y = np.arange(1, 5, dtype=np.float32)[None, :, None]

    @jax.jit
    def averaged(y):
        boundaries, patches = Boundaries(hard, hard * 1.0), find_patches(hard, ids, 4)
        cut = Segmentation(Symbols.of_rows(ids, ids), boundaries, patches)
        return smoothed(y, cut), confidence(cut)

    z, sure = averaged(y)
    np.testing.assert_allclose(z, y, rtol=LEAST * 1.01)
    np.testing.assert_array_equal(sure, np.ones((1, 8, 1)))


def test_a_boundary_without_a_slot_has_no_gradient_of_its_confidence():
    hard, ids = np.array([[1, 0, 1, 0, 1, 0]], bool), np.ones((1, 6), np.int32)

    def total(p):
        patches = find_patches(hard, ids, 2)
        cut = Segmentation(
            Symbols.of_rows(ids, ids), Boundaries(hard, hard * 1.0, None, p), patches
        )
        return confidence(cut).sum()

    gradient = jax.jit(jax.grad(total))(np.where(hard, 0.9, 0.2).astype(np.float32))
    np.testing.assert_array_equal(gradient, [[1, -1, 1, -1, 0, -1]])


def test_sampled_boundaries_learn_from_the_average():
    hard = np.arange(6)[None] % 2 == 0
    ids = np.ones((1, 6), np.int32)
    y = np.array([1, 3, 4], np.float32)[None, :, None]

    def last(soft):  # as `relaxed_bernoulli` makes values
        values = soft + jax.lax.stop_gradient(hard - soft)
        boundaries, patches = Boundaries(hard, values), find_patches(hard, ids, 3)
        return smoothed(y, Segmentation(Symbols.of_rows(ids, ids), boundaries, patches))[0, 2, 0]

    value, gradient = jax.jit(jax.value_and_grad(last))(np.full((1, 6), 0.6, np.float32))
    gradient = np.asarray(gradient)
    assert value == pytest.approx(4.0, abs=1e-3)
    # z_2 = P_2 y_2 + (1 - P_2) z_1: more of P_2 is more of y_2 and less of z_1.
    assert gradient[0, 4] == pytest.approx(4.0 - 3.0, abs=1e-3)
    np.testing.assert_array_equal(gradient[0, [1, 3, 5]], 0)
