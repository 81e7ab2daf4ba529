import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.layers.attention import AttentionMask
from bytelm.layers.blocks import BlockConfig
from bytelm.layers.stack import DEEPEST_UNROLLED, Stack

DEPTH = 3


def config(depth=DEPTH, window=None):
    return BlockConfig(
        width=8,
        depth=depth,
        heads=2,
        key_value_heads=2,
        head_width=4,
        mlp="relu",
        mlp_width=8,
        qk_norm=False,
        rope_theta=10_000.0,
        mask=AttentionMask(causal=True, window=window),
        implementation="auto",
    )


def split(**options):
    return nnx.split(nnx.eval_shape(lambda: Stack(config(), rngs=nnx.Rngs(0), **options)))


@pytest.fixture(scope="module")
def parameters():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.5, 0.3, leaf.shape), jnp.float32),
        nnx.to_pure_dict(split()[1]),
    )


INPUTS = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)


def run(graphdef, parameters):
    return jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, None))(parameters, INPUTS)


@pytest.fixture(scope="module")
def outputs(parameters):
    """What one block after another makes of INPUTS."""
    graphdef, _ = nnx.split(nnx.merge(split()[0], parameters).blocks)
    block = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, None))
    x = INPUTS
    for layer in range(DEPTH):
        x = block(jax.tree.map(lambda leaf, layer=layer: leaf[layer], parameters["blocks"]), x)
    return x


@pytest.mark.parametrize(
    ("scan", "remat"), [(False, "none"), (False, "dots"), (True, "none"), (True, "full")]
)
def test_every_way_to_run_it_is_one_block_after_another(parameters, outputs, scan, remat):
    graphdef, _ = split(scan=scan, remat=remat)
    np.testing.assert_allclose(run(graphdef, parameters), outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scan", "remat"), [(True, "full"), (False, "dots"), (True, "none")])
def test_how_it_runs_is_in_the_program(parameters, scan, remat):
    graphdef, _ = split(scan=scan, remat=remat)

    def loss(params, x):
        return nnx.merge(graphdef, params)(x, None).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(parameters, jnp.ones((2, 5, 8))))
    # Attention has loops of its own, but none of DEPTH turns.
    assert (f"length={DEPTH}" in program) == scan
    assert ("checkpoint" in program or "remat" in program) == (remat != "none")


def test_deep_stacks_are_scanned_and_shallow_ones_unrolled():
    for depth, scan in ((DEEPEST_UNROLLED, False), (DEEPEST_UNROLLED + 1, True)):
        stack = nnx.eval_shape(lambda depth=depth: Stack(config(depth), rngs=nnx.Rngs(0)))
        assert stack.scan == scan


def test_layers_start_different():
    kernel = Stack(config(), rngs=nnx.Rngs(0)).blocks.mlp.up.kernel[...]
    assert kernel.shape == (DEPTH, 8, 8)
    assert (kernel[0] != kernel[1]).all()


def test_a_window_bounds_the_cache():
    def slots(window, length):
        stack = nnx.eval_shape(lambda: Stack(config(window=window), rngs=nnx.Rngs(0)))
        cache = stack.init_cache(2, length, jnp.dtype("bfloat16"))
        assert len(cache.layers) == DEPTH
        assert {layer.keys.dtype for layer in cache.layers} == {jnp.dtype("bfloat16")}
        return {layer.keys.shape[1] for layer in cache.layers}

    assert (slots(None, 20), slots(5, 20), slots(30, 20)) == ({20}, {5}, {20})


def test_unstacking_changes_the_form_and_not_the_numbers(parameters, outputs):
    stack = nnx.merge(split()[0], parameters)
    stack.unstack()
    assert len(stack.blocks) == DEPTH
    assert stack.blocks[0].mlp.up.kernel[...].shape == (8, 8)
    np.testing.assert_allclose(run(*nnx.split(stack)), outputs, rtol=1e-5, atol=1e-5)
