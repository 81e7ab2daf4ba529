"""Dense layers and embeddings."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bytelm.core.xla import backend
from bytelm.nn.mesh import replicate, sequence_shards
from bytelm.nn.roles import Role


class Dense(nnx.Module):
    """A linear layer: `[..., d_in] -> [..., d_out]`.

    The kernel `[d_in, d_out]` starts as a normal of variance `gain**2 / d_in`. It is stored in
    float32 and used in the dtype of the input.

    Args:
        tensor_axis: the kernel axis that the mesh's `tensor` axis divides: -1 (outputs), -2
            (inputs) or None. It counts from the end, which also fits stacked kernels.
        bias: whether a vector is added, zero at first.
        role: of the kernel.
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
        role: Role = "matrix",
    ):
        kernel = jax.random.normal(rngs.params(), (d_in, d_out)) * (gain * d_in**-0.5)
        self.kernel = nnx.Param(kernel, tensor_axis=tensor_axis, role=role)
        role = "head_bias" if role == "head" else "bias"
        self.bias: Any = nnx.Param(jnp.zeros((d_out,)), role=role) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        product = project(x, self.kernel[...])
        if self.bias is None:
            return product
        bias = self.bias[...].astype(x.dtype)
        return product + jnp.expand_dims(bias, range(x.ndim - 1))


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product of `[..., d_in]` and a kernel `[d_in, d_out]`, in the dtype of x."""
    if sequence_shards() > 1:  # rows and positions, both divided, do not become one axis
        return x @ kernel.astype(x.dtype)
    # On XLA:CPU products of matrices are faster: no transposed copies in the gradient.
    flat = x.reshape(-1, x.shape[-1])
    if x.dtype == jnp.bfloat16 and backend() == "cpu":
        flat = _project_bfloat16(flat, kernel)
    else:
        flat = flat @ kernel.astype(x.dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


# XLA:CPU uses a processor's bfloat16 units (AMX) only where a product of bfloat16 gives float32 and
# its first factor is stored by rows. Others become products of float32, four to six times as slow.
# All three products here, forward and backward, have the fast form.


@jax.custom_vjp
def _project_bfloat16(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return matrix_product(x, kernel.astype(x.dtype), (1, 0)).astype(x.dtype)


def _project_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _project_bfloat16(x, kernel), (x, kernel)


def _project_backward(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dx = matrix_product(gradient, kernel.astype(x.dtype), (1, 1)).astype(x.dtype)
    narrow, wide = sorted((x, gradient), key=lambda factor: factor.shape[1])
    # Without the barrier XLA exchanges the factors where the product is transposed.
    product = lax.optimization_barrier(matrix_product(_transposed(narrow), wide, (1, 0)))
    d_kernel = product if narrow is x else product.T
    return dx, d_kernel.astype(kernel.dtype)


_project_bfloat16.defvjp(_project_forward, _project_backward)


def _transposed(x: jax.Array) -> jax.Array:
    # A product with the identity takes a quarter of the time of XLA's loop.
    return matrix_product(jnp.eye(x.shape[1], dtype=x.dtype), x, (1, 1)).astype(x.dtype)


def matrix_product(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Product of two matrices over one axis of each, accumulated in float32."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


class Embedding(nnx.Module):
    """A table of vectors, one for each symbol: int `[...] -> [..., width]`.

    Starts as a normal of standard deviation `scale`.
    """

    def __init__(self, size: int, width: int, *, rngs: nnx.Rngs, scale: float = 1.0):
        self.embedding = nnx.Param(
            jax.random.normal(rngs.params(), (size, width)) * scale, role="embedding"
        )

    def __call__(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.take(replicate(self.embedding[...].astype(dtype)), ids, axis=0)
