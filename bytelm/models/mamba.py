"""The flat Mamba-2 model over bytes: MambaByte with today's blocks.

MambaByte (arXiv 2401.13660) reads and writes single bytes with a recurrent state, in place of a
cache that grows with the text. This is its successor: Mamba-2 blocks (arXiv 2405.21060), as in the
flat baseline of H-Net's paper (arXiv 2507.07955: 28 blocks of width 1024 without an MLP), or blocks
of several kinds by a `layout` in H-Net's letters.

Differences from MambaByte: Mamba-2 in place of Mamba; END and START; an untied head that starts at
zero, and kernels that start as in our other families (`transformer.py`). Decay rates, skips, biases
of dt, and convolutions start as in Mamba-2's code, whose epsilon the norms have. The residual
stream is float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from bytelm.models.blocks import MixedBlocksConfig
from bytelm.models.transformer import FlatConfig
from bytelm.nn.block import StackedConfig
from bytelm.nn.layout import Layout
from bytelm.nn.stack import MixedStack


@dataclass(frozen=True)
class MambaConfig(MixedBlocksConfig, FlatConfig):
    """A flat Mamba-2 model."""

    family: ClassVar[str] = "mamba"

    layout: str = "m12"
    """The blocks in their order, such as "T1m4": m and M are Mamba-2 without and with an MLP, t and
    T attention without and with an MLP."""
    norm_epsilon: float = 1e-5
    """Added to the mean square in all norms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(letter in "tT" for letter, _ in self._layout.parts):
            self.require_attention_heads()
        self.require_mamba_heads("model.width", self.width)

    @property
    def _layout(self) -> Layout:
        return Layout.parse(self.layout, "model.layout")

    @property
    def stacked(self) -> Sequence[StackedConfig]:
        options: dict[str, Any] = {"norm_epsilon": self.norm_epsilon, "dtype": self.dtype}
        mamba = self.mamba_block(self.width, self.mlp_width, **options)
        attention = self.attention_blocks(1, dtype=self.dtype)
        return self._layout.configs(attention, mamba)

    def build_stack(self, rngs: nnx.Rngs) -> MixedStack:
        stream = jnp.dtype("float32")
        options: dict[str, Any] = {"scan": self.scan, "remat": self.remat, "outputs": self.outputs}
        return MixedStack(self.stacked, rngs=rngs, stream=stream, **options)
