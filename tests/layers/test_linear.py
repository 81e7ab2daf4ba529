import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.layers.linear import Dense, Embedding


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_dense_is_a_product_over_the_last_axis(shape):
    dense = Dense(5, 7, rngs=nnx.Rngs(0))
    x = normal(*shape)
    wanted = np.einsum("...i,io->...o", x, dense.kernel[...])
    np.testing.assert_allclose(dense(x), wanted, rtol=1e-5, atol=1e-6)


def test_dense_flattens_so_that_xla_sees_two_dimensions():
    dense = Dense(5, 7, rngs=nnx.Rngs(0))
    equations = jax.make_jaxpr(dense)(normal(2, 3, 5)).eqns
    products = [e for e in equations if e.primitive.name == "dot_general"]
    assert [e.invars[0].aval.shape for e in products] == [(6, 5)]


@pytest.mark.parametrize("gain", [1.0, 0.25, 0.0])
def test_dense_keeps_the_variance_times_the_square_of_its_gain(gain):
    kernel = Dense(256, 128, rngs=nnx.Rngs(0), gain=gain).kernel[...]
    assert float(kernel.std()) == pytest.approx(gain / 16, rel=0.02)
    assert kernel.dtype == jnp.float32


def test_dense_computes_in_the_dtype_of_its_input():
    dense = Dense(5, 7, rngs=nnx.Rngs(0))
    assert dense(normal(3, 5).astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_embedding_looks_up_rows_of_its_table():
    embedding = Embedding(6, 4, rngs=nnx.Rngs(0), scale=0.5)
    table = np.asarray(embedding.embedding[...])
    ids = jnp.array([[5, 0], [2, 2]])
    np.testing.assert_array_equal(embedding(ids, jnp.dtype("float32")), table[np.asarray(ids)])
    assert embedding(ids, jnp.dtype("bfloat16")).dtype == jnp.bfloat16


def test_embedding_starts_at_its_scale():
    table = Embedding(259, 64, rngs=nnx.Rngs(0), scale=0.5).embedding[...]
    assert float(table.std()) == pytest.approx(0.5, rel=0.03)
