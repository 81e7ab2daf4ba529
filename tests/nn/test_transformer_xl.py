import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.transformer_xl import (
    PositionBiases,
    RelativeBlockConfig,
    distances_to_keys,
    sinusoids,
)


def block_config(**changes):
    options = {
        "width": 6,
        "depth": 1,
        "heads": 2,
        "key_value_heads": 2,
        "head_width": 4,
        "mlp": "gelu",
        "mlp_width": 5,
        "qk_norm": False,
        "rope_theta": None,
        "mask": AttentionMask(),
        "implementation": "auto",
    }
    return RelativeBlockConfig(**(options | changes))


def random_block(config):
    graphdef, state = nnx.split(config.build(nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    noise = jax.tree.map(
        lambda leaf: jax.device_put((rng.normal(size=leaf.shape) / 2).astype(np.float32)), state
    )
    return nnx.merge(graphdef, noise)


def test_scores_by_distance_are_moved_to_their_keys():
    by_distance = jnp.arange(2 * 4 * 4.0).reshape(2, 4, 4)
    moved = np.asarray(distances_to_keys(by_distance))
    for i in range(4):
        for j in range(i + 1):
            np.testing.assert_array_equal(moved[:, i, j], by_distance[:, i, i - j])


def test_sines_come_before_cosines():
    vectors = np.asarray(sinusoids(3, 4))
    np.testing.assert_allclose(vectors[0], [0, 0, 1, 1])
    np.testing.assert_allclose(
        vectors[2], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)], rtol=1e-5
    )


def norm(x, layer):
    centred = x - x.mean()
    scaled = centred / np.sqrt(np.mean(centred**2) + 1e-5)
    return scaled * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])


def linear(x, layer):
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def test_a_block_is_the_formula_of_transformer_xl():
    config = block_config(mlp="relu")
    block = random_block(config)
    rng = np.random.default_rng(2)
    u, v = rng.normal(size=(2, 2, 4)).astype(np.float32)
    x = rng.normal(size=(1, 5, 6)).astype(np.float32)
    segments = np.array([[1, 1, 1, 2, 2]])
    run = jax.jit(lambda x, u, v: block(x, segments, None, PositionBiases(u, v)))
    got = np.asarray(run(x, u, v))

    q, k, value = (linear(x[0], p).reshape(5, 2, 4) for p in (block.query, block.key, block.value))
    r = linear(np.asarray(sinusoids(5, 6)), block.distance).reshape(5, 2, 4)
    for i in range(5):
        seen = [j for j in range(i + 1) if segments[0, i] == segments[0, j]]
        mixed = []
        for h in range(2):
            scores = [(q[i, h] + u[h]) @ k[j, h] + (q[i, h] + v[h]) @ r[i - j, h] for j in seen]
            weights = np.exp(np.array(scores) / 2)
            mixed.append((weights / weights.sum()) @ value[seen, h])
        y = norm(x[0, i] + linear(np.concatenate(mixed), block.output), block.attention_norm)
        hidden = np.maximum(linear(y, block.up), 0)
        wanted = norm(y + linear(hidden, block.down), block.mlp_norm)
        np.testing.assert_allclose(got[0, i], wanted, atol=1e-5)
