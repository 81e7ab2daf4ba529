import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.models.t5.blocks import BUCKETS, RelativeBias
from bytelm.nn.attention import biased
from bytelm.nn.attention.biased import whole_bias
from bytelm.nn.attention.blockwise import MASKED

HEADS = 2


def plain(bias, queries, keys):
    """Biases `[B, H, T, S]`, looked up one by one from the row of the bidirectional table."""
    table = np.asarray(bias.table[...])
    found = np.full((len(queries), HEADS, queries.shape[1], keys.shape[1]), np.float32(MASKED))
    for b, t, s in np.ndindex(len(queries), queries.shape[1], keys.shape[1]):
        distance = keys[b, s] - queries[b, t]
        if bias.bidirectional or (distance <= 0 and keys[b, s] >= 0):
            index = bucket_of(distance, bias.bidirectional)
            found[b, :, t, s] = table[index]
    return found


def bucket_of(distance, bidirectional):
    """Of one distance, as in the published code."""
    count = BUCKETS // 2 if bidirectional else BUCKETS
    ahead = count if bidirectional and distance > 0 else 0
    back = abs(distance)
    exact = count // 2
    if back < exact:
        return ahead + back
    ratio = np.log(np.float32(back) / np.float32(exact)) / np.log(128 / exact)
    return ahead + min(count - 1, exact + int(np.float32(ratio) * (count - exact)))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("length", [1, 2, 5, 190])
@pytest.mark.parametrize("many", [0, 2**17])
def test_biases_of_a_row(bidirectional, length, many, monkeypatch):
    monkeypatch.setattr(biased, "MANY_SCORES", many)
    bias = RelativeBias(HEADS, bidirectional=bidirectional, scale=1.0, rngs=nnx.Rngs(0))
    assert bias.table.shape == (BUCKETS, HEADS)
    positions = np.arange(length)[None, :]
    windows = jax.jit(bias.whole_rows, static_argnums=0)(length)
    assert windows.dtype == jnp.float32
    assert (windows.shape[2] < length) == (many == 0 and length == 190)
    wanted = plain(bias, positions, positions)[0]
    np.testing.assert_array_equal(whole_bias(windows, length, length), wanted)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_biases_between_some_positions(bidirectional):
    bias = RelativeBias(HEADS, bidirectional=bidirectional, scale=1.0, rngs=nnx.Rngs(0))
    queries, keys = np.array([[0, 3, 199], [5, 5, 6]]), np.array([[1, 198, 3, -1], [0, 150, 5, -1]])
    found = bias.between(jnp.asarray(queries), jnp.asarray(keys))
    assert found.shape == (HEADS, 2, 4, 3)
    wanted = plain(bias, queries, keys)
    np.testing.assert_array_equal(found.transpose(1, 0, 3, 2), wanted)
    if not bidirectional:
        assert (wanted == np.float32(MASKED)).any() and (wanted != np.float32(MASKED)).any()
