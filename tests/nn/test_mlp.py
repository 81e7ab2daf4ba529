import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from bytelm.nn.mlp import MLP, default_mlp_width


@pytest.mark.parametrize("kind", ["swiglu", "gelu", "relu"])
def test_each_kind_is_its_formula(kind):
    mlp = MLP(kind, 6, 10, rngs=nnx.Rngs(0), output_gain=0.5)
    x = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    up = x @ np.asarray(mlp.up.kernel[...])
    if kind == "swiglu":
        gate = x @ np.asarray(mlp.gate.kernel[...])
        hidden = gate * special.expit(gate) * up
    elif kind == "gelu":
        hidden = up * special.ndtr(up)
    else:
        hidden = np.maximum(up, 0)
    # The tanh form of GELU is off by up to 5e-4.
    np.testing.assert_allclose(
        mlp(jnp.asarray(x)), hidden @ np.asarray(mlp.down.kernel[...]), atol=2e-3
    )


def test_the_output_starts_at_its_gain():
    mlp = MLP("relu", 64, 256, rngs=nnx.Rngs(0), output_gain=0.5)
    assert float(mlp.down.kernel[...].std()) == pytest.approx(0.5 / 16, rel=0.03)
    assert float(mlp.up.kernel[...].std()) == pytest.approx(1 / 8, rel=0.03)


def test_default_widths_have_about_equal_parameters():
    assert [default_mlp_width(kind, 768) for kind in ("gelu", "relu", "swiglu")] == [
        3072,
        3072,
        2048,
    ]
    assert default_mlp_width("swiglu", 256) == 704


@pytest.mark.parametrize("kind", ["swiglu", "geglu"])
def test_the_backward_pass_keeps_no_activation(kind):
    mlp = MLP(kind, 6, 10, rngs=nnx.Rngs(0), output_gain=0.5)
    _, pull = jax.vjp(mlp, jnp.ones((5, 3, 6)))
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size == 5 * 3 * 10]
    assert len(kept) == 2  # gate and up
