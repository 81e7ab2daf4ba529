"""Dynamic token pooling: an hourglass over segments that may be learned (arXiv 2211.09761).

Blocks run at every byte (`pre`), then on one vector for each segment (`backbone`), then at every
byte again (`post`), all of one width. A boundary ends a segment with its byte; segments are pooled
to their means, behind a learned null vector, and normalised. Each byte adds to its own vector from
before the pooling what the backbone says of the last segment that is finished; so a byte that ends
a segment already reads that segment, and nothing is read before it is finished (section 2.1).
Where segments end is told by a rule, or by a predictor at each byte (`boundary_kinds`), which
FLEXITOKENS (arXiv 2507.12720) trains with a band of rates for each script.

The published blocks (`published_blocks=True`) are post-norm with Transformer-XL's relative
attention and biases everywhere; the default ones are today's (RMSNorm before, RoPE, SwiGLU), with a
norm before the predictor and one before the head. Decided otherwise than in the authors' code:

- Their cross-entropy of supervised boundaries takes probabilities for logits, and boundaries are
  sampled in evaluation too: faults, kept under `published` of the boundary kind. Here learned
  boundaries are rounded in evaluation, as the paper has it, and noise in training depends on the
  row and the position in the document alone.
- The language model's loss hardly reaches their predictor. `boundary_gradient` offers the gradient
  that `bytelm.patching.spans` derives beside theirs.
- The predictor starts at the expected rate of boundaries, where theirs starts at one half.
- Rows have room for a fixed number of segments. When it is full no segment ends any more, and every
  byte is still scored; theirs grows with the batch.
- Each document in a row has a null vector, segments and positions of its own.
- No dropout.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.statistics import Ratio
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE, UNSCORED
from bytelm.models.contract import Batch, LanguageModel, ModelOutput
from bytelm.models.hierarchy import HierarchyConfig, extend_backbone
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.mlp import GATED
from bytelm.nn.norms import NORMS, LayerNorm
from bytelm.nn.partitioning import shard_rows
from bytelm.nn.stack import Stack, StackState
from bytelm.nn.transformer_xl import DEVIATION, PositionBiases, RelativeBlockConfig
from bytelm.patching.boundary_statistics import TARGET, boundary_statistics
from bytelm.patching.patches import positions_in_segment
from bytelm.patching.predictor import BoundaryPredictor
from bytelm.patching.rules import BoundaryRule, RuleState, find_boundaries
from bytelm.patching.segmenter import (
    BoundaryConfig,
    Decision,
    GumbelBoundary,
    LearnedBoundary,
    Observed,
    RuleBoundary,
    UnigramBoundary,
)
from bytelm.patching.spans import (
    BoundaryGradient,
    find_segments,
    mean_segments,
    spread_segments,
    sum_segments,
)


@dataclass(frozen=True)
class DynamicPoolingConfig(HierarchyConfig):
    """Dynamic token pooling; the defaults are its layout with today's blocks."""

    family: ClassVar[str] = "dynamic_pooling"

    width: int = 512
    """Channels of all blocks."""
    pre_depth: int = 2
    """Blocks at every byte, before the pooling."""
    backbone_depth: int = 8
    """Blocks on segments."""
    post_depth: int = 2
    """Blocks at every byte, after the pooling."""
    heads: int | None = None
    """Attention heads; None for as many of `head_width` as make up the width."""
    mlp_width: int | None = None
    """Channels inside the MLPs; None for 4 x width (for SwiGLU, as many parameters)."""
    boundary: BoundaryConfig = field(default_factory=GumbelBoundary)
    """Where segments end."""
    boundary_gradient: BoundaryGradient = "counterfactual"
    """How the language model's loss reaches a sampled kind's predictor: hardly, as in the authors'
    code, or by what each boundary changes; see `bytelm.patching.spans`."""
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

    @property
    def default_bytes_per_slot(self) -> float:
        return self.boundary.bytes_per_slot

    def capacity(self, length: int) -> int:
        return super().capacity(length) + 1  # the null vector

    @property
    def scripts(self) -> tuple[str, ...]:
        return self.boundary.scripts if isinstance(self.boundary, LearnedBoundary) else ()

    @property
    def needs_unigram(self) -> bool:
        return isinstance(self.boundary, UnigramBoundary)

    @property
    def predictor_width(self) -> int:
        """Channels inside the boundary predictor; 0 where there is none."""
        if not isinstance(self.boundary, LearnedBoundary):
            return 0
        return self.boundary.hidden or 4 * self.width

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
        predictor = 2.0 * sequence_length * self.predictor_width * (self.width + 1)
        head = 2.0 * sequence_length * self.width * OUTPUT_SIZE
        return bytewise + self.global_block().forward_flops(patches) + predictor + head


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DynamicPoolingState:
    """Decoding state.

    Attributes:
        pre: of the blocks before the pooling.
        rule: of the boundary rule; empty where boundaries are learned.
        open_sum: float32 `[B, width]`, the sum of the vectors of the unfinished segment.
        open_size: float32 `[B]`, how many they are.
        backbone: of the backbone.
        read: `[B, width]`, the entry that symbols read now.
        post: of the blocks after the pooling.
    """

    pre: StackState
    rule: RuleState | None
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
        if isinstance(config.boundary, LearnedBoundary):
            self.predictor = BoundaryPredictor(
                width,
                config.predictor_width,
                rate=config.boundary.rate,
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
            self.boundary_norm = NORMS[config.norm](width)
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
        positions = positions_in_segment(document_ids)
        decision, _ = self._decide(x, batch.ids, document_ids, positions, keys=batch.keys)
        ends = decision.ends & (document_ids > 0)
        segments = find_segments(ends, document_ids, config.capacity(x.shape[1]))
        y = mean_segments(x, decision.numbers, segments, config.boundary_gradient)
        y = shard_rows(self._entries(y, segments.null, x.dtype))
        y = self.backbone(y, segments.document_ids, shared=self._biases)
        x = x + spread_segments(y, decision.numbers, segments, config.boundary_gradient)
        x = self.post(x, document_ids, shared=self._biases)
        logits = self._logits(x)
        losses, statistics = self._supervise(decision, batch, logits)
        return ModelOutput(
            logits,
            auxiliary_losses=losses,
            statistics=(*segments.statistics, *statistics),
            patch_starts=segments.starts,
            states=self._normalised(x),
        )

    def _decide(
        self,
        x: jax.Array,
        ids: jax.Array,
        document_ids: jax.Array,
        positions: jax.Array,
        *,
        keys: jax.Array | None = None,
        state: RuleState | None = None,
    ) -> tuple[Decision, RuleState | None]:
        """Where segments end, by the predictor or the rule, and the state of the rule."""
        kind = self.config.boundary
        if isinstance(kind, LearnedBoundary):
            x = x if self.config.published_blocks else self.boundary_norm(x)
            logits = self.predictor(x)
            noise = kind.noise(keys, document_ids, positions)
            return Decision(*kind.decide(logits, noise), logits), state
        assert isinstance(kind, RuleBoundary)
        ends, state = kind.ends(ids, document_ids, state)
        return Decision(ends, ends.astype(jnp.float32), None), state

    def _supervise(
        self, decision: Decision, batch: Batch, logits: jax.Array
    ) -> tuple[dict[str, jax.Array], tuple[Ratio, ...]]:
        """The loss of learned boundaries, and statistics that say what they have become."""
        kind, counted = self.config.boundary, self._counted(batch)
        if not isinstance(kind, LearnedBoundary) or decision.logits is None:
            return {}, ()
        rule = BoundaryRule("whitespace")
        whitespace = find_boundaries(rule, batch.ids, batch.document_ids)[0].ends
        statistics = boundary_statistics(decision.ends, whitespace, counted)
        seen = Observed(decision.logits, decision.numbers, counted, batch, logits)
        targets = kind.loss(seen)
        if targets is None:
            return {}, statistics
        loss, wanted = targets
        target = TARGET(wanted, counted.sum())
        return {"boundaries": kind.weight * loss}, (*statistics, target)

    def _counted(self, batch: Batch) -> jax.Array:
        """The symbols whose boundaries count in the losses: those with a scored target."""
        return batch.targets != UNSCORED

    def _entries(self, y: jax.Array, null: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """What the backbone reads, from the means of segments `[B, P, width]`."""
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
            rule=RuleState.empty(batch_size),
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
        decision, rule = self._decide(x, ids, valid, positions, state=state.rule)
        segments = find_segments(
            decision.ends & present,
            valid,
            new + 1,
            first=(positions == 0) & present,
            room=state.backbone.positions.shape[1] - state.backbone.length,
        )
        # Entry 0 is the segment that was open, or the null vector of a row that had none.
        sums, sizes = sum_segments(x, segments)
        sums = sums.at[:, 0].add(state.open_sum)
        sizes = sizes.at[:, 0].add(state.open_size)
        y = self._entries(sums / jnp.maximum(sizes, 1)[:, :, None], segments.null, x.dtype)
        y, backbone = extend_backbone(
            self.backbone, y, state.backbone, segments.total, self._biases
        )

        unfinished = (present & (segments.index == new + 1)).astype(jnp.float32)
        goes_on = ~segments.ends.any(axis=1)
        open_sum = (x.astype(jnp.float32) * unfinished[:, :, None]).sum(axis=1)
        vectors = jnp.concatenate([state.read[:, None], y.astype(state.read.dtype)], axis=1)
        x = x + jnp.take_along_axis(vectors, (segments.seen + 1)[:, :, None], axis=1)
        x, post = self.post.extend(x, state.post, lengths, shared=self._biases)
        return self._logits(x), DynamicPoolingState(
            pre=pre,
            rule=rule,
            open_sum=open_sum + jnp.where(goes_on[:, None], state.open_sum, 0),
            open_size=unfinished.sum(axis=1) + jnp.where(goes_on, state.open_size, 0),
            backbone=backbone,
            read=jnp.take_along_axis(vectors, segments.total[:, None, None], axis=1)[:, 0],
            post=post,
        )

    def for_decoding(self) -> "DynamicPooling":
        for stack in (self.pre, self.backbone, self.post):
            stack.unstack()
        return self
