"""H-Net's way from patches back to symbols (arXiv 2507.07955, section 2.2.2).

Vectors of patches are averaged over time with the probabilities of their boundaries, so that a
patch that hardly begins changes little:

    z_k = P_k y_k + (1 - P_k) z_{k-1},  P_k = clip(p_k, 1e-4, 1 - 1e-4),  z_{-1} = 0,

from each document's first patch on. Each symbol then gets its patch's z times its confidence, which
is 1 and has the gradient of the likelier probability: of p at a boundary, and of 1 - p elsewhere.
Rules decide with p = 0 or 1, and so do sampled boundaries, whose p has the gradient of the relaxed
sample; that passes straight through the clip, beyond whose ends these p lie.

Shapes: B = rows, N = symbols, P = patches, D = channels.
"""

import jax
import jax.numpy as jnp

from bytelm.nn.sequence import recurrence
from bytelm.patching.levels import Segmentation
from bytelm.patching.patches import gather_first
from bytelm.patching.segmenter import Boundaries

LEAST = 1e-4
"""P is kept this far from 0 and 1."""


def probabilities(boundaries: Boundaries) -> jax.Array:
    """float32 `[B, N]`, of a boundary at each symbol."""
    return boundaries.values if boundaries.probabilities is None else boundaries.probabilities


def smoothed(y: jax.Array, cut: Segmentation) -> jax.Array:
    """The average z of the patches' vectors: `[B, P, D]` to float32 `[B, P, D]`.

    In decoding it goes on from the vector of the open patch.
    """
    p = gather_first(probabilities(cut.boundaries)[:, :, None], cut.patches)  # [B, P, 1]
    clipped = jnp.clip(p, LEAST, 1 - LEAST)
    p = clipped if cut.boundaries.probabilities is not None else _straight(p, clipped)
    kept = jnp.where(cut.patches.number[:, :, None] > 0, 1 - p, 0.0)
    first = None if cut.open is None else cut.open.vector.astype(jnp.float32)
    return moving_average(p * y.astype(jnp.float32), kept, first)


def _straight(x: jax.Array, value: jax.Array) -> jax.Array:
    """The value, with the gradient of x."""
    return value + (x - jax.lax.stop_gradient(x))


@jax.checkpoint  # the backward pass stores its inputs alone
def moving_average(new: jax.Array, kept: jax.Array, first: jax.Array | None) -> jax.Array:
    """z_k = new_k + kept_k z_{k-1}, float32 `[B, P, D]` and `[B, P, 1]`.

    z_{-1} is `first`, `[B, D]`; None for 0.
    """
    if first is not None:
        new = new.at[:, 0].add(kept[:, 0] * first)
    return recurrence(new, kept)


def decided(boundaries: Boundaries) -> jax.Array:
    """The probability of the likelier of a boundary and none, float32 `[B, N]`."""
    p = probabilities(boundaries)
    return jnp.where(p > 0.5, p, 1 - p)


def confidence(cut: Segmentation) -> jax.Array:
    """1, with the gradient of `decided`: float32 `[B, N, 1]`.

    Boundaries that found no free slot have no gradient.
    """
    overflowed = cut.boundaries.hard & ~cut.patches.boundaries
    c = jnp.where(overflowed, 1.0, decided(cut.boundaries))[:, :, None]
    return _straight(c, jnp.ones_like(c))
