"""Dynamic token pooling: an hourglass over patches that may be learned (arXiv 2211.09761).

Blocks run at every byte (`pre`), then on one vector per patch (`backbone`), then at every byte
again (`post`), all of one width. A patch ends with the byte at its boundary. Patches are pooled to
their means, after a learned null vector, and normalised. Each byte adds the backbone's output for
the last patch that has ended to its own vector from before the pooling. So a byte that ends a patch
already reads it, and nothing is read from a patch before it has ended (section 2.1). Any segmenter
says where patches end: a rule, or a predictor at each byte, which FLEXITOKENS (arXiv 2507.12720)
trains with a band of rates for each script.

The published blocks (`published_blocks=True`) are post-norm with Transformer-XL's relative
attention and biases everywhere; the default ones are today's (RMSNorm before, RoPE, SwiGLU), with a
norm before the predictor and one before the head. Differences from the authors' code:

- Their cross-entropy of supervised boundaries takes probabilities for logits, and boundaries are
  sampled in evaluation too: faults, kept under `published` of the segmenter. Here learned
  boundaries are rounded in evaluation, as in the paper, and noise in training depends only on the
  row and the position in the document.
- The language model's loss hardly reaches their predictor. `boundary_gradient` also offers the
  gradient that `bytelm.patching.ended` derives.
- The predictor starts at the expected rate of boundaries, where theirs starts at one half.
- Rows have a fixed number of slots. When all are filled no patch ends any more, and every byte is
  still scored; theirs grow with the batch.
- Each document in a row has its own null vector, patches and positions.
- No dropout.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.contract import Batch, LanguageModel, ModelOutput
from bytelm.models.hierarchy import HierarchyConfig, extend_backbone, supervise
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.mlp import GATED
from bytelm.nn.norms import NORMS, LayerNorm
from bytelm.nn.partitioning import shard_rows
from bytelm.nn.stack import Stack, StackState
from bytelm.nn.transformer_xl import DEVIATION, PositionBiases, RelativeBlockConfig
from bytelm.patching.ended import (
    BoundaryGradient,
    find_ended,
    gather_mean,
    gather_sum,
    spread_ended,
)
from bytelm.patching.learned import GumbelPatches
from bytelm.patching.segmenter import Needs, SegmenterConfig


@dataclass(frozen=True)
class DynamicPoolingConfig(HierarchyConfig):
    """Dynamic token pooling; the defaults are its layout with today's blocks."""

    family: ClassVar[str] = "dynamic_pooling"
    needs: ClassVar[Needs] = Needs("end", states=True, gradient=True)

    width: int = 512
    """Channels of all blocks."""
    pre_depth: int = 2
    """Blocks at every byte, before the pooling."""
    backbone_depth: int = 8
    """Blocks on patches."""
    post_depth: int = 2
    """Blocks at every byte, after the pooling."""
    heads: int | None = None
    """Attention heads; None for as many of `head_width` as make up the width."""
    mlp_width: int | None = None
    """Channels inside the MLPs; None for 4 x width (for SwiGLU, as many parameters)."""
    segmenter: SegmenterConfig = field(default=GumbelPatches())
    """Where patches end."""
    boundary_gradient: BoundaryGradient = "counterfactual"
    """How the language model's loss reaches a predictor that samples: hardly, as in the authors'
    code, or by what each boundary changes; see `bytelm.patching.ended`."""
    published_blocks: bool = False
    """The authors' blocks: post-norm, relative attention, biases; `mlp` "gelu" (exact) or "relu",
    and `norm`, `qk_norm`, `rope_theta` and `scaled_init` left unused. Quadratic in memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive(
            "width", "pre_depth", "backbone_depth", "post_depth", "heads", "mlp_width"
        )
        if self.heads is None:
            self.require_heads("width")
        if self.published_blocks and self.mlp in GATED:
            raise UserError(
                "model.published_blocks has no MLP with a gate; set model.mlp to gelu or relu."
            )
        if self.published_blocks and self.width % 2:
            raise UserError(f"model.width is {self.width}; relative positions need it even.")

    def capacity(self, length: int) -> int:
        return super().capacity(length) + 1  # the null vector

    def blocks(self, depth: int) -> BlockConfig:
        block = self.block(self.width, depth, AttentionMask(), mlp_width=self.mlp_width)
        heads = self.heads or block.heads
        block = replace(block, heads=heads, key_value_heads=heads)
        return RelativeBlockConfig(**vars(block)) if self.published_blocks else block

    def global_block(self) -> BlockConfig:
        return self.blocks(self.backbone_depth)

    def build(self, rngs: nnx.Rngs) -> "DynamicPooling":
        return DynamicPooling(self, rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        patches = self.capacity(sequence_length) if patches is None else patches
        bytewise = self.blocks(self.pre_depth + self.post_depth).forward_flops(sequence_length)
        segmenter = self.segmenter.forward_flops(self.width, sequence_length)
        head = 2.0 * sequence_length * self.width * OUTPUT_SIZE
        return bytewise + self.global_block().forward_flops(patches) + segmenter + head


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DynamicPoolingState:
    """Decoding state.

    Attributes:
        pre: of the blocks before the pooling.
        carry: of the segmenter.
        open_sum: float32 `[B, width]`, the sum of the vectors of the unfinished patch.
        open_size: float32 `[B]`, its number of bytes.
        backbone: of the backbone.
        read: `[B, width]`, the vector that symbols read now.
        post: of the blocks after the pooling.
    """

    pre: StackState
    carry: Any
    open_sum: jax.Array
    open_size: jax.Array
    backbone: StackState
    read: jax.Array
    post: StackState


class DynamicPooling(LanguageModel):
    """The model that a `DynamicPoolingConfig` builds."""

    def __init__(self, config: DynamicPoolingConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, published = config.width, config.published_blocks
        scale = DEVIATION if published else 1.0
        self.embedding = Embedding(INPUT_SIZE, width, rngs=rngs, scale=scale)
        self.pre = self._stack(config.pre_depth, rngs)
        self.segmenter = config.segmenter.build(
            width,
            config.needs,
            norm=None if published else config.norm,
            relu=config.mlp == "relu",
            rngs=rngs,
        )
        self.null_group = nnx.Param(jax.random.normal(rngs.params(), (width,)), role="vector")
        self.backbone = self._stack(config.backbone_depth, rngs)
        self.post = self._stack(config.post_depth, rngs)
        if published:
            shape = (config.global_block().heads, config.head_width)
            self.content_bias = nnx.Param(
                DEVIATION * jax.random.normal(rngs.params(), shape), role="bias"
            )
            self.position_bias = nnx.Param(
                DEVIATION * jax.random.normal(rngs.params(), shape), role="bias"
            )
        else:
            self.final_norm = NORMS[config.norm](width)
        self.down_norm = LayerNorm(width, bias=True) if published else NORMS[config.norm](width)
        gain = DEVIATION * width**0.5 if published else 0.0 if config.scaled_init else 1.0
        self.head = Dense(width, OUTPUT_SIZE, rngs=rngs, gain=gain, bias=published, role="head")

    def _stack(self, depth: int, rngs: nnx.Rngs) -> Stack:
        return self.config.stack(self.config.blocks(depth), rngs)

    @property
    def _biases(self) -> PositionBiases | None:
        if not self.config.published_blocks:
            return None
        return PositionBiases(self.content_bias[...], self.position_bias[...])

    def __call__(self, batch: Batch) -> ModelOutput:
        config, document_ids = self.config, batch.document_ids
        x = shard_rows(self.embedding(batch.ids, config.dtype))
        x = self.pre(x, document_ids, shared=self._biases)
        boundaries, _ = self.segmenter(x, batch.ids, document_ids, keys=batch.keys)
        patches = find_ended(boundaries.hard, document_ids, config.capacity(x.shape[1]))
        y = gather_mean(x, boundaries.values, patches, config.boundary_gradient)
        y = shard_rows(self._slots(y, patches.null, x.dtype))
        y = self.backbone(y, patches.document_ids, shared=self._biases)
        x = x + spread_ended(y, boundaries.values, patches, config.boundary_gradient)
        x = self.post(x, document_ids, shared=self._biases)
        logits = self._logits(x)
        losses, statistics = supervise(self.segmenter, boundaries, batch, logits)
        return ModelOutput(
            logits,
            auxiliary_losses=losses,
            statistics=(*patches.statistics, *statistics),
            patch_starts=patches.starts,
            states=self._normalised(x),
        )

    def _slots(self, y: jax.Array, null: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """What the backbone reads, from the means of patches `[B, P, width]`."""
        y = jnp.where(null[:, :, None], self.null_group[...].astype(jnp.float32)[None, None], y)
        return self.down_norm(y.astype(dtype))

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.head(self._normalised(x)).astype(jnp.float32)

    def _normalised(self, x: jax.Array) -> jax.Array:
        return x if self.config.published_blocks else self.final_norm(x)

    def init_state(self, batch_size: int, max_length: int) -> DynamicPoolingState:
        config, dtype = self.config, self.config.dtype
        return DynamicPoolingState(
            pre=self.pre.init_state(batch_size, max_length, dtype),
            carry=self.segmenter.init_carry(batch_size, max_length, dtype),
            open_sum=jnp.zeros((batch_size, config.width)),
            open_size=jnp.zeros((batch_size,)),
            backbone=self.backbone.init_state(batch_size, config.capacity(max_length), dtype),
            read=jnp.zeros((batch_size, config.width), dtype),
            post=self.post.init_state(batch_size, max_length, dtype),
        )

    def extend(
        self, ids: jax.Array, state: DynamicPoolingState, lengths: jax.Array
    ) -> tuple[jax.Array, DynamicPoolingState]:
        new = ids.shape[1]
        offsets = jnp.arange(new)[None, :]
        present = offsets < lengths[:, None]
        valid = present.astype(jnp.int32)
        positions = state.pre.length[:, None] + offsets
        x = self.embedding(ids, self.config.dtype)
        x, pre = self.pre.extend(x, state.pre, lengths, shared=self._biases)
        boundaries, carry = self.segmenter(x, ids, valid, state.carry)
        patches = find_ended(
            boundaries.hard,
            valid,
            new + 1,
            first=(positions == 0) & present,
            slots_left=state.backbone.positions.shape[1] - state.backbone.length,
        )
        # Slot 0 holds the patch that was open, or the null vector of a row that had none.
        sums, sizes = gather_sum(x, patches)  # [B, P, width], [B, P]
        sums = sums.at[:, 0].add(state.open_sum)
        sizes = sizes.at[:, 0].add(state.open_size)
        y = self._slots(sums / jnp.maximum(sizes, 1)[:, :, None], patches.null, x.dtype)
        y, backbone = extend_backbone(self.backbone, y, state.backbone, patches.total, self._biases)

        unfinished = (present & (patches.index == new + 1)).astype(jnp.float32)
        goes_on = ~patches.ends.any(axis=1)
        open_sum = (x.astype(jnp.float32) * unfinished[:, :, None]).sum(axis=1)
        vectors = jnp.concatenate([state.read[:, None], y.astype(state.read.dtype)], axis=1)
        x = x + jnp.take_along_axis(vectors, (patches.read + 1)[:, :, None], axis=1)
        x, post = self.post.extend(x, state.post, lengths, shared=self._biases)
        return self._logits(x), DynamicPoolingState(
            pre=pre,
            carry=carry,
            open_sum=open_sum + jnp.where(goes_on[:, None], state.open_sum, 0),
            open_size=unfinished.sum(axis=1) + jnp.where(goes_on, state.open_size, 0),
            backbone=backbone,
            read=jnp.take_along_axis(vectors, patches.total[:, None, None], axis=1)[:, 0],
            post=post,
        )

    def for_decoding(self) -> "DynamicPooling":
        for stack in (self.pre, self.backbone, self.post):
            stack.unstack()
        return self
