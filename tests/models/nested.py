"""A toy family of two nested levels, which the laws hold to account like any other.

The outer level cuts bytes by a rule and decodes them with one linear map for each place in a patch
(arXiv 2506.14761); the inner one learns where its patches start, smooths their vectors over time
and repeats them (arXiv 2507.07955). Each level remembers its own unfinished patch.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.hierarchy import HierarchicalModel, HierarchyConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.patching.levels import Level, Segmentation
from bytelm.patching.patches import gather_first, slots
from bytelm.patching.router import RouterPatches
from bytelm.patching.segmenter import Needs, RulePatches, Segmenter, SegmenterConfig
from bytelm.patching.smoothing import confidence, smoothed

PLACES = 3
"""Linear maps of the outer level; later places of a patch begin again with the first."""


INNER_NEEDS = Needs("start", states=True, gradient=True, supervised=False)
"""What the inner level needs of its segmenter, and offers it."""


@dataclass(frozen=True)
class NestedConfig(HierarchyConfig):
    """Two levels: bytes, patches, and patches of patches."""

    family: ClassVar[str] = "nested"
    needs: ClassVar[Needs] = Needs("start", states=True)

    channels: tuple[int, int, int] = (16, 24, 32)
    """Channels of bytes, of patches, and of patches of patches."""
    patches_per_slot: float | None = None
    """As `bytes_per_slot`, for the inner level; None for what `inner_segmenter` needs."""
    segmenter: SegmenterConfig = field(default=RulePatches("spacelike"))
    """Where the patches of bytes start."""
    inner_segmenter: SegmenterConfig = field(default=RouterPatches(target=3.0))
    """Where the patches of patches start."""
    window: int = 4
    """Bytes, and patches, that the stacks outside the backbone see."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inner_segmenter.check(INNER_NEEDS, self.family, where="model.inner_segmenter")
        self.require_positive("patches_per_slot", "window")

    def inner_capacity(self, patches: float) -> int:
        """Slots for patches of patches in a row of so many patches."""
        size = self.patches_per_slot or self.inner_segmenter.default_bytes_per_slot
        return slots(patches, size)

    def level_block(self, level: int) -> BlockConfig:
        window = self.window if level < 2 else None
        return self.block(self.channels[level], 1, AttentionMask(window=window))

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.channels[0], OUTPUT_SIZE

    def global_block(self) -> BlockConfig:
        return self.level_block(2)

    def build(self, rngs: nnx.Rngs) -> "Nested":
        return Nested(self, rngs=rngs)

    def local_flops(self, length: int, patches: float) -> float:
        d, middle, _ = self.channels
        linear = patches * d * middle + length * (middle * PLACES * d + d * OUTPUT_SIZE)
        return 2 * self.level_block(0).forward_flops(length) + 2.0 * linear

    def backbone_flops(self, patches: float) -> float:
        _, middle, top = self.channels
        inner = self.inner_capacity(patches)
        linear = patches * middle * top + inner * middle * top
        stacks = 2 * self.level_block(1).forward_flops(patches)
        stacks += self.inner_segmenter.forward_flops(middle, patches)
        return stacks + 2.0 * linear + self.global_block().forward_flops(inner)


class Nested(HierarchicalModel):
    """The model that a `NestedConfig` builds."""

    def __init__(self, config: NestedConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, middle, top = config.channels
        stacks = [config.stack(config.level_block(level), rngs) for level in (0, 1, 2, 1, 0)]
        self.encoder, self.inner_encoder, self.backbone, self.inner_decoder, self.decoder = stacks
        self.embedding = Embedding(INPUT_SIZE, d, rngs=rngs)
        self.segmenter = config.build_segmenter(d, rngs)
        self.down = Dense(d, middle, rngs=rngs, role="projection")
        self.router = config.build_segmenter(middle, rngs, config.inner_segmenter, INNER_NEEDS)
        self.inner_down = Dense(middle, top, rngs=rngs, role="projection")
        self.inner_up = Dense(top, middle, rngs=rngs, role="projection")
        self.up = Dense(middle, PLACES * d, rngs=rngs, role="projection")
        self.final_norm, self.head = config.build_head(d, rngs)
        self.build_draft(config, rngs)

    @property
    def segmenters(self) -> tuple[Segmenter, ...]:
        return self.segmenter, self.router

    @property
    def level(self) -> Level:
        """Bytes and patches, around patches and patches of patches."""
        config = self.config
        inner = Level(
            encoder=self.inner_encoder,
            segmenter=self.router,
            pool=lambda x, cut: self.inner_down(gather_first(x, cut.patches)),
            inner=self.backbone,
            finish=smoothed,
            unpool=lambda x, y, cut: x + confidence(cut) * self.inner_up(cut.spread(y)),
            decoder=self.inner_decoder,
            capacity=config.inner_capacity,
            width=config.channels[2],
            stored=jnp.dtype("float32"),
        )
        return Level(
            encoder=self.encoder,
            segmenter=self.segmenter,
            pool=lambda x, cut: self.down(gather_first(x, cut.patches)),
            inner=inner,
            unpool=self._by_place,
            decoder=self.decoder,
            capacity=config.capacity,
            width=config.channels[1],
        )

    def _by_place(self, x: jax.Array, y: jax.Array, cut: Segmentation) -> jax.Array:
        """Each byte gets its patch's vector through the map of its place in the patch."""
        maps = self.up(cut.spread(y)).reshape(*x.shape[:2], PLACES, x.shape[2])
        place = cut.offsets % PLACES  # [B, T]
        return x + jnp.take_along_axis(maps, place[:, :, None, None], axis=2)[:, :, 0]

    def embed(self, symbols):
        return self.embedding(symbols.ids, self.config.dtype)
