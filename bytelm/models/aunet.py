"""AU-Net: an autoregressive U-Net over bytes (Videau et al. 2025, arXiv 2506.14761).

Levels lie in levels: bytes, words, pairs of words, groups of four words. A level's encoder runs at
all its symbols. The vector at each split alone goes on into the level inside, through a norm and a
linear layer; it knows the symbols up to its own. On the way back each symbol reads the result of
its patch, which begins with the split: a matrix shared by all places in the patch, plus one for its
own place, of 16 in turn ("multi-linear upsampling"). The sum with the encoder's vector goes through
the level's decoder. Where the levels split is in `bytelm.patching.word_levels`; another segmenter
may cut the bytes, and each patch further inside then takes two.

As in the authors' code, the levels of the paper's 2 and 4 words also split at punctuation, numbers
and line breaks; rotary positions count the symbols of a level; a window of W is a symbol and the
W - 1 before it, in encoders, decoders and backbone; splits beyond the capacity are ignored, and
what follows stays with the last patch. Different here:

- Splits are those of the text so far, also in training (`model.segmenter.published` for theirs).
- Documents packed into one row do not see each other, at no level; theirs do.
- A document's first symbol splits at all levels; theirs at those that occur in the document.
- They predict the beginning of the next document too; here the 256 bytes and END are predicted.
- Their generation omits the last norm and sees one symbol more than the window. Here decoding
  equals scoring.
- No head predicts the level of the next byte, an option of theirs that no published model has: the
  text so far decides it.
- Their kernels start as normals cut off at three deviations.
- Rotary positions rotate the two halves of a head, where the code rotates neighbouring channels:
  the same model with its channels in another order.

`scaled_init=False` and `qk_norm=False` give the published block.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import jax
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.hierarchy import HierarchicalModel, HierarchyConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense
from bytelm.nn.stack import AnyStack
from bytelm.patching.levels import Level, Segmentation, Symbols, take
from bytelm.patching.patches import gather_first, slots
from bytelm.patching.segmenter import FixedPatches, Needs, Segmenter, SegmenterConfig
from bytelm.patching.word_levels import AtLeast, WordGroups

PLACES = 16
"""Places in a patch with a matrix of their own; later ones begin again with the first."""
PATCHES_PER_SLOT = 1.5


@dataclass(frozen=True)
class AUNetConfig(HierarchyConfig):
    """AU-Net. A tuple has one value for each level, the outermost first, and for the backbone."""

    family: ClassVar[str] = "aunet"
    needs: ClassVar[Needs] = Needs("start", states=True)
    norm_epsilon: ClassVar[float | None] = 1e-5

    widths: tuple[int, ...] = (192, 384, 512)
    """Channels: of bytes, of their patches, of the patches of these, and so on."""
    depths: tuple[int, ...] = (2, 2, 6)
    """Blocks of a level's encoder, and as many of its decoder; blocks of the backbone."""
    windows: tuple[int | None, ...] = (256, None, None)
    """A symbol sees itself and the window - 1 symbols of its level before it; None for all."""
    head_widths: tuple[int, ...] = ()
    """Channels of one attention head; () for `head_width` everywhere."""
    mlp_widths: tuple[int, ...] = ()
    """Channels inside the MLPs; () for 8/3 x width, up to a multiple of 64."""
    segmenter: SegmenterConfig = field(default=WordGroups())
    """Where the patches of bytes start. `WordGroups` cuts the levels inside as well; with any other
    they have patches of two."""
    patches_per_slot: tuple[float, ...] = ()
    """As `bytes_per_slot`, for each level inside the outermost; () for 1.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        stacks, where = len(self.widths), "one for each level and one for the backbone"
        if stacks < 2:
            raise UserError(f"model.widths is {self.widths}; give at least two, {where}.")
        for name in ("depths", "windows", "head_widths", "mlp_widths"):
            optional = name.endswith("_widths")
            if len(getattr(self, name)) != stacks and not (optional and not getattr(self, name)):
                raise UserError(
                    f"model.{name} has {len(getattr(self, name))} values, and model.widths has "
                    f"{stacks}; give {where}."
                )
        if self.patches_per_slot and len(self.patches_per_slot) != stacks - 2:
            raise UserError(
                f"model.patches_per_slot has {len(self.patches_per_slot)} values; give one for "
                f"each of the {stacks - 2} levels inside that of bytes, or none."
            )
        self.require(
            "each must be at least 1",
            lambda values: all(value is None or value >= 1 for value in values),
            *("widths", "depths", "windows", "head_widths", "mlp_widths", "patches_per_slot"),
        )
        if list(self.widths) != sorted(self.widths):
            raise UserError(
                f"model.widths {self.widths} shrink inward; a patch stands for several symbols, so "
                "make its width at least theirs."
            )
        for width, head_width in zip(self.widths, self.level_head_widths, strict=True):
            if width % head_width or head_width % 2:
                raise UserError(
                    f"the width {width} of model.widths has heads of {head_width} channels; choose "
                    "an even divisor, by model.head_width or model.head_widths."
                )
        groups = getattr(self.segmenter, "groups", None)
        if groups is not None and len(groups) < self.levels:
            raise UserError(
                f"model.segmenter.groups {groups} has words for {len(groups)} levels, and "
                f"model.widths {self.widths} makes {self.levels}; give as many."
            )

    @property
    def levels(self) -> int:
        """Levels around the backbone."""
        return len(self.widths) - 1

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.widths[0], OUTPUT_SIZE

    def draft_blocks(self, depth: int, window: int | None) -> BlockConfig:
        block = replace(self.level_block(0), depth=depth)
        return block if window is None else replace(block, mask=AttentionMask(window=window))

    @property
    def level_head_widths(self) -> tuple[int, ...]:
        return self.head_widths or (self.head_width,) * len(self.widths)

    def level_capacity(self, level: int, symbols: float) -> int:
        """Slots for patches in a row of so many symbols."""
        if level == 0:
            size = self.bytes_per_slot or self.segmenter.default_bytes_per_slot
        else:
            size = self.patches_per_slot[level - 1] if self.patches_per_slot else PATCHES_PER_SLOT
        return slots(symbols, size)

    def level_block(self, level: int) -> BlockConfig:
        """The blocks of an encoder or a decoder, or of the backbone."""
        width, head_width = self.widths[level], self.level_head_widths[level]
        mask = AttentionMask(window=self.windows[level])
        block = self.block(
            width,
            self.depths[level],
            mask,
            heads=width // head_width,
            mlp_width=self.mlp_widths[level] if self.mlp_widths else None,
        )
        return replace(block, head_width=head_width)

    def inner_segmenter(self, level: int, rngs: nnx.Rngs) -> Segmenter:
        """What cuts a level inside the outermost; it has no parameters."""
        if isinstance(self.segmenter, WordGroups):
            return AtLeast(level + 1)
        return self.build_segmenter(self.widths[level], rngs, FixedPatches(2))

    def global_block(self) -> BlockConfig:
        return self.level_block(self.levels)

    def build(self, rngs: nnx.Rngs) -> "AUNet":
        return AUNet(self, rngs=rngs)

    def level_flops(self, level: int, symbols: float, patches: float) -> float:
        """FLOPs of a level, as in `forward_flops`, without what is inside."""
        kernel = self.widths[level] * self.widths[level + 1]
        stacks = 2 * self.level_block(level).forward_flops(symbols)
        return stacks + 2.0 * patches * kernel * (2 + PLACES)

    def local_flops(self, length: int, patches: float) -> float:
        width = self.widths[0]
        outside = self.segmenter.forward_flops(width, length) + 2.0 * length * width * OUTPUT_SIZE
        return self.level_flops(0, length, patches) + outside

    def backbone_flops(self, patches: float) -> float:
        total = 0.0
        for level in range(1, self.levels):
            inner = self.level_capacity(level, patches)
            total, patches = total + self.level_flops(level, patches, inner), inner
        return total + self.global_block().forward_flops(patches)


class AUNet(HierarchicalModel):
    """The model that an `AUNetConfig` builds."""

    config: AUNetConfig

    def __init__(self, config: AUNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.widths[0]
        scale = 1.0 if config.scaled_init else width**-0.5
        self.embedding = config.build_embedding(INPUT_SIZE, width, rngs, scale)
        self.segmenter = config.build_segmenter(width, rngs)
        inside = range(1, config.levels)
        self.inner_segmenters = nnx.List([config.inner_segmenter(level, rngs) for level in inside])
        # Names of parameters in files are text, so their keys are too.
        self.levels = nnx.Dict(
            {str(level): AUNetLevel(config, level, rngs=rngs) for level in range(config.levels)}
        )
        self.backbone = config.stack(config.global_block(), rngs)
        self.final_norm, self.head = config.build_head(width, rngs)
        self.build_draft(config, rngs)

    @property
    def segmenters(self) -> tuple[Segmenter, ...]:
        return self.segmenter, *self.inner_segmenters

    @property
    def level(self) -> Level:
        """All levels, around the backbone."""
        inner: AnyStack | Level = self.backbone
        for level in reversed(range(self.config.levels)):
            inner = self.levels[str(level)].around(inner, self.segmenters[level])
        assert isinstance(inner, Level)
        return inner

    def embed(self, symbols: Symbols) -> jax.Array:
        return self.embedding.read(symbols, self.config.dtype)


class AUNetLevel(nnx.Module):
    """One level: two stacks, and what lies between them and the level inside."""

    def __init__(self, config: AUNetConfig, level: int, *, rngs: nnx.Rngs):
        self.config, self.level = config, level
        width, inner = config.widths[level : level + 2]
        self.encoder = config.stack(config.level_block(level), rngs)
        self.decoder = config.stack(config.level_block(level), rngs)
        self.down_norm, self.up_norm = config.build_norm(width), config.build_norm(inner)
        self.down = Dense(width, inner, rngs=rngs, role="projection")
        self.up = Dense(inner, width, rngs=rngs, role="projection")
        self.up_by_place = Dense(inner, PLACES * width, rngs=rngs, role="projection")

    def around(self, inner: AnyStack | Level, segmenter: Segmenter) -> Level:
        """The level, with the one inside or the backbone, and with what cuts it."""
        return Level(
            encoder=self.encoder,
            segmenter=segmenter,
            pool=self._pooled,
            inner=inner,
            finish=self._projected,
            unpool=self._added,
            decoder=self.decoder,
            capacity=partial(self.config.level_capacity, self.level),
            width=PLACES * self.config.widths[self.level],
        )

    def _pooled(self, x: jax.Array, cut: Segmentation) -> jax.Array:
        """The vectors at the splits: `[B, N, d] -> [B, P, D]`."""
        return self.down(self.down_norm(gather_first(x, cut.patches)))

    def _projected(self, y: jax.Array, cut: Segmentation) -> jax.Array:
        """What each place in a patch gets from it: `[B, P, D] -> [B, P, PLACES x d]`."""
        y = self.up_norm(y)
        places = self.up_by_place(y).reshape(*y.shape[:2], PLACES, -1)  # [B, P, PLACES, d]
        return (places + self.up(y)[:, :, None]).reshape(*y.shape[:2], -1)

    def _added(self, x: jax.Array, y: jax.Array, cut: Segmentation) -> jax.Array:
        """Adds to each symbol what its place gets from its patch: `[B, N, d]`."""
        y, index = cut.read(y)  # [B, 1 + P, PLACES x d], [B, N]
        places = y.reshape(len(x), -1, x.shape[-1])  # [B, (1 + P) x PLACES, d]
        return x + take(places, index * PLACES + cut.offsets % PLACES)
