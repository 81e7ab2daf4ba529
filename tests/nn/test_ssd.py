import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.nn.ssd import chunk_sizes, ssd, ssd_flops

B, T, H, P, N = 2, 37, 3, 4, 5
RUNS = np.int32([[0] * 10 + [1] * 2 + [2] + [3] * 24, [1] * 16 + [2] * 21])
"""Several in one chunk, one that begins with a chunk, and a row that does not continue a state."""


def arrays(length=T, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, length, H, P))
    dt = np.log1p(np.exp(rng.normal(-1, 1, size=(B, length, H))))
    keys, queries = rng.normal(size=(2, B, length, N))
    rates, state = -rng.uniform(1, 4, H), rng.normal(size=(B, N, H, P))
    return [np.asarray(each, dtype) for each in (x, dt, rates, keys, queries, state)]


def by_hand(x, dt, rates, keys, queries, runs, state):
    """One position after another; runs before the first are 0."""
    y = np.zeros_like(x)
    for row in range(len(x)):
        s, run = state[row].copy(), 0
        for t in range(x.shape[1]):
            s, run = (s if runs[row, t] == run else 0 * s), runs[row, t]
            decayed = s * np.exp(dt[row, t] * rates)[None, :, None]
            s = decayed + np.einsum("n,h,hp->nhp", keys[row, t], dt[row, t], x[row, t])
            y[row, t] = np.einsum("n,nhp->hp", queries[row, t], s)
        state[row] = s
    return y, state


@pytest.mark.parametrize(("longest", "together"), [(1, 16), (4, 1), (8, 2), (16, 16), (64, 1)])
def test_it_is_the_recurrence(longest, together):
    x, dt, rates, keys, queries, state = arrays()
    wide = arrays(dtype=np.float64)
    expected, last = by_hand(*wide[:5], RUNS, wide[5])

    @jax.jit
    def run(*arguments):
        return ssd(*arguments, longest=longest, together=together)

    y, found = run(x, dt, rates, keys, queries, RUNS, state)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, last, rtol=1e-5, atol=1e-5)
    y, none = run(x, dt, rates, keys, queries, RUNS + 1)
    assert none is None
    expected, _ = by_hand(*wide[:5], RUNS + 1, wide[5])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def scanned(x, dt, rates, keys, queries, runs, state):
    """The recurrence by a scan over positions, which JAX can differentiate."""

    def step(carry, at):
        state, run = carry
        x, dt, key, query, now = at
        kept = jnp.where((now == run)[:, None], jnp.exp(dt * rates[None, :]), 0.0)
        added = key[:, :, None, None] * (x * dt[:, :, None])[:, None]
        state = kept[:, None, :, None] * state + added
        return (state, now), jnp.einsum("bn,bnhp->bhp", query, state)

    start = state, jnp.zeros(B, jnp.int32)
    positions = [jnp.swapaxes(each, 0, 1) for each in (x, dt, keys, queries, runs)]
    (state, _), y = jax.lax.scan(step, start, tuple(positions))
    return y.swapaxes(0, 1), state


@pytest.mark.parametrize(("longest", "together"), [(8, 1), (8, 16)])
def test_gradients_are_those_of_the_recurrence(longest, together):
    given = arrays()
    weights, state_weights = arrays(seed=1)[0], arrays(seed=2)[5]

    def loss(run, *arguments):
        y, state = run(*arguments[:5], RUNS, arguments[5])
        return (y * weights).sum() + (state * state_weights).sum()

    def chunked(*arguments):
        return ssd(*arguments, longest=longest, together=together)

    found, expected = (
        jax.jit(jax.grad(lambda *a, run=run: loss(run, *a), argnums=range(6)))(*given)
        for run in (chunked, scanned)
    )
    for gradient, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_strong_decay_overflows_nothing():
    x, dt, rates, keys, queries, _ = arrays()

    def loss(x, dt):
        return ssd(x, dt, rates, keys, queries, RUNS, longest=8)[0].sum()

    for gradient in jax.jit(jax.grad(loss, (0, 1)))(x, 1e3 * dt):
        assert np.isfinite(gradient).all()


def test_positions_without_a_step_leave_the_state():
    x, dt, rates, keys, queries, state = arrays()
    count = np.array([20, 0])
    real = np.arange(T)[None, :] < count[:, None]
    runs = np.zeros((B, T), np.int32)
    run = jax.jit(lambda *arguments: ssd(*arguments, longest=8))
    y, found = run(x, np.where(real[..., None], dt, 0), rates, keys, queries, runs, state)
    wide = arrays(dtype=np.float64)
    expected, last = by_hand(*(a[:, :20] for a in wide[:2]), wide[2], *wide[3:5], runs, wide[5])
    np.testing.assert_allclose(y[0, :20], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0], last[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[1], state[1])


def program(length, together):
    shapes = [jax.ShapeDtypeStruct(each.shape, jnp.float32) for each in arrays(length)[:5]]
    runs = jax.ShapeDtypeStruct((B, length), jnp.int32)

    def loss(*arguments):
        return ssd(*arguments, longest=32, together=together)[0].sum()

    return jax.jit(jax.grad(loss)).trace(*shapes, runs)


def test_no_loop_is_over_positions_and_memory_is_linear():
    text = str(program(1024, 1).jaxpr)
    assert "length=32" in text and "length=1024" not in text
    assert "length=2" in str(program(1024, 16).jaxpr)
    short, long = (
        program(length, 1).lower().compile().memory_analysis().temp_size_in_bytes
        for length in (1024, 2048)
    )
    assert long < 2.1 * short


def test_chunks_are_equal_and_as_few_as_can_be():
    assert chunk_sizes(64, 64) == (1, 64)
    assert chunk_sizes(5, 64) == (1, 5)
    assert chunk_sizes(65, 64) == (2, 40)
    assert chunk_sizes(1000, 64) == (16, 64)
    assert chunk_sizes(24, 4) == (6, 4)
    assert chunk_sizes(12.5, 64) == (1, 13)


def test_a_single_chunk_has_no_state_between():
    assert ssd_flops(64, 64, 2, 8, 4) == 64 * 2 * 64 * (2 + 4 + 16)
    assert ssd_flops(128, 64, 2, 8, 4) == 128 * (2 * 64 * (2 + 4 + 16) + 4 * 4 * 16)
