"""The feed-forward part of a Transformer block."""

from collections.abc import Callable
from typing import Literal

import jax
from flax import nnx

from bytelm.nn.linear import Dense

MLPKind = Literal["swiglu", "geglu", "gelu", "relu"]

GATED: dict[MLPKind, Callable[[jax.Array], jax.Array]] = {"swiglu": nnx.silu, "geglu": nnx.gelu}
"""The kinds with a gate, and the gate's activation."""


def default_mlp_width(kind: MLPKind, width: int) -> int:
    """4 x width; with a gate 8/3 x width (as many parameters), rounded up to a multiple of 64."""
    return 64 * -(-8 * width // (3 * 64)) if kind in GATED else 4 * width


class MLP(nnx.Module):
    """`[..., width] -> [..., width]` through `hidden` channels.

    "swiglu" is `down(silu(gate(x)) * up(x))` and "geglu" the same with GELU (arXiv 2002.05202);
    "gelu" and "relu" are `down(activation(up(x)))`. GELU is the tanh form.
    """

    def __init__(
        self,
        kind: MLPKind,
        width: int,
        hidden: int,
        *,
        rngs: nnx.Rngs,
        gain: float = 1.0,
        output_gain: float,
    ):
        self.kind = kind
        if kind in GATED:
            self.gate = Dense(width, hidden, rngs=rngs, gain=gain, tensor_axis=-1)
        self.up = Dense(width, hidden, rngs=rngs, gain=gain, tensor_axis=-1)
        self.down = Dense(hidden, width, rngs=rngs, gain=output_gain, tensor_axis=-2)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind in GATED:
            # The backward pass recomputes the activation: less memory in the same time.
            gated = jax.checkpoint(lambda gate, up: GATED[self.kind](gate) * up)
            return self.down(gated(self.gate(x), self.up(x)))
        activation = nnx.gelu if self.kind == "gelu" else nnx.relu
        return self.down(activation(self.up(x)))
