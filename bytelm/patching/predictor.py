"""Predicted boundaries: the predictor, its relaxed samples, and its losses.

A loss is a scalar, in nats per counted symbol, so that it can be added to the mean cross-entropy of
a symbol. If all rows have the same number of counted symbols, it is the authors' mean over rows.

Shapes: B = rows, T = symbols, d = channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.special import gammaln

from bytelm.nn.linear import Dense

LEAST = float(jnp.finfo(jnp.float32).eps)
"""Probabilities and uniform numbers are kept this far from 0 and 1."""


class BoundaryPredictor(nnx.Module):
    """An MLP with one hidden layer, `[B, T, d] -> [B, T]`: float32 logits of a boundary.

    Args:
        rate: the first probability of a boundary; it sets the last bias.
        relu: ReLU in place of the exact (erf) GELU.
    """

    def __init__(self, width: int, hidden: int, *, rate: float, relu: bool, rngs: nnx.Rngs):
        self.relu = relu
        self.up = Dense(width, hidden, rngs=rngs, bias=True, role="projection")
        self.down = Dense(hidden, 1, rngs=rngs, bias=True, role="projection")
        self.down.bias.set_value(jnp.full((1,), jnp.log(rate / (1 - rate)), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.up(x)
        hidden = nnx.relu(hidden) if self.relu else nnx.gelu(hidden, approximate=False)
        # A threshold decides on these: in bfloat16, decoding might cut differently from training.
        return self.down(hidden.astype(jnp.float32))[:, :, 0]


def uniforms(keys: jax.Array, document_ids: jax.Array, positions: jax.Array) -> jax.Array:
    """Uniform numbers, float32 `[B, T]`, from the data of a random key for each row, `[B, 2]`.

    A number depends only on its row's key, its document id and its position, so that a prefix of a
    row has the same numbers as the row.
    """

    def number(key: jax.Array, document: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, document), position))

    def row(data: jax.Array, document_ids: jax.Array, positions: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(data, impl="threefry2x32")
        return jax.vmap(number, in_axes=(None, 0, 0))(key, document_ids, positions)

    return jax.vmap(row)(keys, document_ids, positions)


def relaxed_bernoulli(
    logits: jax.Array, noise: jax.Array | None, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Boundaries by the relaxed Bernoulli distribution, straight through (arXiv 1611.00712).

    With `noise` None, the likelier of the two values; otherwise from uniform numbers `[B, T]`.

    Returns:
        the boundaries, bool `[B, T]`, and the same as numbers with the relaxed sample's gradient.
    """
    p = jnp.clip(jax.nn.sigmoid(logits), LEAST, 1 - LEAST)
    relaxed = jnp.log(p) - jnp.log1p(-p)
    if noise is not None:
        u = jnp.clip(noise, LEAST, 1 - LEAST)
        relaxed = relaxed + jnp.log(u) - jnp.log1p(-u)
    soft = jax.nn.sigmoid(relaxed / temperature)
    hard = soft > 0.5
    return hard, soft + jax.lax.stop_gradient(hard - soft)


def binomial_prior(b: jax.Array, counted: jax.Array, rate: float) -> jax.Array:
    """`-log Binomial(k; N, rate) / N`, for k boundaries among the N counted symbols of a row.

    `b` float32 `[B, T]` are the boundaries as numbers, `counted` is bool `[B, T]`.
    """
    k, n = (b * counted).sum(axis=1), counted.sum(axis=1).astype(jnp.float32)
    ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    nats = -(ways + k * jnp.log(rate) + (n - k) * jnp.log1p(-rate))
    return jnp.where(n > 0, nats, 0.0).sum() / jnp.maximum(n.sum(), 1)


def band_loss(
    b: jax.Array, counted: jax.Array, scripts: jax.Array, rates: jax.Array, least: jax.Array
) -> jax.Array:
    """How far the boundary rate lies outside a band: `max(k/N - rate, 0) + max(least - k/N, 0)`.

    A row with documents of several scripts is held to the band of each in proportion to its symbols
    (arXiv 2507.12720 has one script in a row).

    Args:
        b: boundaries as numbers, float32 `[B, T]`.
        counted: bool `[B, T]`.
        scripts: int32 `[B, T]`, indices into the next two; negative for none.
        rates: float32 `[scripts]`, alpha, the highest rate.
        least: float32 `[scripts]`, beta, the lowest.
    """
    member = scripts[:, :, None] == jnp.arange(len(rates))[None, None, :]
    member = (member & counted[:, :, None]).astype(jnp.float32)  # [B, T, scripts]
    k, n = (b[:, :, None] * member).sum(axis=1), member.sum(axis=1)  # [B, scripts]
    rate = k / jnp.maximum(n, 1)
    outside = _hinge(rate - rates[None, :]) + _hinge(least[None, :] - rate)
    return (n * outside).sum() / jnp.maximum(counted.sum(), 1)


def _hinge(x: jax.Array) -> jax.Array:
    """`max(x, 0)`, whose gradient at 0 is 1."""
    return jnp.where(x >= 0, x, 0.0)


def entropy_spikes(entropy: jax.Array, counted: jax.Array, left: int) -> jax.Array:
    """Where the entropy `[B, T]` exceeds each of the `left` counted values before it: bool.

    A counted symbol without a counted one before it is always a spike.
    """
    entropy = jnp.where(counted, entropy, -jnp.inf)
    spikes, run = counted, counted
    for back in range(1, left + 1):
        before = jnp.pad(entropy, ((0, 0), (back, 0)), constant_values=-jnp.inf)[:, :-back]
        run = run & jnp.pad(counted, ((0, 0), (back, 0)))[:, : counted.shape[1]]
        spikes = spikes & (~run | (entropy > before))
    return spikes


def boundary_cross_entropy(
    logits: jax.Array, targets: jax.Array, counted: jax.Array, *, twice: bool
) -> jax.Array:
    """Mean binary cross-entropy of the counted symbols; targets are bool `[B, T]`.

    `twice` takes the probabilities for logits, like the authors of dynamic token pooling. The loss
    then cannot fall below log(2), or log(1 + 1/e) where all targets are True.
    """
    scores = jax.nn.sigmoid(logits) if twice else logits
    losses = jax.nn.softplus(scores) - jnp.where(targets, scores, 0.0)
    return (losses * counted).sum() / jnp.maximum(counted.sum(), 1)
