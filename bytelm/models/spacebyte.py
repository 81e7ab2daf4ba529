"""SpaceByte: global blocks at the bytes where words begin (Slagle 2024, arXiv 2404.14408).

Local blocks of width d run at every byte, each with a window of attention. After the first half of
them, the vectors at the boundaries (the patches' first bytes) are widened to D by zeros on the left
and pass through the global blocks; the last d channels of the results are added back where the
vectors came from. The other local blocks follow. Nothing is averaged over a patch or copied to its
bytes: local attention carries the global results from the boundary to the bytes after it.

From the authors' code are the boundary rule (section 2 of the paper contradicts itself on
continuation bytes), the addition to the residual that the vector came from, global positions that
number the patches from 0, and as many local blocks before as after. Different here:

- When a row has more boundaries than slots, the code ignores all targets from the first such
  boundary on, in evaluation too, and stops generation. Here no more patches open, and every byte is
  scored.
- In one path of the code a byte sees the `window` bytes before it, in another one byte less. Here a
  window of W is the byte and the W - 1 before it, as on their GPU.
- Empty global slots hold zeros that no position sees; in the code they hold the last byte.
- Documents packed into one row do not see each other, and positions count from the document's
  start; the code's windows run across documents.
- Rotary positions rotate the two halves of a head, where the code rotates neighbouring channels:
  the same model with its channels in another order.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.blocks import MixedBlocksConfig
from bytelm.models.hierarchy import HierarchicalModel, PositionTable, TwoWidthsConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.layout import Layout
from bytelm.nn.mamba2 import Mamba2Config
from bytelm.nn.stack import AnyStack, MixedStack
from bytelm.patching.levels import Level, Segmentation, Symbols
from bytelm.patching.patches import gather_first, spread_first
from bytelm.patching.segmenter import Needs, RulePatches, SegmenterConfig


@dataclass(frozen=True)
class SpaceByteConfig(MixedBlocksConfig, TwoWidthsConfig):
    """SpaceByte; the defaults are its layout with today's blocks (RMSNorm, SwiGLU, RoPE)."""

    family: ClassVar[str] = "spacebyte"
    needs: ClassVar[Needs] = Needs("start", states=True, gradient=True)

    local_depth: int = 6
    """Local blocks, before and after the global ones together."""
    initial_depth: int | None = None
    """Local blocks before the global ones; None for half of them, rounded down."""
    local_layout: tuple[str, str] | None = None
    """Local blocks before and after the global ones in the letters of `bytelm.nn.layout`, such as
    m4 and m4, which is SpaceByte++ (arXiv 2507.07955); None for `local_depth` Transformer
    blocks."""
    window: int | None = None
    """A byte sees itself and the window - 1 bytes before it in the local blocks; None for d."""
    segmenter: SegmenterConfig = field(default=RulePatches("spacelike"))
    """Where patches start; FixedPatches are the paper's ablation."""
    learned_positions: int | None = None
    """Bytes with a learned position, added to the embedding; patches have as many as a row of that
    length has slots. Later ones share the last position. None for no learned positions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("local_depth", "window", "learned_positions")
        if self.global_width < self.local_width:
            raise UserError(
                f"model.global_width {self.global_width} is less than model.local_width "
                f"{self.local_width}; widening pads with zeros, so it must be at least as much."
            )
        depth = self.local_depth
        rule = "it must be at least 2, for blocks before and after the global ones"
        self.require(rule, lambda x: x >= 2, "local_depth")
        rule = f"it must be from 1 to {depth - 1}, to leave some of the {depth} local blocks"
        self.require(rule, lambda x: 0 < x < depth, "initial_depth")
        parts = (part for layout in self.local_layouts for part in layout.parts)
        if any(letter in "mM" for letter, _ in parts):
            self.require_mamba_heads("model.local_width", self.local_width)

    @property
    def initial_blocks(self) -> int:
        return self.local_depth // 2 if self.initial_depth is None else self.initial_depth

    @property
    def local_layouts(self) -> list[Layout]:
        """Of the blocks before the global ones and of those after; none without `local_layout`."""
        return [Layout.parse(text, "model.local_layout") for text in self.local_layout or ()]

    def local_block(self, depth: int) -> BlockConfig:
        mask = AttentionMask(window=self.window or self.local_width)
        return self.block(self.local_width, depth, mask)

    @property
    def local_blocks(self) -> list[list[BlockConfig | Mamba2Config]]:
        """The blocks before the global ones, and those after."""
        if self.local_layout is None:
            depths = self.initial_blocks, self.local_depth - self.initial_blocks
            return [[self.local_block(depth)] for depth in depths]
        mamba = self.mamba_block(self.local_width, norm=self.norm, scaled_init=self.scaled_init)
        return [layout.configs(self.local_block(1), mamba) for layout in self.local_layouts]

    def local_stack(self, index: int, rngs: nnx.Rngs) -> AnyStack:
        """The stack of `local_blocks[index]`."""
        blocks = self.local_blocks[index]
        if self.local_layout is None:
            return self.stack(blocks[0], rngs)
        return MixedStack(blocks, rngs=rngs, scan=self.scan, remat=self.remat)

    def build(self, rngs: nnx.Rngs) -> "SpaceByte":
        return SpaceByte(self, rngs=rngs)

    def local_flops(self, length: int, patches: float) -> float:
        blocks = (block for stack in self.local_blocks for block in stack)
        local = sum(block.forward_flops(length) for block in blocks)
        local += self.segmenter.forward_flops(self.local_width, length)
        return local + 2.0 * length * self.local_width * OUTPUT_SIZE


class SpaceByte(HierarchicalModel):
    """The model that a `SpaceByteConfig` builds."""

    config: SpaceByteConfig

    def __init__(self, config: SpaceByteConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, width = config.local_width, config.global_width
        self.embedding = config.build_embedding(INPUT_SIZE, d, rngs)
        if config.learned_positions is not None:
            size = config.learned_positions
            self.local_positions = PositionTable(size, d, rngs=rngs)
            self.global_positions = PositionTable(config.capacity(size), width, rngs=rngs)
        self.initial = config.local_stack(0, rngs)
        self.segmenter = config.build_segmenter(d, rngs)
        self.backbone = config.stack(config.global_block(), rngs)
        self.final = config.local_stack(1, rngs)
        self.final_norm, self.head = config.build_head(d, rngs)
        self.build_draft(config, rngs)

    @property
    def level(self) -> Level:
        """The local blocks around the global ones."""
        return Level(
            encoder=self.initial,
            segmenter=self.segmenter,
            pool=self._widened,
            inner=self.backbone,
            unpool=self._added,
            decoder=self.final,
            capacity=self.config.capacity,
        )

    def embed(self, symbols: Symbols) -> jax.Array:
        x = self.embedding.read(symbols, self.config.dtype)
        if self.config.learned_positions is not None:
            x = x + self.local_positions(symbols.positions, x.dtype)
        return x

    def _widened(self, x: jax.Array, cut: Segmentation) -> jax.Array:
        """The vectors at the boundaries, widened by zeros: `[B, T, d] -> [B, P, D]`."""
        y = gather_first(x, cut.patches)
        y = jnp.pad(y, ((0, 0), (0, 0), (self.config.global_width - x.shape[-1], 0)))
        if self.config.learned_positions is not None:
            y = y + self.global_positions(cut.patches.number, y.dtype)
        return y

    def _added(self, x: jax.Array, y: jax.Array, cut: Segmentation) -> jax.Array:
        """The last channels of `[B, P, D]`, added where they came from: `[B, T, d]`."""
        # 1 where a patch starts: through its gradient a sampled segmenter learns.
        values = cut.boundaries.values[:, :, None].astype(y.dtype)  # [B, T, 1]
        return x + values * spread_first(y[:, :, -self.config.local_width :], cut.patches)
