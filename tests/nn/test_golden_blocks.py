"""One block of H-Net against its authors' own: both kinds, whole rows and step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.nn.stack import Stack
from tests.models.golden import LOGITS, assert_close, cases, load
from tests.nn.golden_hnet import block_config, block_graph, block_parameters, documents

GRADIENTS = 1e-3
"""Tolerance of a gradient, relative to the root mean square of its array."""


@pytest.fixture(params=cases("hnet", lambda file: "cfg.arch" in file), scope="module")
def case(request):
    return load(request.param)


def branches(graphdef, weights, r, group_ids=None):
    """The output of the last branch, not yet added, and the residual stream that it would go to."""
    block = nnx.merge(graphdef, block_parameters(weights))
    is_mamba = hasattr(block, "mixer")
    norm, mix = (
        (block.mixer_norm, block.mixer) if is_mamba else (block.attention_norm, block.attention)
    )
    y = mix(norm(r), group_ids)
    if hasattr(block, "mlp"):
        r = r + y
        y = block.mlp(block.mlp_norm(r))
    return y, r


def test_whole_rows_and_gradients(case):
    graphdef = block_graph(block_config(case), case)

    def run(weights, hidden, residual):
        y, r = branches(graphdef, weights, hidden + residual)
        # The block adds up the same.
        whole = nnx.merge(graphdef, block_parameters(weights))(hidden + residual, None)
        return ((y + r) * case.input["cotangent"]).sum(), (y, r, whole)

    gradient = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))
    found, (y, r, whole) = gradient(case.param, case.input["hidden"], case.input["residual"])
    assert_close(y, case.out["hidden"])
    assert_close(r, case.out["residual"])
    assert_close(whole, y + r)
    grads = {**found[0], "hidden": found[1], "residual": found[2]}
    assert set(grads) == set(case.grad)
    for name, wanted in case.grad.items():
        assert_close(grads[name], wanted, atol=GRADIENTS * np.sqrt((wanted**2).mean()))


def test_packed_documents(case):
    graphdef = block_graph(block_config(case), case)
    x = (case.input["hidden"] + case.input["residual"])[:1]
    y, _ = jax.jit(lambda *args: branches(graphdef, *args))(case.param, x, documents(case))
    assert_close(y[0], case.out["packed_hidden_row0"])


def test_without_a_residual(case):
    if "hidden_no_residual" not in case.out:
        pytest.skip("the case has none")
    graphdef = block_graph(block_config(case), case)
    y, _ = jax.jit(lambda *args: branches(graphdef, *args))(case.param, case.input["hidden"])
    assert_close(y, case.out["hidden_no_residual"])


def stack_of(case):
    """A stack of the one block, and a jitted `extend` of it."""
    config = block_config(case)
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Stack(config, rngs=nnx.Rngs(0))))
    stacked = jax.tree.map(lambda leaf: leaf[None], block_parameters(case.param))
    stack = nnx.merge(graphdef, {"blocks": stacked})
    extend = jax.jit(
        lambda x, state, lengths: nnx.merge(graphdef, {"blocks": stacked}).extend(x, state, lengths)
    )
    return stack, extend


def assert_recurrent_state(found, convolution, state):
    """Theirs also holds the oldest input, which no later position sees."""
    inputs = np.concatenate(found.inputs, axis=2).swapaxes(1, 2)  # [B, E + 2n, w - 1]
    assert_close(inputs, convolution[:, :, 1:])
    assert_close(found.state.transpose(0, 2, 3, 1), state)


def test_a_prefill_and_steps(case):
    if "step_hidden" not in case.out:
        pytest.skip("the case has none")
    x = case.input["hidden"] + case.input["residual"]
    expected = case.out["hidden"] + case.out["residual"]
    residual = case.out["residual"]
    rows, length = x.shape[:2]
    stack, extend = stack_of(case)
    prefill = case.cfg["n_prefill"]
    state = stack.init_state(rows, length, jnp.float32)
    # Any padding after the prefill is ignored.
    y, state = extend(jnp.asarray(x), state, jnp.full(rows, prefill))
    assert_close(y[:, :prefill], expected[:, :prefill])
    recurrent = case.cfg["arch"] in "mM"
    if recurrent:
        out = case.out
        assert_recurrent_state(state.layers[0], out["prefill_conv_state"], out["prefill_ssm_state"])
    for position in range(prefill, length):
        y, state = extend(x[:, position, None], state, jnp.ones(rows, jnp.int32))
        wanted = case.out["step_hidden"][:, position - prefill] + residual[:, position]
        assert_close(y[:, 0], wanted, atol=LOGITS)
        for index in np.flatnonzero(case.input.get("step_state_at", ()) == position):
            states = (case.out[f"step_{part}_state"][index] for part in ("conv", "ssm"))
            assert_recurrent_state(state.layers[0], *states)
    if not recurrent:
        parts = state.layers[0].keys, state.layers[0].values
        cache = np.stack(
            [np.concatenate(part, axis=2) for part in parts], axis=2
        )  # [B, G, 2, S, K]
        assert_close(cache.transpose(0, 3, 2, 1, 4), case.out["final_kv_cache"])
