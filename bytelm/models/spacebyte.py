"""SpaceByte: global blocks at the bytes where words begin (Slagle 2024, arXiv 2404.14408).

Local blocks of width d run at every byte and see a window. After the first of them, the vectors at
the boundaries (the patches' first bytes) are widened to D by zeros on the left, pass the global
blocks, and their last d channels are added back where they came from; the other local blocks
follow. Nothing is pooled and nothing is spread: local attention carries what a global block said
at a boundary to the bytes after it.

Followed from the authors' code: the boundary rule (section 2 of the paper contradicts itself on
continuation bytes), the vector added back on top of the residual it started from, patches numbered
from 0 for the global positions, local blocks divided in the middle. Decided otherwise:

- When a row has more boundaries than patches, the code ignores all targets from the first surplus
  boundary on, in evaluation too, and forces the end in generation. Here no more patches open, and
  every byte is scored.
- One path of the code lets a byte see `window` bytes before itself, the other one less; here a
  window of W is the byte and the W - 1 before it, as on their GPU.
- Unused global slots hold zeros and are seen by nobody (the code gathers the last byte).
- Documents packed into one row do not see each other, and positions count from the document's
  start; the code's windows run across documents.
- Rotary positions turn the two halves of a head, where the code turns neighbouring channels: the
  same model with its channels in another order.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.contract import Batch, LanguageModel, ModelOutput
from bytelm.models.hierarchy import (
    HierarchyConfig,
    PositionTable,
    extend_backbone,
    supervise,
)
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.norms import NORMS
from bytelm.nn.partitioning import shard_rows
from bytelm.nn.stack import StackState
from bytelm.patching.patches import find_patches, gather_first, positions_in_run, spread_first
from bytelm.patching.segmenter import Needs, RulePatches, SegmenterConfig


@dataclass(frozen=True)
class SpaceByteConfig(HierarchyConfig):
    """SpaceByte; the defaults are its layout with today's blocks (RMSNorm, SwiGLU, RoPE)."""

    family: ClassVar[str] = "spacebyte"
    needs: ClassVar[Needs] = Needs("start", states=True, gradient=True)

    local_width: int = 256
    """d, channels of the local blocks."""
    local_depth: int = 6
    """Local blocks in all, before and after the global ones."""
    initial_depth: int | None = None
    """Local blocks before the global ones; None for half of them, rounded down."""
    global_width: int = 512
    """D, channels of the global blocks."""
    global_depth: int = 6
    """Global blocks."""
    window: int | None = None
    """A byte sees itself and the window - 1 bytes before it in the local blocks; None for d."""
    segmenter: SegmenterConfig = field(default=RulePatches("spacelike"))
    """Where patches start; FixedPatches are the paper's ablation."""
    learned_positions: int | None = None
    """Bytes that have a learned position, added to the embedding, and as many patches as a row
    of that length has room for; later ones get the last one's. None for no learned positions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("local_depth", "global_depth", "window", "learned_positions")
        self.require_heads("local_width", "global_width")
        if self.global_width < self.local_width:
            raise UserError(
                f"model.global_width {self.global_width} is less than model.local_width "
                f"{self.local_width}; widening pads with zeros, so it must be at least as much."
            )
        if self.local_depth < 2:
            raise UserError(
                f"model.local_depth is {self.local_depth}; it must be at least 2, for blocks "
                "before and after the global ones."
            )
        if not 0 < self.initial_blocks < self.local_depth:
            raise UserError(
                f"model.initial_depth is {self.initial_depth}; it must be from 1 to "
                f"{self.local_depth - 1}, to leave some of the {self.local_depth} local blocks."
            )

    @property
    def initial_blocks(self) -> int:
        return self.local_depth // 2 if self.initial_depth is None else self.initial_depth

    def local_block(self, depth: int) -> BlockConfig:
        mask = AttentionMask(window=self.window or self.local_width)
        return self.block(self.local_width, depth, mask)

    def global_block(self) -> BlockConfig:
        return self.block(self.global_width, self.global_depth, AttentionMask())

    def build(self, rngs: nnx.Rngs) -> "SpaceByte":
        return SpaceByte(self, rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        patches = self.capacity(sequence_length) if patches is None else patches
        head = 2.0 * sequence_length * self.local_width * OUTPUT_SIZE
        local = self.local_block(self.local_depth).forward_flops(sequence_length)
        local += self.segmenter.forward_flops(self.local_width, sequence_length)
        return local + self.global_block().forward_flops(patches) + head


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpaceByteState:
    """Decoding state: of the local blocks, of the segmenter, and of the global blocks."""

    initial: StackState
    carry: Any
    backbone: StackState
    final: StackState


class SpaceByte(LanguageModel):
    """The model that a `SpaceByteConfig` builds."""

    def __init__(self, config: SpaceByteConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, width = config.local_width, config.global_width
        self.embedding = Embedding(INPUT_SIZE, d, rngs=rngs)
        if config.learned_positions is not None:
            size = config.learned_positions
            self.local_positions = PositionTable(size, d, rngs=rngs)
            self.global_positions = PositionTable(config.capacity(size), width, rngs=rngs)
        self.initial = config.stack(config.local_block(config.initial_blocks), rngs)
        self.segmenter = config.segmenter.build(
            d, config.needs, norm=config.norm, relu=config.mlp == "relu", rngs=rngs
        )
        self.backbone = config.stack(config.global_block(), rngs)
        final_blocks = config.local_depth - config.initial_blocks
        self.final = config.stack(config.local_block(final_blocks), rngs)
        self.final_norm = NORMS[config.norm](d)
        gain = 0.0 if config.scaled_init else 1.0
        self.head = Dense(d, OUTPUT_SIZE, rngs=rngs, gain=gain, role="head")

    def __call__(self, batch: Batch) -> ModelOutput:
        ids, document_ids = batch.ids, batch.document_ids
        x = shard_rows(self._embed(ids, positions_in_run(document_ids)))
        x = self.initial(x, document_ids)
        boundaries, _ = self.segmenter(x, ids, document_ids, keys=batch.keys)
        capacity = self.config.capacity(ids.shape[1])
        patches = find_patches(boundaries.hard, document_ids, capacity)
        y = self._widen(gather_first(x, patches), patches.number)
        y = self.backbone(y, patches.document_ids)
        # Values are 1 where a patch starts; their gradient is how a sampled segmenter learns.
        values = boundaries.values[:, :, None].astype(y.dtype)
        x = x + values * spread_first(self._narrow(y), patches)
        x = self.final(x, document_ids)
        logits = self._logits(x)
        losses, statistics = supervise(self.segmenter, boundaries, batch, logits)
        return ModelOutput(
            logits,
            auxiliary_losses=losses,
            statistics=(*patches.statistics, *statistics),
            patch_starts=patches.boundaries,
            states=self.final_norm(x),
        )

    def _embed(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        x = self.embedding(ids, self.config.dtype)
        if self.config.learned_positions is not None:
            x = x + self.local_positions(positions, x.dtype)
        return x

    def _widen(self, x: jax.Array, numbers: jax.Array) -> jax.Array:
        y = jnp.pad(x, ((0, 0), (0, 0), (self.config.global_width - x.shape[-1], 0)))
        if self.config.learned_positions is not None:
            y = y + self.global_positions(numbers, y.dtype)
        return y

    def _narrow(self, y: jax.Array) -> jax.Array:
        return y[:, :, -self.config.local_width :]

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.final_norm(x)).astype(jnp.float32)

    def init_state(self, batch_size: int, max_length: int) -> SpaceByteState:
        dtype, capacity = self.config.dtype, self.config.capacity(max_length)
        return SpaceByteState(
            self.initial.init_state(batch_size, max_length, dtype),
            self.segmenter.init_carry(batch_size, max_length, dtype),
            self.backbone.init_state(batch_size, capacity, dtype),
            self.final.init_state(batch_size, max_length, dtype),
        )

    def extend(
        self, ids: jax.Array, state: SpaceByteState, lengths: jax.Array
    ) -> tuple[jax.Array, SpaceByteState]:
        offsets = jnp.arange(ids.shape[1])[None, :]
        valid = (offsets < lengths[:, None]).astype(jnp.int32)
        x = self._embed(ids, state.initial.length[:, None] + offsets)
        x, initial = self.initial.extend(x, state.initial, lengths)
        boundaries, carry = self.segmenter(x, ids, valid, state.carry)
        seen = state.backbone.length
        slots_left = state.backbone.positions.shape[1] - seen
        patches = find_patches(boundaries.hard, valid, ids.shape[1], slots_left=slots_left)
        y = self._widen(gather_first(x, patches), seen[:, None] + patches.number)
        y, backbone = extend_backbone(self.backbone, y, state.backbone, patches.total)
        x = x + spread_first(self._narrow(y), patches)
        x, final = self.final.extend(x, state.final, lengths)
        return self._logits(x), SpaceByteState(initial, carry, backbone, final)

    def for_decoding(self) -> "SpaceByte":
        for stack in (self.initial, self.backbone, self.final):
            stack.unstack()
        return self
