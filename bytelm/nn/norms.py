"""Normalisation layers."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

NormKind = Literal["rms", "layer"]


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation over the last axis (arXiv 1910.07467), in float32."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,)), role="norm")

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + 1e-6)
        scale = self.scale[...].astype(jnp.float32)
        return (normed * jnp.expand_dims(scale, range(x.ndim - 1))).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32, with a scale and an optional bias."""

    def __init__(self, width: int, *, bias: bool = False):
        self.scale = nnx.Param(jnp.ones((width,)), role="norm")
        self.bias = nnx.Param(jnp.zeros((width,)), role="bias") if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + 1e-5)
        scale = self.scale[...].astype(jnp.float32)
        normed = normed * jnp.expand_dims(scale, range(x.ndim - 1))
        if self.bias is not None:
            bias = self.bias[...].astype(jnp.float32)
            normed = normed + jnp.expand_dims(bias, range(x.ndim - 1))
        return normed.astype(x.dtype)


NORMS: dict[NormKind, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}
