import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.nn.norms import RMSNorm


def normal(*shape):
    return jax.device_put(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 3, 4, 8)])
def test_it_divides_by_the_root_mean_square(shape):
    norm = RMSNorm(8)
    norm.scale[...] = jnp.arange(8.0)
    x = np.asarray(5 * normal(*shape))
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.arange(8)
    np.testing.assert_allclose(norm(x), wanted, rtol=1e-5)


def test_it_computes_in_float32_and_keeps_the_dtype():
    # The sum of squares overflows float16 and loses most digits in bfloat16.
    x = 300 * normal(4, 512)
    for dtype, tolerance in ((jnp.float16, 1e-3), (jnp.bfloat16, 8e-3)):
        got = RMSNorm(512)(x.astype(dtype))
        assert got.dtype == dtype
        wanted = RMSNorm(512)(x.astype(dtype).astype(jnp.float32))
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, rtol=tolerance)


def test_zeros_have_a_finite_gradient():
    gradient = jax.grad(lambda x: RMSNorm(8)(x).sum())(jnp.zeros((2, 8)))
    assert np.isfinite(gradient).all()
