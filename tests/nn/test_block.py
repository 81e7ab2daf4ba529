import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig, TransformerBlock, rotary

B, T, WIDTH, HEADS, GROUPS, SIZE = 2, 6, 12, 4, 2, 4


def config(**fields):
    defaults = dict(
        width=WIDTH,
        depth=2,
        heads=HEADS,
        key_value_heads=GROUPS,
        head_width=SIZE,
        mlp="relu",
        mlp_width=20,
        qk_norm=True,
        rope_theta=100.0,
        mask=AttentionMask(causal=True, window=3),
        implementation="auto",
    )
    return BlockConfig(**defaults | fields)


def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def turned(x, position):
    angles = position * 100.0 ** (-np.arange(SIZE // 2) / (SIZE // 2))
    pairs = (x[: SIZE // 2] + 1j * x[SIZE // 2 :]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag])


def by_hand(params, x, group_ids, window):
    """The block, one row, head, query and key at a time."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    mixer = p["attention"]
    out = np.array(x, np.float64)
    for b in range(B):
        h = norm(out[b], p["attention_norm"]["scale"])
        q = (h @ mixer["query"]["kernel"]).reshape(T, HEADS, SIZE)
        k = (h @ mixer["key"]["kernel"]).reshape(T, GROUPS, SIZE)
        v = (h @ mixer["value"]["kernel"]).reshape(T, GROUPS, SIZE)
        q, k = norm(q, mixer["query_norm"]["scale"]), norm(k, mixer["key_norm"]["scale"])
        mixed = np.zeros((T, HEADS, SIZE))
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            for t in range(T):
                seen = [
                    s
                    for s in range(max(0, t - window + 1), t + 1)
                    if group_ids[b, s] == group_ids[b, t]
                ]
                scores = np.array(
                    [turned(q[t, head], t) @ turned(k[s, group], s) / 2 for s in seen]
                )
                weights = np.exp(scores - scores.max())
                mixed[t, head] = weights / weights.sum() @ v[seen, group]
        out[b] += mixed.reshape(T, -1) @ mixer["output"]["kernel"]
        h = norm(out[b], p["mlp_norm"]["scale"])
        out[b] += np.maximum(h @ p["mlp"]["up"]["kernel"], 0) @ p["mlp"]["down"]["kernel"]
    return out


def test_the_block_is_its_formula():
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: TransformerBlock(config(), rngs=nnx.Rngs(0)))
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0.5, 0.5, leaf.shape).astype(np.float32)),
        nnx.to_pure_dict(state),
    )
    x = rng.normal(size=(B, T, WIDTH)).astype(np.float32)
    group_ids = np.array([[1, 1, 1, 1, 2, 2], [1, 2, 2, 2, 2, 2]], np.int32)
    run = jax.jit(lambda params, *inputs: nnx.merge(graphdef, params)(*inputs))
    wanted = by_hand(params, x, group_ids, window=3)
    np.testing.assert_allclose(run(params, x, group_ids), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["attention/output", "mlp/down"])
def test_residual_branches_start_small_in_deep_stacks(name):
    shape = config(depth=50, width=64, head_width=16, mlp_width=64)
    block = nnx.to_pure_dict(nnx.state(TransformerBlock(shape, rngs=nnx.Rngs(0))))
    part, layer = name.split("/")
    assert float(block[part][layer]["kernel"].std()) == pytest.approx(1 / 80, rel=0.05)


def test_kernels_may_start_by_one_deviation_and_the_branches_of_several_stacks():
    shape = config(width=64, head_width=16, mlp_width=64, deviation=0.02, additions=25)
    block = nnx.to_pure_dict(nnx.state(TransformerBlock(shape, rngs=nnx.Rngs(0))))
    for part, layer in (("attention", "query"), ("mlp", "up")):
        assert float(block[part][layer]["kernel"].std()) == pytest.approx(0.02, rel=0.05)
    for part, layer in (("attention", "output"), ("mlp", "down")):
        assert float(block[part][layer]["kernel"].std()) == pytest.approx(0.004, rel=0.05)


def test_a_block_without_an_mlp_has_one_branch():
    shape = config(mlp=None, mlp_width=None)
    assert (shape.hidden, shape.output_gain) == (0, 2**-0.5)
    block = TransformerBlock(shape, rngs=nnx.Rngs(0))
    assert set(nnx.to_pure_dict(nnx.state(block))) == {"attention_norm", "attention"}
    x = normal(B, T, WIDTH)
    branch = jax.jit(lambda x: x + block.attention(block.attention_norm(x), None))
    whole = jax.jit(lambda x: block(x, None))
    np.testing.assert_allclose(whole(x), branch(x), atol=1e-6)


def test_branches_of_a_wide_residual_stream_may_be_narrow():
    shape = config(dtype=jnp.dtype("bfloat16"), norm_epsilon=0.5)
    block, x = TransformerBlock(shape, rngs=nnx.Rngs(0)), normal(B, T, WIDTH)
    y, normed = jax.jit(lambda x: (block(x, None), block.mlp_norm(x)))(x)
    assert (y.dtype, normed.dtype) == (jnp.float32, jnp.bfloat16)
    expected = x / np.sqrt((np.asarray(x) ** 2).mean(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(normed.astype(jnp.float32), expected, atol=0.02)


def normal(*shape, seed=0):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_it_is_a_rotation_of_pairs_in_the_complex_plane():
    x, positions = np.asarray(normal(2, 5, 3, 8)), np.array([[0, 1, 2, 3, 4], [7, 100, 5, 0, 9]])
    theta = 500.0
    angles = positions[:, :, None, None] * theta ** (-2 * np.arange(4) / 8)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    wanted = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(
        rotary(jnp.asarray(x), jnp.asarray(positions), theta), wanted, atol=1e-4
    )


def test_the_first_channels_alone_may_be_rotated():
    x, positions = normal(2, 5, 3, 8), jnp.arange(5)[None, :]
    found = rotary(x, positions, 500.0, 4)
    np.testing.assert_allclose(found[..., :4], rotary(x[..., :4], positions, 500.0), atol=1e-6)
    np.testing.assert_array_equal(found[..., 4:], x[..., 4:])


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
