"""What the hierarchical families share: their common options, and running a backbone on patches."""

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.statistics import Ratio
from bytelm.core.vocabulary import UNSCORED
from bytelm.models.contract import Batch, ModelConfig
from bytelm.nn.attention.attention import AttentionImplementation, AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.mlp import MLPKind
from bytelm.nn.norms import NormKind
from bytelm.nn.stack import Remat, Stack, StackState
from bytelm.patching.segmenter import (
    Boundaries,
    Needs,
    Segmenter,
    SegmenterConfig,
    Supervision,
)


@dataclass(frozen=True)
class HierarchyConfig(ModelConfig):
    """Options of every family that has blocks over bytes and a backbone over patches."""

    needs: ClassVar[Needs]
    """What the family needs of its segmenter."""

    bytes_per_slot: float | None = None
    """The backbone has room for one patch per this many symbols of a row, rounded up; None for 4,
    or an eighth more patches than a fixed size makes of one document, or a quarter more than the
    expected rate of learned boundaries. A row that is full opens no more patches: its last one
    takes the symbols that follow. `bytelm data describe` says what a corpus needs."""
    head_width: int = 64
    """Channels of one attention head."""
    mlp: MLPKind = "swiglu"
    """Kind of MLP."""
    norm: NormKind = "rms"
    """RMSNorm, or LayerNorm with a scale and no shift."""
    qk_norm: bool = True
    """Whether each head's queries and keys are normalised."""
    rope_theta: float | None = 10_000.0
    """Base of the rotary wavelengths; None for no rotation."""
    scaled_init: bool = True
    """Whether kernels that end a residual branch start smaller by sqrt(2 x depth) and the head at
    zero; otherwise all kernels start as a normal of variance 1/d_in."""
    scan: bool | None = None
    """Scan over the blocks of a stack, or unroll them; None scans above 12 blocks."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but matrix products ("dots"), or "full"."""
    attention: AttentionImplementation = "auto"
    """Attention back end; "auto" picks the fastest exact one of the machine."""

    def __post_init__(self) -> None:
        if self.bytes_per_slot is not None and not self.bytes_per_slot >= 1:
            raise UserError(
                f"model.bytes_per_slot is {self.bytes_per_slot}; it must be at least 1."
            )
        self.segmenter.check(self.needs, self.family)
        self.require_positive("head_width")
        if self.rope_theta is not None and not self.rope_theta > 0:
            raise UserError(f"model.rope_theta is {self.rope_theta}; it must be above 0, or None.")
        if self.rope_theta is not None and self.head_width % 2:
            raise UserError(
                f"model.head_width is {self.head_width}; rotary positions need it even."
            )

    def require_positive(self, *names: str) -> None:
        """Raises UserError unless the fields so named are None or at least 1."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"model.{name} is {value}; it must be at least 1.")

    def require_heads(self, *names: str) -> None:
        """Raises UserError unless the widths so named are multiples of `head_width`."""
        self.require_positive(*names)
        for name in names:
            if getattr(self, name) % self.head_width:
                raise UserError(
                    f"model.{name} {getattr(self, name)} is no multiple of model.head_width "
                    f"{self.head_width}; change one of them."
                )

    def require_divisor(self, name: str, heads: int) -> None:
        """Raises UserError unless the field so named is None or divides the query heads."""
        value = getattr(self, name)
        if value is not None and heads % value:
            raise UserError(
                f"model.{name} {value} does not divide the {heads} query heads; choose a divisor."
            )

    def capacity(self, length: int) -> int:
        """Patches that a row of `length` symbols has room for."""
        size = self.bytes_per_slot or self.default_bytes_per_slot
        return max(1, math.ceil(length / size - 1e-6))

    @property
    @abc.abstractmethod
    def segmenter(self) -> SegmenterConfig:
        """Where patches start or end."""

    @property
    def default_bytes_per_slot(self) -> float:
        """What `bytes_per_slot` None stands for."""
        return self.segmenter.default_bytes_per_slot

    @property
    def scripts(self) -> tuple[str, ...]:
        return self.segmenter.scripts

    @property
    def needs_unigram(self) -> bool:
        return self.segmenter.needs_unigram

    def block(
        self,
        width: int,
        depth: int,
        mask: AttentionMask,
        *,
        key_value_heads: int | None = None,
        mlp_width: int | None = None,
        condition_width: int | None = None,
    ) -> BlockConfig:
        """The shape of the blocks of one of the family's stacks."""
        heads = width // self.head_width
        return BlockConfig(
            width=width,
            depth=depth,
            heads=heads,
            key_value_heads=key_value_heads or heads,
            head_width=self.head_width,
            mlp=self.mlp,
            mlp_width=mlp_width,
            qk_norm=self.qk_norm,
            rope_theta=self.rope_theta,
            mask=mask,
            implementation=self.attention,
            norm=self.norm,
            scaled_init=self.scaled_init,
            condition_width=condition_width,
        )

    def stack(self, block: BlockConfig, rngs: nnx.Rngs) -> Stack:
        """A stack of such blocks, run as the options say."""
        return Stack(block, rngs=rngs, scan=self.scan, remat=self.remat)


class PositionTable(nnx.Module):
    """Learned absolute positions: int `[B, T] -> [B, T, width]`, standard deviation 1 at first.

    Positions beyond the table get its last row: a longer text is read, if not as well.
    """

    def __init__(self, size: int, width: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (size, width)), role="positions")

    def __call__(self, positions: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.take(self.table[...].astype(dtype), positions, axis=0, mode="clip")


def supervise(
    segmenter: Segmenter, boundaries: Boundaries, batch: Batch, predictions: jax.Array
) -> tuple[dict[str, jax.Array], tuple[Ratio, ...]]:
    """A segmenter's losses and statistics. Boundaries count where the target is scored.

    Args:
        predictions: float32 `[B, T, outputs]`, the model's logits of the next symbol.
    """
    counted = batch.targets != UNSCORED
    ids, document_ids = batch.ids, batch.document_ids
    seen = Supervision(ids, document_ids, counted, predictions, batch.scripts, batch.boundaries)
    return segmenter.supervise(boundaries, seen)


def extend_backbone(
    backbone: Stack,
    y: jax.Array,
    state: StackState,
    counts: jax.Array,
    shared: Any = None,
) -> tuple[jax.Array, StackState]:
    """Runs the backbone on the patches that opened, and not at all if none did in any row.

    Args:
        y: `[B, P, width]`.
        counts: int32 `[B]`, how many of the P patches each row really has.
        shared: as in `Stack.extend`.
    """

    def run() -> tuple[jax.Array, StackState]:
        return backbone.extend(y, state, counts, shared=shared)

    return jax.lax.cond((counts > 0).any(), run, lambda: (jnp.zeros_like(y), state))
