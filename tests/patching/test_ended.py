import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.patching.ended import after_ends, find_ended, gather_mean, spread_ended
from bytelm.patching.patches import NO_PATCH
from tests.models import golden

find = jax.jit(find_ended, static_argnums=2)


def ended(ends, document_ids=None, capacity=None):
    ends = np.asarray(ends, bool)
    document_ids = np.ones(ends.shape, np.int32) if document_ids is None else document_ids
    return find(ends, np.asarray(document_ids), capacity or 2 * ends.shape[1])


def made_and_pulled(function, cotangent, *arguments):
    """What the function makes, and its gradients for the cotangent."""

    @jax.jit
    def run(cotangent, *arguments):
        made, pull = jax.vjp(function, *arguments)
        return made, pull(cotangent)

    return run(cotangent, *arguments)


def test_a_symbol_reads_the_patch_that_ended_last():
    found = ended([[0, 0, 1, 0, 1, 1, 0, 0]], capacity=6)
    assert found.null.tolist() == [[True, False, False, False, False, False]]
    assert found.index.tolist() == [[1, 1, 1, 2, 2, 3, 6, 6]]
    assert found.read.tolist() == [[0, 0, 1, 1, 2, 3, 3, 3]]
    starts = after_ends(found.boundaries, jnp.ones((1, 8), jnp.int32))
    assert starts.tolist() == [[1, 0, 0, 1, 0, 1, 1, 0]]
    assert found.total.tolist() == [4]
    assert found.overflow == 0


def test_each_document_has_a_null_vector_and_ended_its_own():
    #        doc 1     doc 2  doc 3      padding
    ends = [[0, 1, 0, 1, 0, 0, 1, 1, 0, 0]]
    docs = [[1, 1, 1, 2, 2, 3, 3, 3, 0, 0]]
    found = ended(ends, docs, capacity=12)
    assert found.null[0, :8].tolist() == [1, 0, 1, 0, 1, 0, 0, 0]
    assert found.document_ids[0, :8].tolist() == [1, 1, 2, 2, 3, 3, 3, 0]
    assert found.index.tolist() == [[1, 1, 12, 3, 12, 5, 5, 6, 12, 12]]
    none = NO_PATCH
    assert found.read.tolist() == [[0, 1, 1, 3, 3, 4, 5, 6, none, none]]


@pytest.mark.parametrize("capacity", [1, 2, 3, 4])
def test_a_full_row_ends_no_more_patches(capacity):
    ends = [[0, 1, 0, 1, 0, 1, 0, 0]]
    found = ended(ends, capacity=capacity)
    kept = capacity - 1  # the null vector takes one
    assert found.total.tolist() == [capacity]
    assert found.boundaries.sum() == kept and found.overflow == 3 - kept
    assert found.read.max() == kept


def test_a_document_that_begins_in_a_full_row_reads_nothing():
    found = ended([[1, 1, 0, 1, 0]], [[1, 1, 2, 2, 2]], capacity=2)
    assert found.total.tolist() == [2]
    assert found.overflow == 3  # an end, the null vector of the second document, and its end
    assert found.read.tolist() == [[1, 1, NO_PATCH, NO_PATCH, NO_PATCH]]
    y = spread_ended(jnp.ones((1, 2, 3)), jnp.zeros((1, 5)), found, "published")
    assert (np.asarray(y[0, 2:]) == 0).all()


@pytest.fixture(
    params=golden.cases("dynamic_pooling", lambda file: "in.cotangent_down" in file),
    scope="module",
)
def case(request):
    return golden.load(request.param)


def prepared(case):
    """Their boundaries; and those with an end for each unfinished patch that they pool too."""
    boundaries, entries = case.input["boundaries"], case.out["shortened"].shape[0]
    closed = boundaries.copy()
    closed[(boundaries.sum(axis=1) + 1 < entries), -1] = 1
    return boundaries, closed, entries


