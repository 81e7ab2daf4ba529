import jax.numpy as jnp
import numpy as np

from bytelm.nn.rope import rotary


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_it_is_a_rotation_of_pairs_in_the_complex_plane():
    x, positions = np.asarray(normal(2, 5, 3, 8)), np.array([[0, 1, 2, 3, 4], [7, 100, 5, 0, 9]])
    theta = 500.0
    angles = positions[:, :, None, None] * theta ** (-2 * np.arange(4) / 8)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    wanted = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(
        rotary(jnp.asarray(x), jnp.asarray(positions), theta), wanted, atol=1e-4
    )


def test_scores_depend_on_the_distance_alone():
    q, k = normal(1, 6, 2, 8), normal(1, 6, 2, 8, seed=1)

    def scores(first):
        positions = first + jnp.arange(6)[None, :]
        return jnp.einsum("bqhk,bshk->bhqs", rotary(q, positions), rotary(k, positions))

    np.testing.assert_allclose(scores(0), scores(1000), atol=1e-3)
    assert np.abs(scores(0) - jnp.einsum("bqhk,bshk->bhqs", q, k)).max() > 0.1


def test_positions_may_be_shared_by_all_rows_and_the_dtype_stays():
    x = normal(3, 4, 2, 8)
    shared = rotary(x, jnp.arange(4)[None, :])
    repeated = rotary(x, jnp.tile(jnp.arange(4)[None, :], (3, 1)))
    np.testing.assert_array_equal(shared, repeated)
    assert rotary(x.astype(jnp.bfloat16), jnp.arange(4)[None, :]).dtype == jnp.bfloat16
