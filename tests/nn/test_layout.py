import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.xla import training_options
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.layout import Layout
from bytelm.nn.mamba2 import Mamba2Config
from bytelm.nn.norms import RMSNorm
from bytelm.nn.stack import MixedStack

SHARED = dict(width=8, depth=1, mlp="swiglu", mlp_width=12, dtype=jnp.dtype("bfloat16"))
ATTENTION = BlockConfig(
    **SHARED,
    heads=2,
    key_value_heads=2,
    head_width=4,
    qk_norm=False,
    rope_theta=10_000.0,
    mask=AttentionMask(window=4),
    implementation="auto",
)
MAMBA = Mamba2Config(**SHARED, inner=16, head_width=4, state_width=4, chunk=8)


def test_letters_and_counts():
    layout = Layout.parse("T1m12M2t3", "model.layout")
    assert layout.parts == (("T", 1), ("m", 12), ("M", 2), ("t", 3))
    assert layout.additions == 2 + 12 + 4 + 3
    configs = layout.configs(ATTENTION, MAMBA)
    assert [type(each) for each in configs] == [
        BlockConfig,
        Mamba2Config,
        Mamba2Config,
        BlockConfig,
    ]
    assert [each.depth for each in configs] == [1, 12, 2, 3]
    assert [each.mlp for each in configs] == ["swiglu", None, "swiglu", None]
    assert {each.output_gain for each in configs} == {21**-0.5}
    outside = layout.configs(ATTENTION, MAMBA, additions=100)
    assert {each.output_gain for each in outside} == {0.1}


@pytest.mark.parametrize("text", ["", "m", "4m", "m0", "m04", "x2", "m4 T1", "m4,T1", "m-1", "m4T"])
def test_a_layout_that_is_none_is_refused(text):
    with pytest.raises(
        UserError, match=rf'model.inner is {text!r}, which is no layout such as "T1'
    ):
        Layout.parse(text, "model.inner")


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_stack_of_a_layout_has_a_wide_stream_and_a_last_norm(remat):
    configs = Layout.parse("T1m2t1M1", "layout").configs(ATTENTION, MAMBA)
    stream = jnp.dtype("float32")

    @nnx.jit
    def build():
        norm = RMSNorm(8, dtype=jnp.dtype("bfloat16"))
        return MixedStack(
            configs, rngs=nnx.Rngs(0), stream=stream, norm=norm, remat=remat, scan=True
        )

    stack = build()
    x = jax.random.normal(jax.random.key(0), (2, 11, 8), jnp.bfloat16)
    groups = np.repeat(np.int32([[1, 2, 3]]), [5, 1, 5], axis=1).repeat(2, axis=0)
    graphdef, params = nnx.split(stack)
    run = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, jnp.asarray(groups)))
    y = run(params, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.square(y.astype(jnp.float32)).mean(axis=2), 1, rtol=0.05)
    # The stream of the first stack's output is float32: the norm sees more than bfloat16 could say.
    for option, dtype in (({}, jnp.bfloat16), ({"stream": stream}, jnp.float32)):
        other = nnx.eval_shape(
            lambda option=option: MixedStack(
                configs, rngs=nnx.Rngs(0), remat=remat, scan=True, **option
            )(x, jnp.asarray(groups))
        )
        assert other.dtype == dtype

    state = stack.init_state(2, 11, jnp.dtype("bfloat16"))
    extend = jax.jit(
        lambda params, *args: nnx.merge(graphdef, params).extend(*args, group_ids=groups)
    )
    found, state = extend(params, x, state, jnp.full(2, 11))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), y.astype(jnp.float32), atol=0.05)
    np.testing.assert_array_equal(state.length, [11, 11])

    def loss(params):
        return nnx.merge(graphdef, params)(x, jnp.asarray(groups)).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(loss), compiler_options=training_options(x.dtype))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
