import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.nn.attention import biased
from bytelm.nn.attention.biased import (
    biased_attention,
    distance_windows,
    position_windows,
    query_block,
    whole_bias,
)
from bytelm.nn.attention.blockwise import MASKED

ROWS, KEYS, HEADS, SIZE = 3, 37, 2, 4
KINDS = ("none", "distances", "positions")


def arguments(kind, queries):
    """q, k, v, what makes the windows, biases of keys."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(ROWS, queries, HEADS, SIZE))
    k, v = rng.normal(size=(2, ROWS, KEYS, HEADS, SIZE))
    biases = {
        "none": None,
        "distances": rng.normal(size=(HEADS, queries + KEYS)),
        "positions": rng.normal(size=(ROWS, HEADS, queries, KEYS)),
    }
    keys_bias = rng.normal(size=(ROWS, KEYS))
    keys_bias[0, 4:] = MASKED
    keys_bias[1, 1] = -30
    arrays = (q, k, v, biases[kind], keys_bias)
    return tuple(None if x is None else x.astype(np.float32) for x in arrays)


def attend(q, k, v, bias, keys_bias, softmax1=False):
    block = query_block(q.shape[1], k.shape[1], q.shape[2])
    if bias is not None:
        distances = bias.ndim == 2
        bias = distance_windows(bias, KEYS, block) if distances else position_windows(bias, block)
    return biased_attention(q, k, v, bias, keys_bias, softmax1=softmax1)


def plain(q, k, v, bias, keys_bias, softmax1=False, xp=np):
    """Whole arrays of scores, in float64 for numpy's."""
    scores = xp.einsum("bthk,bshk->bhts", q, k, **({"dtype": np.float64} if xp is np else {}))
    if bias is not None and bias.ndim == 2:
        queries = q.shape[1]
        distances = np.arange(KEYS)[None, :] - np.arange(queries)[:, None]
        bias = bias[:, queries + distances][None]
    scores = scores if bias is None else scores + bias
    scores = scores if keys_bias is None else scores + keys_bias[:, None, None, :]
    top = scores.max(axis=-1, keepdims=True)
    top = xp.maximum(top, 0.0) if softmax1 else top
    weights = xp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True) + (xp.exp(-top) if softmax1 else 0)
    return xp.einsum("bhts,bshk->bthk", weights / total, v)


compiled = jax.jit(attend, static_argnums=5)


@pytest.mark.parametrize("queries, block", [(128, 128), (704, 176), (736, 128), (1024, 128)])
def test_blocks_are_filled_by_queries(queries, block):
    assert query_block(queries, queries, HEADS) == block


@pytest.mark.parametrize("softmax1", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_turn", [False, True])
def test_it_is_the_plain_sum(kind, softmax1, in_turn, monkeypatch):
    queries = 5
    if in_turn:
        queries = 190  # two blocks, the second not full
        monkeypatch.setattr(biased, "MANY_SCORES", 0)
        assert query_block(queries, KEYS, HEADS) == 96
    given = arguments(kind, queries)
    found = jax.jit(lambda *arrays: attend(*arrays, softmax1))(*given)
    np.testing.assert_allclose(found, plain(*given, softmax1), atol=1e-5)


@pytest.mark.parametrize("softmax1", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_turn", [False, True])
def test_gradients_are_those_of_the_plain_sum(kind, softmax1, in_turn, monkeypatch):
    if in_turn:
        monkeypatch.setattr(biased, "MANY_SCORES", 0)
    given = arguments(kind, 190 if in_turn else 5)
    target = np.random.default_rng(1).normal(size=given[0].shape).astype(np.float32)
    places = [place for place, array in enumerate(given) if array is not None]

    def gradient(function, **keywords):
        def loss(arrays):
            chosen = dict(zip(places, arrays, strict=True))
            mixed = function(*(chosen.get(place) for place in range(5)), softmax1, **keywords)
            return (mixed * target).sum()

        return jax.jit(jax.grad(loss))([given[place] for place in places])

    for ours, wanted in zip(gradient(attend), gradient(plain, xp=jnp), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-5)
        assert np.abs(wanted).max() > 1e-2


def test_rows_in_turn_hold_the_scores_of_a_block(monkeypatch):
    q, k, v, bias, keys_bias = arguments("distances", 300)

    def largest():
        compiled = jax.jit(jax.grad(lambda q: attend(q, k, v, bias, keys_bias).sum()))
        shapes = str(compiled.trace(q).jaxpr)
        return "f32[2,3,37,300]" in shapes

    assert largest()
    monkeypatch.setattr(biased, "MANY_SCORES", 0)
    assert not largest()


def test_a_scan_over_layers_keeps_no_biases():
    """Nor do the blocks' biases grow with the pairs of positions."""

    def temporary_bytes(length):
        def loss(x, scales, of_distance, keys_bias):
            windows = distance_windows(of_distance, length, query_block(length, length, HEADS))

            def layer(x, scale):
                return x + biased_attention(
                    scale * x, x, x, windows, keys_bias, softmax1=False
                ), None

            return jax.lax.scan(layer, x, scales)[0].sum()

        shapes = ((2, length, HEADS, SIZE), (2,), (HEADS, 2 * length), (2, length))
        arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        compiled = jax.jit(jax.grad(loss)).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(4096) < 2.2 * temporary_bytes(2048)


def test_softmax1_of_large_and_of_small_scores():
    q, k, v, bias, keys_bias = arguments("distances", 5)
    large = (1e3 * q, k, v, bias, keys_bias)
    np.testing.assert_allclose(compiled(*large, True), plain(*large, True), atol=1e-5)
    small = (q, k, v, bias, keys_bias - 200)
    np.testing.assert_array_equal(compiled(*small, True), np.zeros(q.shape))


def test_a_row_without_keys():
    q, k, v, bias, keys_bias = arguments("distances", 5)
    keys_bias[2] = MASKED
    with_one = compiled(q, k, v, bias, keys_bias, True)
    assert (with_one[2] == 0).all() and (np.asarray(with_one[:2]) != 0).all()
    found = compiled(q, k, v, bias, keys_bias, False)
    np.testing.assert_allclose(found[2], np.broadcast_to(v[2].mean(axis=0), q[2].shape), atol=1e-5)
    gradient = jax.grad(lambda v: compiled(q, k, v, bias, keys_bias, False)[2].sum())(v)
    np.testing.assert_allclose(gradient[2], np.full(v[2].shape, 5 / KEYS), rtol=1e-5)


def test_windows_are_of_the_biases():
    of_distance = np.arange(HEADS * 20, dtype=np.float32).reshape(HEADS, 20)
    for block in (1, 3, 8, 13):
        windows = distance_windows(of_distance, 7, block)
        found = whole_bias(windows, 13, 7)
        for query in range(13):
            np.testing.assert_array_equal(found[:, query], of_distance[:, 13 - query : 20 - query])
