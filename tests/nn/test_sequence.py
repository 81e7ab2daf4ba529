"""On a mesh that divides positions, each function gives the numbers and gradients of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.nn.mesh import MeshConfig
from bytelm.nn.sequence import add_at, lagged, max_at, prepend, recurrence, take, take_joined

ROWS, LENGTH, GROUPS, WIDTH = 4, 14, 7, 3


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    y = rng.normal(size=(ROWS, GROUPS, WIDTH)).astype(np.float32)
    x[:, 5] = x[:, 6]  # two that are equally large
    index = np.sort(rng.integers(0, GROUPS - 1, (ROWS, LENGTH)), axis=1).astype(np.int32)
    index[:, 5:7], index[:, -2:] = index[:, 5:6], GROUPS  # no group for some, and one that is empty
    return x, y, index


FUNCTIONS = {
    "lagged": lambda x, y, index: lagged(x, 5)[0] + 2 * lagged(x, 5)[3],
    "recurrence": lambda x, y, index: recurrence(x, jax.nn.sigmoid(x[:, :, :1])),
    "take": lambda x, y, index: take(y, jnp.minimum(index, GROUPS - 1)),
    "take by heads": lambda x, y, index: take(x[:, :, None], index[:, ::-1]),
    "numbers": lambda x, y, index: take(index, index)[:, :, None] * x,
    "add": lambda x, y, index: add_at(x, index, GROUPS),
    "max": lambda x, y, index: jnp.maximum(max_at(x, index, GROUPS), -9.0),
    "prepend": lambda x, y, index: prepend(x[:, 0], y),
    "joined": lambda x, y, index: take_joined((x, y), jnp.concatenate([index + 9, index], axis=1)),
}


@pytest.fixture(scope="module")
def results(arrays):
    """Values of all functions, and gradients of a number made of them, compiled together."""

    def values(x, y, index):
        return {name: function(x, y, index) for name, function in FUNCTIONS.items()}

    def total(function, x, y, index):
        return (jnp.sin(function(x, y, index)) ** 2).sum()

    @jax.jit
    def run(x, y, index):
        gradients = {
            name: jax.grad(lambda x, y, f=f: total(f, x, y, index), argnums=(0, 1))(x, y)
            for name, f in FUNCTIONS.items()
        }
        return values(x, y, index), gradients

    wanted = jax.device_get(run(*arrays))
    with jax.set_mesh(MeshConfig(data=2, sequence=4).build()):
        return wanted, jax.device_get(run(*arrays))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_divided_equals_one_device(name, results):
    (values, gradients), (got, got_gradients) = results
    np.testing.assert_allclose(got[name], values[name], atol=1e-6)
    for gradient, wanted in zip(got_gradients[name], gradients[name], strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=2e-6)
