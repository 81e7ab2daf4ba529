import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.nn.mamba2 import Mamba2Block, Mamba2Config
from bytelm.nn.stack import Stack
from bytelm.nn.state import restore, snapshot

WIDTH, HEADS, SIZE, N = 6, 2, 3, 4
INNER = HEADS * SIZE


def config(**fields):
    defaults = dict(
        width=WIDTH,
        depth=2,
        mlp=None,
        mlp_width=None,
        inner=INNER,
        head_width=SIZE,
        state_width=N,
        convolution_width=3,
        chunk=8,
    )
    return Mamba2Config(**defaults | fields)


def random(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0.3, 0.5, leaf.shape).astype(np.float32)),
        nnx.to_pure_dict(tree),
    )


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def by_hand(params, x, group_ids):
    """The block with an MLP, one row and position at a time."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    mixer, out = p["mixer"], np.array(x, np.float64)
    for row in range(len(x)):
        h = norm(out[row], p["mixer_norm"]["scale"])
        z, dt = h @ mixer["gate"]["kernel"], h @ mixer["step"]["kernel"] + mixer["step_bias"]
        dt = np.log1p(np.exp(dt))
        names = ("value", "key", "query")
        raw = {name: h @ mixer[name]["kernel"] for name in names}
        state = np.zeros((HEADS, SIZE, N))
        for t in range(len(h)):
            if t > 0 and group_ids[row, t] != group_ids[row, t - 1]:
                state[:] = 0
            seen = {}
            for name in names:
                kernel = mixer[f"{name}_convolution"]["kernel"]
                total = mixer[f"{name}_convolution"]["bias"].copy()
                for back in range(min(t, len(kernel) - 1) + 1):
                    if group_ids[row, t - back] == group_ids[row, t]:
                        total += kernel[len(kernel) - 1 - back] * raw[name][t - back]
                seen[name] = silu(total)
            value = seen["value"].reshape(HEADS, SIZE)
            decay = np.exp(-dt[t] * np.exp(mixer["log_rate"]))
            state = decay[:, None, None] * state
            state += (dt[t][:, None] * value)[:, :, None] * seen["key"][None, None, :]
            y = state @ seen["query"] + mixer["skip"][:, None] * value
            gated = norm(y.reshape(-1) * silu(z[t]), mixer["norm"]["scale"])
            out[row, t] += gated @ mixer["output"]["kernel"]
        h = norm(out[row], p["mlp_norm"]["scale"])
        out[row] += np.maximum(h @ p["mlp"]["up"]["kernel"], 0) @ p["mlp"]["down"]["kernel"]
    return out


X = np.random.default_rng(1).normal(size=(2, 19, WIDTH)).astype(np.float32)
# Documents of one and two positions are shorter than the convolution; one row ends in padding.
DOCUMENTS = np.int32([[1] * 5 + [2] + [3] * 2 + [4] * 11, [1] * 9 + [2] * 6 + [0] * 4])


def test_the_block_is_its_formula():
    shape = config(mlp="relu", mlp_width=10)
    block = nnx.eval_shape(lambda: Mamba2Block(shape, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(block)
    params = random(state)
    found = jax.jit(lambda params: nnx.merge(graphdef, params)(X, DOCUMENTS))(params)
    np.testing.assert_allclose(found, by_hand(params, X, DOCUMENTS), rtol=1e-4, atol=1e-4)
    whole = jax.jit(lambda params: nnx.merge(graphdef, params)(X, None))(params)
    one = np.ones_like(DOCUMENTS)
    np.testing.assert_allclose(whole, by_hand(params, X, one), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def stack():
    """The graph of a stack, and random parameters."""
    shape = config()
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Stack(shape, rngs=nnx.Rngs(0))))
    return graphdef, random(shapes)


@pytest.fixture(scope="module")
def extend(stack):
    graphdef, params = stack

    @jax.jit
    def run(x, state, lengths, group_ids):
        return nnx.merge(graphdef, params).extend(x, state, lengths, group_ids=group_ids)

    return run


def read(extend, state, done, lengths, size):
    """Outputs of the next positions of both rows, at most `size`, and the state."""
    places = np.minimum(np.array(done)[:, None] + np.arange(size)[None, :], 18)
    rows = np.arange(2)[:, None]
    # What is not read has another document and other values.
    valid = np.arange(size)[None, :] < np.array(lengths)[:, None]
    x = np.where(valid[..., None], X[rows, places], 100.0)
    groups = np.where(valid, DOCUMENTS[rows, places], 9)
    y, state = extend(jnp.asarray(x), state, jnp.asarray(lengths), jnp.asarray(groups))
    return np.asarray(y), state


@pytest.mark.parametrize("sizes", [(1,), (1, 11), (2, 19)])
def test_reading_in_parts_equals_the_whole(stack, extend, sizes):
    graphdef, params = stack
    expected = jax.jit(lambda params: nnx.merge(graphdef, params)(X, DOCUMENTS))(params)
    state = nnx.merge(graphdef, params).init_state(2, 19, jnp.float32)
    rng, done, call = np.random.default_rng(2), np.zeros(2, int), 0
    while (done < 19).any():
        size = sizes[call % len(sizes)]
        lengths = np.minimum(rng.integers(0, size + 1, 2), 19 - done).astype(np.int32)
        y, state = read(extend, state, done, lengths, size)
        for row, count in enumerate(lengths):
            part = slice(done[row], done[row] + count)
            np.testing.assert_allclose(y[row, :count], expected[row, part], rtol=1e-4, atol=1e-5)
        done, call = done + lengths, call + 1
    # Rows read a different number of positions, and a row without any keeps its state.
    _, same = read(extend, state, done, np.zeros(2, np.int32), 1)
    jax.tree.map(np.testing.assert_array_equal, same.layers, state.layers)


def test_a_state_is_restored_from_its_snapshot(stack, extend):
    graphdef, params = stack
    state = nnx.merge(graphdef, params).init_state(2, 19, jnp.float32)
    _, before = read(extend, state, (0, 0), np.int32([6, 3]), 11)
    _, after = read(extend, before, (6, 3), np.int32([4, 8]), 11)
    restored = restore(after, snapshot(before, 3))
    jax.tree.map(np.testing.assert_array_equal, restored.layers, before.layers)
    y, _ = read(extend, restored, (6, 3), np.int32([1, 1]), 1)
    expected, _ = read(extend, before, (6, 3), np.int32([1, 1]), 1)
    np.testing.assert_array_equal(y, expected)


def test_the_state_does_not_grow_with_the_length(stack):
    graphdef, params = stack
    model = nnx.merge(graphdef, params)
    short, long = (model.init_state(2, length, jnp.float32) for length in (4, 4000))
    assert jax.tree.map(jnp.shape, short) == jax.tree.map(jnp.shape, long)


def test_in_bfloat16_the_state_and_a_wide_residual_stream_stay_float32():
    shape = config(dtype=jnp.dtype("bfloat16"))
    block = Mamba2Block(shape, rngs=nnx.Rngs(0))
    y = jax.jit(lambda x: block(x, DOCUMENTS))(X)
    assert y.dtype == jnp.float32
    inside = jax.eval_shape(lambda x: block.mixer(block.mixer_norm(x), DOCUMENTS), X)
    assert inside.dtype == jnp.bfloat16
    in_float32 = Mamba2Block(config(), rngs=nnx.Rngs(0))
    exact = jax.jit(lambda x: in_float32(x, DOCUMENTS))(X)
    np.testing.assert_allclose(y, exact, atol=0.03)
    state = block.init_state(2, 19, jnp.dtype("bfloat16"))
    assert {each.dtype for each in state.inputs} == {jnp.dtype("bfloat16")}
    assert state.state.dtype == jnp.float32


def test_parameters_start_as_published():
    shape = config(
        width=64, inner=1024, head_width=2, convolution_width=4, deviation=0.02, additions=25
    )
    mixer = Mamba2Block(shape, rngs=nnx.Rngs(0)).mixer
    dt = jax.nn.softplus(mixer.step_bias[...])
    assert 1e-3 <= dt.min() < 2e-3 and 0.05 < dt.max() <= 0.1
    assert np.median(dt) == pytest.approx(1e-2, rel=0.2)  # log-uniform
    rates = np.exp(mixer.log_rate[...])
    assert 1 <= rates.min() < 1.5 and 15.5 < rates.max() <= 16
    assert (mixer.skip[...] == 1).all() and (mixer.norm.scale[...] == 1).all()
    for part in ("kernel", "bias"):
        values = getattr(mixer.value_convolution, part)[...]
        assert 0.45 < np.abs(values).max() <= 0.5
        assert values.std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    for name, deviation in (("gate", 0.02), ("value", 0.02), ("step", 0.02), ("output", 0.004)):
        assert getattr(mixer, name).kernel[...].std() == pytest.approx(deviation, rel=0.05)
