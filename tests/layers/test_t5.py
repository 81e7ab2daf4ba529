import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.layers import t5
from bytelm.layers.attention_xla import MASKED
from bytelm.layers.t5 import BUCKETS, RelativeBias, attend, causal

ROWS, QUERIES, KEYS, HEADS, SIZE = 3, 5, 7, 2, 4


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("length", [1, 2, 5, 300])
def test_biases_of_a_row_are_those_between_its_positions(bidirectional, length):
    bias = RelativeBias(HEADS, bidirectional=bidirectional, scale=1.0, rngs=nnx.Rngs(0))
    assert bias.table.shape == (BUCKETS, HEADS)
    positions = jnp.arange(length)[None, :]
    of_row = bias.of_row(length)
    assert of_row.shape == (1, HEADS, length, length) and of_row.dtype == jnp.float32
    np.testing.assert_array_equal(of_row, bias.between(positions, positions))
    if length > 2:
        # One value on each diagonal, another ahead than behind in an encoder.
        for k in (-2, 0, 1):
            diagonal = np.diagonal(of_row[0, 0], k)
            assert (diagonal == diagonal[0]).all()
        assert (of_row[0, 0, 0, 1] != of_row[0, 0, 1, 0]) == bidirectional or not bidirectional


def test_biases_between_some_positions_are_those_of_the_row():
    bias = RelativeBias(HEADS, bidirectional=True, scale=1.0, rngs=nnx.Rngs(0))
    whole = np.asarray(bias.of_row(200))[0]
    queries, keys = np.array([[0, 3, 199], [5, 5, 6]]), np.array([[1, 198], [0, 150]])
    found = bias.between(jnp.asarray(queries), jnp.asarray(keys))
    for row in range(2):
        wanted = whole[:, queries[row][:, None], keys[row][None, :]]
        np.testing.assert_array_equal(found[row], wanted)


def random_arguments(bias="shared"):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(ROWS, QUERIES, HEADS, SIZE))
    k, v = rng.normal(size=(2, ROWS, KEYS, HEADS, SIZE))
    biases = {
        "none": None,
        "shared": rng.normal(size=(1, HEADS, QUERIES, KEYS)),
        "of each row": rng.normal(size=(ROWS, HEADS, QUERIES, KEYS)),
    }
    keys_bias = rng.normal(size=(ROWS, KEYS))
    keys_bias[0, 4:] = MASKED
    keys_bias[1, 1] = -30
    arrays = (q, k, v, biases[bias], None if bias == "of each row" else keys_bias)
    return tuple(None if x is None else x.astype(np.float32) for x in arrays)


def plain(q, k, v, bias, keys_bias, softmax1):
    """In float64, one row, query and head at a time."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(*q.shape[:3]):
        scores = k[b, :, h].astype(np.float64) @ q[b, t, h]
        scores += 0 if bias is None else bias[b if len(bias) > 1 else 0, h, t]
        scores += 0 if keys_bias is None else keys_bias[b]
        top = max(0, scores.max()) if softmax1 else scores.max()
        weights = np.exp(scores - top)
        weights /= weights.sum() + (np.exp(-top) if softmax1 else 0)
        out[b, t, h] = weights @ v[b, :, h]
    return out


attend_compiled = jax.jit(attend, static_argnums=5)


@pytest.mark.parametrize("softmax1", [False, True])
@pytest.mark.parametrize("bias", ["none", "shared", "of each row"])
def test_attention_is_the_plain_sum(bias, softmax1):
    arguments = random_arguments(bias)
    found = attend_compiled(*arguments, softmax1)
    np.testing.assert_allclose(found, plain(*arguments, softmax1), atol=1e-5)


def test_softmax1_of_large_and_of_small_scores():
    q, k, v, bias, keys_bias = random_arguments()
    large = (1e3 * q, k, v, bias, keys_bias)
    found = attend_compiled(*large, True)
    np.testing.assert_allclose(found, plain(*large, True), atol=1e-5)
    small = (q, k, v, bias, keys_bias - 200)
    np.testing.assert_array_equal(attend_compiled(*small, True), np.zeros(q.shape))


def test_a_row_without_keys():
    q, k, v, bias, keys_bias = random_arguments()
    keys_bias[2] = MASKED
    with_one = attend_compiled(q, k, v, bias, keys_bias, True)
    assert (with_one[2] == 0).all() and (np.asarray(with_one[:2]) != 0).all()
    assert np.isfinite(attend_compiled(q, k, v, bias, keys_bias, False)).all()


@pytest.mark.parametrize("bias", ["none", "shared", "of each row"])
def test_rows_taken_in_turn_are_rows_at_once(bias, monkeypatch):
    given = random_arguments(bias)
    target = np.random.default_rng(1).normal(size=given[0].shape).astype(np.float32)
    present = [i for i, x in enumerate(given) if x is not None]

    def loss(arrays, softmax1):
        arguments = [None] * 5
        for place, array in zip(present, arrays, strict=True):
            arguments[place] = array
        mixed = attend(*arguments, softmax1)
        return (mixed * target).sum(), mixed

    def run(softmax1):
        gradient = jax.value_and_grad(functools.partial(loss, softmax1=softmax1), has_aux=True)
        traced = jax.jit(gradient).trace([given[i] for i in present])
        return "scan" in str(traced.jaxpr), traced.lower().compile()([given[i] for i in present])

    at_once = run(True)
    monkeypatch.setattr(t5, "MANY_SCORES", 0)
    in_turn = run(True)
    assert (at_once[0], in_turn[0]) == (False, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), at_once[1], in_turn[1])
    assert all(np.abs(leaf).max() > 1e-2 for leaf in at_once[1][1])


def test_a_causal_bias_hides_what_is_ahead_and_empty_slots():
    bias = jnp.ones((1, 1, 3, 4))
    found = causal(bias, jnp.array([[0, 1, 5]]), jnp.array([[0, 1, -1, 5]]))
    hidden = [[False, True, True, True], [False, False, True, True], [False, False, True, False]]
    np.testing.assert_array_equal(found[0, 0], np.where(hidden, np.float32(MASKED), 1))
