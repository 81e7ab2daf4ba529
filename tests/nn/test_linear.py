import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.xla import training_options
from bytelm.nn.linear import Dense, Embedding, project


def normal(*shape, seed=0):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


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


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("sizes", [(1, 32, 64), (96, 32, 64), (96, 64, 32), (96, 64, 64)])
def test_products_in_bfloat16_and_their_gradients(sizes, transposed):
    rows, d_in, d_out = sizes
    x, weights = (normal(*s).astype(jnp.bfloat16) for s in ((rows, d_in), (rows, d_out)))
    kernel = normal(d_in, d_out, seed=1).astype(jnp.bfloat16).astype(jnp.float32)

    def weighted(x, stored):
        out = project(x, stored.T if transposed else stored)
        return (out * weights).astype(jnp.float32).sum(), out

    options = training_options(x.dtype) if jax.default_backend() == "cpu" else None
    run = jax.jit(jax.grad(weighted, (0, 1), has_aux=True), compiler_options=options)
    (dx, d_kernel), out = run(x, kernel.T if transposed else kernel)
    d_kernel = d_kernel.T if transposed else d_kernel
    x, weights, kernel = (np.asarray(a, np.float64) for a in (x, weights, kernel))
    assert (out.dtype, dx.dtype, d_kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    for got, wanted in ((out, x @ kernel), (dx, weights @ kernel.T), (d_kernel, x.T @ weights)):
        np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=5e-3, atol=2e-3)
    if jax.default_backend() == "cpu":
        np.testing.assert_allclose(d_kernel, x.T @ weights, rtol=1e-4, atol=1e-4)


def test_embedding_looks_up_rows_of_its_table():
    embedding = Embedding(6, 4, rngs=nnx.Rngs(0), scale=0.5)
    table = np.asarray(embedding.embedding[...])
    ids = jnp.array([[5, 0], [2, 2]])
    np.testing.assert_array_equal(embedding(ids, jnp.dtype("float32")), table[np.asarray(ids)])
    assert embedding(ids, jnp.dtype("bfloat16")).dtype == jnp.bfloat16


def test_embedding_starts_at_its_scale():
    table = Embedding(259, 64, rngs=nnx.Rngs(0), scale=0.5).embedding[...]
    assert float(table.std()) == pytest.approx(0.5, rel=0.03)
