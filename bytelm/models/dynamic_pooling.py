"""Dynamic token pooling: an hourglass over patches that may be learned (arXiv 2211.09761).

Blocks run at every byte (`pre`), then on one vector per patch (`backbone`), then at every byte
again (`post`), all of one width. A patch ends with the byte at its boundary. The backbone reads a
learned null vector, then the normalised mean of each patch. Each byte adds the backbone's output
for the last ended patch to its own vector from before the pooling. So the byte that ends a patch
already reads it, and no byte reads a patch that has not ended (section 2.1). Any segmenter decides
where patches end: a rule, or a predictor at each byte, which FLEXITOKENS (arXiv 2507.12720) trains
with a band of rates for each script.

The published blocks (`published_blocks=True`) are post-norm with Transformer-XL's relative
attention and biases everywhere; the default ones are today's (RMSNorm before, RoPE, SwiGLU), with a
norm before the predictor and one before the head. Differences from the authors' code:

- Their loss of supervised boundaries takes probabilities for logits, and they sample boundaries in
  evaluation too: two faults that the segmenter's option `published` keeps. Here evaluation rounds
  learned boundaries, as in the paper, and noise in training depends only on the row, the document
  and the position in it.
- The language model's loss hardly reaches their predictor. The default `boundary_gradient` is the
  one that `bytelm.patching.ended` derives.
- The predictor starts at the expected rate of boundaries; theirs starts at one half.
- Rows have a fixed number of slots; theirs grow with the batch. When all are filled, no more
  patches end, and every byte is still scored.
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
from bytelm.models.hierarchy import HierarchicalModel, HierarchyConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense
from bytelm.nn.mesh import shard_rows
from bytelm.nn.mlp import GATED
from bytelm.nn.norms import NORMS, LayerNorm
from bytelm.nn.stack import Stack
from bytelm.nn.transformer_xl import DEVIATION, PositionBiases, RelativeBlockConfig
from bytelm.patching.ended import (
    BoundaryGradient,
    gather_mean,
    gather_sum,
    segment_ended,
    spread_ended,
)
from bytelm.patching.learned import GumbelPatches
from bytelm.patching.levels import (
    LevelState,
    Result,
    Segmentation,
    Symbols,
    prepend,
    run,
    run_patches,
    take,
)
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
    """How the model's loss reaches a predictor that samples: "published", which hardly does, or
    "counterfactual", by the change that each boundary makes; see `bytelm.patching.ended`."""
    inner_norms: bool = True
    """Whether what the backbone and a predictor of boundaries read is normalised; not so in the
    models of arXiv 2608.15454."""
    published_blocks: bool = False
    """The authors' blocks: post-norm, relative attention, biases; `mlp` "gelu" (exact) or "relu",
    and `norm`, `inner_norms`, `qk_norm`, `rope_theta` and `scaled_init` left unused. Quadratic in
    memory."""

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
        if self.published_blocks:
            self.require("relative positions need it even", lambda x: x % 2 == 0, "width")

    def capacity(self, length: int) -> int:
        return super().capacity(length) + 1  # the null vector

    def blocks(self, depth: int) -> BlockConfig:
        mask, heads, hidden = AttentionMask(), self.heads, self.mlp_width
        block = self.block(self.width, depth, mask, heads=heads, mlp_width=hidden)
        return RelativeBlockConfig(**vars(block)) if self.published_blocks else block

    def global_block(self) -> BlockConfig:
        return self.blocks(self.backbone_depth)

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.width, OUTPUT_SIZE

    def build(self, rngs: nnx.Rngs) -> "DynamicPooling":
        return DynamicPooling(self, rngs=rngs)

    def local_flops(self, length: int, patches: float) -> float:
        stacks = self.blocks(self.pre_depth + self.post_depth).forward_flops(length)
        segmenter = self.segmenter.forward_flops(self.width, length)
        return stacks + segmenter + 2.0 * length * self.width * OUTPUT_SIZE


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpenMean:
    """An unfinished patch."""

    sum: jax.Array  # float32 [B, width], of its bytes' vectors
    size: jax.Array  # float32 [B], the number of its bytes
    read: jax.Array  # [B, width], the vector that the next symbols read until it ends


def _no_norm(x: jax.Array) -> jax.Array:
    """In place of the norm after the published post-norm blocks, or without `inner_norms`."""
    return x


class DynamicPooling(HierarchicalModel):
    """The model that a `DynamicPoolingConfig` builds."""

    config: DynamicPoolingConfig

    def __init__(self, config: DynamicPoolingConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, published = config.width, config.published_blocks
        scale = DEVIATION if published else 1.0
        self.embedding = config.build_embedding(INPUT_SIZE, width, rngs, scale)
        self.pre = self._stack(config.pre_depth, rngs)
        bare = published or not config.inner_norms
        self.segmenter = config.build_segmenter(width, rngs, normed_states=bare)
        self.null_group = nnx.Param(jax.random.normal(rngs.params(), (width,)), role="vector")
        self.backbone = self._stack(config.backbone_depth, rngs)
        self.post = self._stack(config.post_depth, rngs)
        if published:
            shape = (config.global_block().heads, config.head_width)
            content = DEVIATION * jax.random.normal(rngs.params(), shape)
            position = DEVIATION * jax.random.normal(rngs.params(), shape)
            self.content_bias = nnx.Param(content, role="bias")
            self.position_bias = nnx.Param(position, role="bias")
            self.down_norm: Any = LayerNorm(width, bias=True)
            self.final_norm = _no_norm
            gain = DEVIATION * width**0.5
            self.head = Dense(width, OUTPUT_SIZE, rngs=rngs, gain=gain, bias=True, role="head")
        else:
            self.down_norm = NORMS[config.norm](width) if config.inner_norms else _no_norm
            self.final_norm, self.head = config.build_head(width, rngs)
        self.build_draft(config, rngs)

    def _stack(self, depth: int, rngs: nnx.Rngs) -> Stack:
        return self.config.stack(self.config.blocks(depth), rngs)

    @property
    def _biases(self) -> PositionBiases | None:
        if not self.config.published_blocks:
            return None
        return PositionBiases(self.content_bias[...], self.position_bias[...])

    def forward(self, symbols: Symbols, state: LevelState | None = None) -> Result:
        before, biases = state or LevelState(), self._biases
        x = shard_rows(self.embedding.read(symbols, self.config.dtype))
        x, pre = run(self.pre, x, symbols, before.encoder, shared=biases)
        cut, patching = segment_ended(
            self.segmenter, x, symbols, self.config.capacity, before.patching, null=True
        )
        y, mean = self._means(x, cut, before.open)
        y = shard_rows(self._with_null(y, cut.patches.null, x.dtype))
        slots = symbols.inner(cut.patches.document_ids, cut.patches.total)
        y, backbone = run_patches(self.backbone, y, slots, before.inner, shared=biases)
        of_bytes, mean = self._read(y, cut, mean)
        x, post = run(self.post, x + of_bytes, symbols, before.decoder, shared=biases)
        if state is None:
            return x, None, (cut,)
        return x, LevelState(pre, patching, backbone, mean, post), ()

    def _means(
        self, x: jax.Array, cut: Segmentation, before: OpenMean | None
    ) -> tuple[jax.Array, OpenMean | None]:
        """The means `[B, P, width]` of the patches that end, and the unfinished patch."""
        patches = cut.patches
        if before is None:
            gradient = self.config.boundary_gradient
            return gather_mean(x, cut.boundaries.values, patches, gradient), None
        # Slot 0 holds the patch that was open, or the null vector of a row that had none.
        sums, sizes = gather_sum(x, patches)  # [B, P, width], [B, P]
        sums = sums.at[:, 0].add(before.sum)
        sizes = sizes.at[:, 0].add(before.size)
        is_open = (cut.symbols.document_ids > 0) & (patches.index == patches.null.shape[1])
        is_open = is_open.astype(jnp.float32)  # [B, T]
        goes_on = ~patches.boundaries.any(axis=1)  # [B]
        open_sum = (x.astype(jnp.float32) * is_open[:, :, None]).sum(axis=1)
        open_sum += jnp.where(goes_on[:, None], before.sum, 0)
        open_size = is_open.sum(axis=1) + jnp.where(goes_on, before.size, 0)
        means = sums / jnp.maximum(sizes, 1)[:, :, None]
        return means, OpenMean(open_sum, open_size, before.read)

    def _with_null(self, y: jax.Array, null: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The backbone's input `[B, P, width]`: the null vectors and the means, normalised."""
        y = jnp.where(null[:, :, None], self.null_group[...].astype(jnp.float32)[None, None], y)
        return self.down_norm(y.astype(dtype))

    def _read(
        self, y: jax.Array, cut: Segmentation, mean: OpenMean | None
    ) -> tuple[jax.Array, OpenMean | None]:
        """The slot that each byte reads, `[B, T, width]`, and what the next bytes read."""
        values, patches = cut.boundaries.values, cut.patches
        if mean is None:
            return spread_ended(y, values, patches, self.config.boundary_gradient), None
        vectors = prepend(mean.read, y)  # [B, 1 + P, width]
        read = take(vectors, patches.total[:, None])[:, 0]
        return take(vectors, patches.read + 1), replace(mean, read=read)

    def init_parts(self, rows: int, length: int) -> LevelState:
        shape = rows, self.config.width
        read = jnp.zeros(shape, self.config.dtype)
        mean = OpenMean(jnp.zeros(shape), jnp.zeros((rows,)), read)
        return self.init_level(rows, length, encoder=self.pre, open=mean, decoder=self.post)
