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

from bytelm.core.errors import UserError
from bytelm.models.transformer import FlatConfig
from bytelm.nn.block import StackedConfig
from bytelm.nn.layout import Layout
from bytelm.nn.mamba2 import Mamba2Config
from bytelm.nn.stack import MixedStack


@dataclass(frozen=True)
class MambaConfig(FlatConfig):
    """A flat Mamba-2 model."""

    family: ClassVar[str] = "mamba"
    norm_epsilon: ClassVar[float] = 1e-5

    layout: str = "m12"
    """The blocks in their order, such as "T1m4": m and M are Mamba-2 without and with an MLP, t and
    T attention without and with an MLP."""
    expansion: int = 2
    """Channels inside a Mamba-2 block, as a multiple of `width`."""
    state_width: int = 128
    """Channels of its keys and queries: a head's state has head_width x state_width numbers."""
    convolution_width: int = 4
    """Bytes that its convolution sees."""
    chunk: int = 64
    """Bytes that it computes at a time; this only changes speed and rounding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("expansion", "state_width", "convolution_width", "chunk")
        if any(letter in "tT" for letter, _ in self._layout.parts):
            self.require_attention_heads()
        if self.expansion * self.width % self.head_width:
            raise UserError(
                f"model.expansion x model.width is {self.expansion * self.width}, no multiple of "
                f"model.head_width {self.head_width}; change one of them."
            )

    @property
    def _layout(self) -> Layout:
        return Layout.parse(self.layout, "model.layout")

    @property
    def stacked(self) -> Sequence[StackedConfig]:
        options: dict[str, Any] = {"norm_epsilon": self.norm_epsilon, "dtype": self.dtype}
        mamba = Mamba2Config(
            width=self.width,
            depth=1,
            mlp=self.mlp,
            mlp_width=self.mlp_width,
            inner=self.expansion * self.width,
            head_width=self.head_width,
            state_width=self.state_width,
            convolution_width=self.convolution_width,
            chunk=self.chunk,
            **options,
        )
        attention = self.attention_blocks(1, **options)
        return self._layout.configs(attention, mamba)

    def build_stack(self, rngs: nnx.Rngs) -> MixedStack:
        stream = jnp.dtype("float32")
        return MixedStack(self.stacked, rngs=rngs, stream=stream, scan=self.scan, remat=self.remat)
