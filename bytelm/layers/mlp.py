"""The feed-forward part of a Transformer block."""

from typing import Literal

import jax
from flax import nnx

from bytelm.layers.linear import Dense

MLPKind = Literal["swiglu", "gelu", "relu"]


def default_mlp_width(kind: MLPKind, width: int) -> int:
    """4 x width; for SwiGLU 8/3 x width, which has as many parameters, up to a multiple of 64."""
    return 64 * -(-8 * width // (3 * 64)) if kind == "swiglu" else 4 * width


class MLP(nnx.Module):
    """`[..., width] -> [..., width]` through `hidden` channels.

    "swiglu" is `down(silu(gate(x)) * up(x))` (arXiv 2002.05202); "gelu" (tanh form) and "relu"
    are `down(activation(up(x)))`.
    """

    def __init__(
        self, kind: MLPKind, width: int, hidden: int, *, rngs: nnx.Rngs, output_gain: float
    ):
        self.kind = kind
        if kind == "swiglu":
            self.gate = Dense(width, hidden, rngs=rngs, tensor_axis=-1)
        self.up = Dense(width, hidden, rngs=rngs, tensor_axis=-1)
        self.down = Dense(hidden, width, rngs=rngs, gain=output_gain, tensor_axis=-2)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "swiglu":
            return self.down(nnx.silu(self.gate(x)) * self.up(x))
        activation = nnx.gelu if self.kind == "gelu" else nnx.relu
        return self.down(activation(self.up(x)))
