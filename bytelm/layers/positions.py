"""Positions: rotary embeddings (RoPE, arXiv 2104.09864)."""

import jax
import jax.numpy as jnp


def rotary(x: jax.Array, positions: jax.Array, theta: float = 10_000.0) -> jax.Array:
    """Turns the two halves of each head by an angle that grows with the position.

    Args:
        x: queries or keys `[B, T, H, K]`, K even; channel i is paired with channel i + K/2.
        positions: int32 `[B, T]` or `[1, T]`.
        theta: base of the wavelengths.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * frequencies[None, None, :]
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
