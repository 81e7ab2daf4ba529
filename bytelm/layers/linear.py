"""Dense layers and embeddings."""

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.layers.partitioning import replicate


class Dense(nnx.Module):
    """A linear layer: `[..., d_in] -> [..., d_out]`.

    The kernel `[d_in, d_out]` starts as a normal of variance `gain**2 / d_in`. It is stored in
    float32 and used in the dtype of the input.

    Args:
        tensor_axis: which kernel axis the mesh's `tensor` axis divides: -1 (outputs), -2 (inputs)
            or None. Counted from the end, so that it holds for stacked kernels too.
        bias: whether a vector, zero at first, is added.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        rngs: nnx.Rngs,
        gain: float = 1.0,
        tensor_axis: int | None = None,
        bias: bool = False,
    ):
        kernel = jax.random.normal(rngs.params(), (d_in, d_out)) * (gain * d_in**-0.5)
        self.kernel = nnx.Param(kernel, tensor_axis=tensor_axis)
        if bias:
            self.bias = nnx.Param(jnp.zeros((d_out,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        # XLA:CPU is much faster on two-dimensional matmuls: no transposing copies in the gradient.
        kernel = self.kernel[...].astype(x.dtype)
        flat = x.reshape(-1, x.shape[-1]) @ kernel
        if hasattr(self, "bias"):
            flat = flat + self.bias[...].astype(x.dtype)[None, :]
        return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class Embedding(nnx.Module):
    """A table of vectors, one for each symbol: int `[...] -> [..., width]`.

    Starts as a normal of standard deviation `scale`.
    """

    def __init__(self, size: int, width: int, *, rngs: nnx.Rngs, scale: float = 1.0):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (size, width)) * scale)

    def __call__(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.take(replicate(self.embedding[...].astype(dtype)), ids, axis=0)
