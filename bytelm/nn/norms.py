"""Normalisation layers."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

NormKind = Literal["rms", "layer"]


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation over the last axis (arXiv 1910.07467), in float32.

    Args:
        epsilon: added to the mean square; None for 1e-6.
        dtype: of the result; None for that of the input.
    """

    def __init__(self, width: int, *, epsilon: float | None = None, dtype: jnp.dtype | None = None):
        self.scale = nnx.Param(jnp.ones((width,)), role="norm")
        self.epsilon = 1e-6 if epsilon is None else epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        scale = self.scale[...].astype(jnp.float32)
        return (normed * jnp.expand_dims(scale, range(x.ndim - 1))).astype(self.dtype or x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32, with a scale and an optional bias.

    Args:
        epsilon: added to the variance; None for 1e-5.
        dtype: of the result; None for that of the input.
    """

    def __init__(
        self,
        width: int,
        *,
        epsilon: float | None = None,
        dtype: jnp.dtype | None = None,
        bias: bool = False,
    ):
        self.scale = nnx.Param(jnp.ones((width,)), role="norm")
        self.bias = nnx.Param(jnp.zeros((width,)), role="bias") if bias else None
        self.epsilon = 1e-5 if epsilon is None else epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        scale = self.scale[...].astype(jnp.float32)
        normed = normed * jnp.expand_dims(scale, range(x.ndim - 1))
        if self.bias is not None:
            bias = self.bias[...].astype(jnp.float32)
            normed = normed + jnp.expand_dims(bias, range(x.ndim - 1))
        return normed.astype(self.dtype or x.dtype)


NORMS: dict[NormKind, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}
