"""Attention and its gradients by the textbook formulas, in float64."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.nn.attention.attention import AttentionMask

HEADS, SIZE = 4, 8


WINDOWS = (None, 5, 130)


MASKS = (
    *(AttentionMask(window=window) for window in WINDOWS),
    AttentionMask(causal=False),
    AttentionMask(causal=False, window=5),
    AttentionMask(causal=False, window=130),
)


ON_CPU = jax.default_backend() == "cpu"


QUICK_TO_COMPILE = {"xla_backend_optimization_level": "0"} if ON_CPU else {}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arrays of one call, and the gradient of its output."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    gradient: np.ndarray
    group_ids: np.ndarray | None


def make_inputs(batch, length, groups, documents, size=SIZE):
    generator = np.random.default_rng(length)
    q, gradient = generator.normal(size=(2, batch, length, HEADS, size)).astype(np.float32)
    k, v = generator.normal(size=(2, batch, length, groups, size)).astype(np.float32)
    if not documents:
        return Inputs(q, k, v, gradient, None)
    # Documents 1, 2, ... of uneven lengths, then padding.
    starts = generator.random((batch, length)) < 8 / length
    group_ids = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    group_ids[:, length - length // 6 :] = 0
    return Inputs(q, k, v, gradient, group_ids)


def oracle(inputs, mask):
    """Output and gradients of q, k and v by the textbook formulas, in float64."""
    q, k, v, gradient = (
        x.astype(np.float64) for x in (inputs.q, inputs.k, inputs.v, inputs.gradient)
    )
    batch, length, heads, size = q.shape
    sharing = heads // k.shape[2]
    k, v = (np.repeat(x, sharing, axis=2) for x in (k, v))
    distance = np.arange(length)[:, None] - np.arange(length)
    visible = np.broadcast_to(distance >= 0 if mask.causal else True, (batch, length, length))
    if mask.window is not None:
        visible = visible & (np.abs(distance) < mask.window)
    if inputs.group_ids is not None:
        visible = visible & (inputs.group_ids[:, :, None] == inputs.group_ids[:, None, :])
    scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(size)
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("bhts,bshk->bthk", weights, v)
    d_weights = np.einsum("bthk,bshk->bhts", gradient, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True))
    d_scores /= np.sqrt(size)
    dq = np.einsum("bhts,bshk->bthk", d_scores, k)
    dk = np.einsum("bhts,bthk->bshk", d_scores, q)
    dv = np.einsum("bhts,bthk->bshk", weights, gradient)
    dk, dv = (x.reshape(batch, length, -1, sharing, size).sum(axis=3) for x in (dk, dv))
    return out, dq, dk, dv


def run(function, inputs, dtype=jnp.float32):
    """Output and gradients of `function(q, k, v, group_ids)`, as `oracle`."""

    @partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def both(q, k, v, gradient, group_ids):
        out, pull = jax.vjp(lambda *qkv: function(*qkv, group_ids), q, k, v)
        return out, *pull(gradient)

    floats = (jnp.asarray(x, dtype) for x in (inputs.q, inputs.k, inputs.v, inputs.gradient))
    return both(*floats, inputs.group_ids)


def assert_equals_oracle(function, inputs, mask, tolerance=2e-5, dtype=jnp.float32):
    for name, got, expected in zip(
        ("output", "dq", "dk", "dv"),
        run(function, inputs, dtype),
        oracle(inputs, mask),
        strict=True,
    ):
        np.testing.assert_allclose(
            np.asarray(got, np.float64), expected, atol=tolerance, rtol=tolerance, err_msg=name
        )