def test_golden_pooling(case):
    boundaries, closed, entries = prepared(case)
    found = ended(closed, capacity=entries)
    hidden = np.swapaxes(case.input["hidden"], 0, 1)
    cotangent = np.swapaxes(case.input["cotangent_down"], 0, 1)

    def pooled(hidden, null, b):
        means = gather_mean(hidden, b, found, "published")
        return jnp.where(found.null[:, :, None], null[0, 0][None, None], means)

    made, gradients = made_and_pulled(
        pooled, cotangent, hidden, case.input["null_group"], boundaries
    )
    golden.assert_close(made, np.swapaxes(case.out["shortened"], 0, 1), atol=1e-6)
    of_hidden, of_null, of_boundaries = gradients
    golden.assert_close(of_hidden, np.swapaxes(case.grad["down.hidden"], 0, 1), atol=1e-5)
    golden.assert_close(of_null, case.grad["down.null_group"], atol=1e-5)
    golden.assert_close(of_boundaries, case.grad["down.boundaries"], atol=1e-4)


def test_golden_upsampling(case):
    boundaries, _, entries = prepared(case)
    found = ended(boundaries, capacity=entries)
    shortened = np.swapaxes(case.input["shortened"], 0, 1)

    def spread(shortened, b):
        return spread_ended(shortened, b, found, "published")

    cotangent = np.swapaxes(case.input["cotangent_up"], 0, 1)
    made, (of_shortened, of_boundaries) = made_and_pulled(spread, cotangent, shortened, boundaries)
    golden.assert_close(made, np.swapaxes(case.out["upsampled"], 0, 1), atol=0)
    golden.assert_close(of_shortened, np.swapaxes(case.grad["up.shortened"], 0, 1), atol=1e-5)
    np.testing.assert_array_equal(of_boundaries, case.grad["up.boundaries"])


def test_the_counterfactual_gradient_of_a_boundary_is_the_difference_it_makes():
    rng = np.random.default_rng(0)
    size, width = 7, 3
    every = np.array(list(itertools.product([0, 1], repeat=size)))
    x, weights = (
        jax.device_put(rng.normal(size=(1, size, width)).astype(np.float32)) for _ in range(2)
    )
    matrix = jax.device_put(rng.normal(size=(width, width)).astype(np.float32))
    found = ended(every)

    def losses(b):
        """Linear in the pooled vectors, through a backbone without attention."""
        means = gather_mean(jnp.repeat(x, len(b), axis=0), b, found, "counterfactual")
        spread = spread_ended(means @ matrix + 0.3, b, found, "counterfactual")
        return (weights * spread).sum(axis=(1, 2))

    values, (gradients,) = made_and_pulled(
        losses, np.ones(len(every), np.float32), every.astype(np.float32)
    )
    values = np.asarray(values)
    flipped = np.arange(len(every))[:, None] ^ (1 << np.arange(size)[::-1])[None, :]
    difference = np.where(every, 1, -1) * (values[:, None] - values[flipped])
    closes = np.cumsum(every[:, ::-1], axis=1)[:, ::-1] - every > 0
    present, absent = every == 1, (every == 0) & closes
    np.testing.assert_allclose(gradients[present], difference[present], atol=1e-4)
    assert (np.asarray(gradients)[(every == 0) & ~closes] == 0).all()
    # Where there is no boundary, the vector of the patch that it would end is not known.
    assert np.corrcoef(gradients[absent], difference[absent])[0, 1] > 0.7


def test_gradients_do_not_cross_documents():
    rng = np.random.default_rng(1)
    x = jax.device_put(rng.normal(size=(1, 8, 2)).astype(np.float32))
    ends, docs = np.array([[0, 1, 0, 1, 0, 1, 0, 1]], bool), [[1, 1, 1, 1, 2, 2, 2, 2]]
    found = ended(ends, docs)

    def loss(x, b):
        y = gather_mean(x, b, found, "counterfactual")
        return (spread_ended(y, b, found, "counterfactual")[:, 4:] ** 2).sum()

    of_x, of_b = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, ends.astype(np.float32))
    assert (np.asarray(of_x[0, :4]) == 0).all() and (np.asarray(of_b[0, :4]) == 0).all()
    assert (np.asarray(of_b[0, 4:6]) != 0).any()
