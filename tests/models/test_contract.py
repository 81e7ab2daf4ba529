"""The loss of a large vocabulary, computed in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bytelm.core.vocabulary import UNSCORED
from bytelm.models import contract
from bytelm.models.contract import ModelOutput, Unembedding

ROWS, LENGTH, WIDTH, OUTPUTS = 3, 10, 4, 50


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    return Unembedding(jnp.asarray(states), jnp.asarray(rng.normal(size=(WIDTH, OUTPUTS))))


@pytest.fixture
def targets():
    found = np.random.default_rng(1).integers(0, OUTPUTS, (ROWS, LENGTH)).astype(np.int32)
    found[0, 3:] = UNSCORED
    return jnp.asarray(found)


@pytest.mark.parametrize("chunks", [1, 3, 10])
def test_nats_and_their_gradient_are_those_of_all_logits(head, targets, chunks, monkeypatch):
    monkeypatch.setattr(contract, "LOGITS", ROWS * LENGTH * OUTPUTS // chunks)

    def loss(output):
        return lambda head: (output(head).nats(targets) * jnp.arange(LENGTH)[None, :]).sum()

    def plain(head):
        return ModelOutput(head.logits())

    wanted = jax.value_and_grad(loss(plain))(head)
    found = jax.jit(jax.value_and_grad(loss(ModelOutput)))(head)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), found, wanted)
    logits = np.asarray(head.states) @ np.asarray(head.kernel)
    np.testing.assert_allclose(ModelOutput(head).logits, logits, rtol=1e-5, atol=1e-6)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, np.maximum(targets, 0))
    nats = np.where(targets == UNSCORED, 0, nats)
    np.testing.assert_allclose(ModelOutput(head).nats(targets), nats, rtol=1e-5, atol=1e-6)


def test_no_array_holds_all_logits(head, targets, monkeypatch):
    def shapes():
        gradient = jax.grad(lambda head: ModelOutput(head).nats(targets).sum())
        return str(jax.make_jaxpr(gradient)(head))

    monkeypatch.setattr(contract, "LOGITS", ROWS * OUTPUTS)
    # The second axis is of devices that share a row.
    assert f"f32[{ROWS},1,1,{OUTPUTS}]" in shapes()
    assert f"{LENGTH},{OUTPUTS}]" not in shapes()
    monkeypatch.undo()
    assert f"f32[{ROWS},1,{LENGTH},{OUTPUTS}]" in shapes()
