"""H-Net: stages of learned chunks around a backbone (Hwang et al. 2025, arXiv 2507.07955).

A stage runs an encoder over its symbols h. Its router cuts them into patches, which the paper calls
chunks, where neighbours differ (`bytelm.patching.router`). The vectors at the boundaries are the
symbols of the stage inside, which appends a learned vector if it is wider. From the result the
first channels are taken, smoothed over the patches, and given back to the symbols
(`bytelm.patching.smoothing`). With a linear map of h added, a decoder runs over them:

    y = decoder(confidence * smoothed(inner(h[boundaries])) + W h + b)

The innermost stage is one stack, the backbone. Encoders, decoders and the backbone mix Mamba-2 and
attention blocks by a layout, each with a residual stream in float32 and an RMSNorm at its end.
Nothing is normalised before the head. With a rule as segmenter, whose boundaries have probability 0
or 1, this is "H-Net (space)".

Kernels start with standard deviation 0.02; those that end a residual branch have it divided by the
root of the number of branches of this stage and all around it. W starts at 0, b uniform in
+-d^-1/2, W_q and W_k of the router as identities, embeddings with standard deviation 1.

Differences from the authors' code, which has no trainer:

- A row has a fixed number of slots for patches in each stage; theirs is as long as the batch needs.
  When all are filled, no more patches open, every byte is still scored, and those boundaries count
  in the ratio loss. With enough slots the results are theirs.
- Router and smoothing are float32 whatever the dtype of the model, and the same in training,
  prefill and steps; theirs round to bfloat16 in three ways.
- Documents packed into one row are separate in all parts; rows of one document need no mask.
- START and END are symbols of their own. In the released models they are the bytes 254 and 255
  (`published_symbols`).
- The means of the ratio loss are over the whole batch, theirs over one device.
- Any number of rows is decoded together; theirs has one.

Shapes: B = rows, T = bytes, N = symbols of a stage, P = patches, D = channels of a stage.
"""

import functools
import re
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.blocks import MixedBlocksConfig
from bytelm.models.hierarchy import HierarchicalModel, HierarchyConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.layout import Layout
from bytelm.nn.linear import Dense
from bytelm.nn.mamba2 import Mamba2Config
from bytelm.nn.norms import NORMS
from bytelm.nn.stack import AnyStack, MixedStack
from bytelm.patching.levels import Level, Segmentation, Symbols
from bytelm.patching.patches import gather_first, slots
from bytelm.patching.router import RouterPatches
from bytelm.patching.segmenter import Needs, Segmenter, SegmenterConfig
from bytelm.patching.smoothing import confidence, smoothed

WINDOW = 1024
"""Symbols that attention sees in all stages but the innermost, by default."""
BEGIN_BYTE, END_BYTE = 254, 255
"""The bytes that are START and END in the released models. UTF-8 has neither."""
CONFUSION = 20.0
"""With `published_symbols`, a byte 255 costs so many nats more than END."""
INNER_NEEDS = Needs("start", states=True, gradient=True, supervised=False)
"""What the stages inside the outermost offer their segmenters."""


@dataclass(frozen=True)
class HNetConfig(MixedBlocksConfig, HierarchyConfig):
    """H-Net. Tuples have a value for each stage, from the bytes to the backbone, or are empty."""

    family: ClassVar[str] = "hnet"
    needs: ClassVar[Needs] = Needs("start", states=True, gradient=True)
    norm_epsilon: ClassVar[float] = 1e-5

    layout: str = "m4 [T8] m4"
    """The blocks of each stage, written ENCODER [INNER] DECODER, as in "m4 [T1m4 [T26] m4T1] m4":
    m and M are Mamba-2 without and with an MLP, t and T attention without and with an MLP."""
    widths: tuple[int, ...] = (512, 768)
    """Channels of each stage, which do not become fewer towards the inside."""
    mlp_widths: tuple[int, ...] = ()
    """Channels inside the MLPs of each stage; 0 (or no tuple) for the default of their kind."""
    heads: tuple[int, ...] = ()
    """Attention heads of each stage; empty for heads of `head_width`."""
    rotary_widths: tuple[int, ...] = ()
    """Channels of each head that are rotated; empty for half of them."""
    windows: tuple[int | None, ...] = ()
    """Symbols that attention sees, itself included; None for all. Empty for 1024, and all in the
    backbone."""
    head_width: int = 64
    """Channels of a head of Mamba-2, and of attention without `heads`."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised."""
    patches_per_slot: tuple[float, ...] = ()
    """As `bytes_per_slot`, for the stages inside; empty for what their segmenters need."""
    segmenter: SegmenterConfig = field(default=RouterPatches())
    """Where patches of bytes start."""
    inner_segmenters: tuple[SegmenterConfig, ...] = ()
    """Where patches start in the stages inside, but for the backbone; empty for segmenters like
    that of the bytes."""
    deviation: float | None = 0.02
    """Initial standard deviation of kernels and of the head; None for 1 / sqrt(d_in)."""
    published_symbols: bool = False
    """Whether the bytes 254 and 255 stand for START and END, as in the released models, which have
    no others: such a byte in a text is read as START or END, and 255 is hardly predicted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_stages()
        self.require("it must be above 0", lambda x: x > 0, "deviation")
        for index, segmenter in enumerate(self.segmenters[1:]):
            where = f"model.inner_segmenters[{index}]"
            segmenter.check(INNER_NEEDS, self.family, where=where)

    def _check_stages(self) -> None:
        """Raises UserError for a wrong layout, or values that do not fit its stages."""
        stages, count = self.stages, len(self.stages)
        required = {"widths": count, "patches_per_slot": count - 2, "inner_segmenters": count - 2}
        for name in ("widths", "mlp_widths", "heads", "rotary_widths", "windows", *required):
            size, wanted = len(getattr(self, name)), required.get(name, count)
            if size != wanted and (size or name == "widths"):
                raise UserError(
                    f"model.{name} has {size} values, and model.layout {self.layout!r} needs "
                    f"{wanted}: one for each stage{_INSIDE if wanted < count else ''}, the "
                    "outermost first."
                )
            least = 0 if name == "mlp_widths" else 1
            bad = [x for x in getattr(self, name) if isinstance(x, int | float) and x < least]
            if bad:
                raise UserError(f"model.{name} has the value {bad[0]}; the least is {least}.")
        for stage, layouts in enumerate(stages):
            letters = {letter for layout in layouts for letter, _ in layout.parts}
            self._check_stage(stage, letters)

    def _check_stage(self, stage: int, letters: set[str]) -> None:
        width, where = self.widths[stage], f"model.widths[{stage}]"
        if stage and width < self.widths[stage - 1]:
            raise UserError(
                f"model.widths {self.widths} become smaller towards the inside; a stage widens the "
                "vectors that it gets, so none may be narrower than the one around it."
            )
        if letters & set("mM"):
            self.require_mamba_heads(where, width)
        if letters & set("tT"):
            heads = self.attention_heads(stage)
            if width % heads or (not self.heads and width % self.head_width):
                raise UserError(
                    f"{where} {width} cannot be divided into heads; set model.heads to divisors of "
                    "model.widths, or change model.head_width."
                )
            rotary = self.rotary_width(stage)
            if rotary % 2 or rotary > width // heads:
                raise UserError(
                    f"model.rotary_widths has {rotary} for heads of {width // heads} channels; it "
                    "must be even and no more than those."
                )

    @property
    def stages(self) -> tuple[tuple[Layout, ...], ...]:
        """Of each stage its encoder and decoder, and last the backbone alone."""
        return read_stages(self.layout)

    @property
    def segmenters(self) -> tuple[SegmenterConfig, ...]:
        """Of each stage but the backbone."""
        inside = len(self.stages) - 2
        return (self.segmenter, *(self.inner_segmenters or (self.segmenter,) * inside))

    def attention_heads(self, stage: int) -> int:
        return self.heads[stage] if self.heads else max(1, self.widths[stage] // self.head_width)

    def rotary_width(self, stage: int) -> int:
        if self.rotary_widths:
            return self.rotary_widths[stage]
        return self.widths[stage] // self.attention_heads(stage) // 4 * 2

    def stage_window(self, stage: int) -> int | None:
        if self.windows:
            return self.windows[stage]
        return WINDOW if stage < len(self.stages) - 1 else None

    def capacity_of(self, stage: int, symbols: float) -> int:
        """Slots for patches in a row of so many symbols of a stage."""
        given = (self.bytes_per_slot, *(self.patches_per_slot or (None,) * (len(self.stages) - 2)))
        return slots(symbols, given[stage] or self.segmenters[stage].default_bytes_per_slot)

    def stacked(self, stage: int, layout: Layout) -> list[BlockConfig | Mamba2Config]:
        """The blocks of a stack of a stage."""
        width, heads = self.widths[stage], self.attention_heads(stage)
        mlp_width = (self.mlp_widths[stage] if self.mlp_widths else 0) or None
        options: dict[str, Any] = {
            "mlp_width": mlp_width,
            "norm_epsilon": self.norm_epsilon,
            "deviation": self.deviation,
            "dtype": self.dtype,
        }
        mask, rotary = AttentionMask(window=self.stage_window(stage)), self.rotary_width(stage)
        attention = self.block(width, 1, mask, heads=heads, rotary_width=rotary, **options)
        attention = replace(attention, head_width=width // heads)
        options |= {"norm": self.norm, "scaled_init": self.scaled_init}
        around = self.stages[: stage + 1]
        branches = sum(each.additions for layouts in around for each in layouts)
        return layout.configs(attention, self.mamba_block(width, **options), branches)

    def build_stack(self, stage: int, layout: Layout, rngs: nnx.Rngs) -> MixedStack:
        norm = NORMS[self.norm](self.widths[stage], epsilon=self.norm_epsilon, dtype=self.dtype)
        return MixedStack(
            self.stacked(stage, layout),
            rngs=rngs,
            stream=jnp.dtype("float32"),
            norm=norm,
            scan=self.scan,
            remat=self.remat,
        )

    def build(self, rngs: nnx.Rngs) -> "HNet":
        return HNet(self, rngs=rngs)

    def stage_flops(self, stage: int, symbols: float) -> float:
        """FLOPs of a stage without those inside."""
        stacks = (block for each in self.stages[stage] for block in self.stacked(stage, each))
        flops = sum(block.forward_flops(symbols) for block in stacks)
        if stage < len(self.stages) - 1:
            flops += self.segmenters[stage].forward_flops(self.widths[stage], symbols)
            flops += 2.0 * symbols * self.widths[stage] ** 2
        return flops

    def local_flops(self, length: int, patches: float) -> float:
        return self.stage_flops(0, length) + 2.0 * length * prod(self.head_shape)

    def backbone_flops(self, patches: float) -> float:
        flops, symbols = 0.0, patches
        for stage in range(1, len(self.stages)):
            flops += self.stage_flops(stage, symbols)
            if stage < len(self.stages) - 1:
                symbols = self.capacity_of(stage, symbols)
        return flops

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.widths[0], BYTES if self.published_symbols else OUTPUT_SIZE

    def draft_blocks(self, depth: int, window: int | None) -> BlockConfig:
        return super().draft_blocks(depth, window or self.stage_window(0))


_INSIDE = " between the outermost and the backbone"


@functools.cache
def read_stages(layout: str) -> tuple[tuple[Layout, ...], ...]:
    """The stages of a layout, as in `HNetConfig.stages`; UserError if it has none.

    Spaces, quotes and commas do not count, so that the lists of released configs can be read too.
    """
    where, rest = "a part of model.layout", re.sub(r"[\s\"',]", "", layout)
    stages: list[tuple[Layout, ...]] = []
    while nested := re.fullmatch(r"([^\[\]]*)\[(.*)\]([^\[\]]*)", rest):
        before, rest, after = nested.groups()
        if before and after:
            stages.append((Layout.parse(before, where), Layout.parse(after, where)))
        elif before or after or stages:
            lacking = "no decoder" if before else "no encoder"
            raise UserError(
                f"model.layout is {layout!r}, in which a stage has {lacking}; write each as "
                'ENCODER [INNER] DECODER, such as "m4 [T22] m4".'
            )
    if not stages:
        lacking = "whose brackets do not match" if {"[", "]"} & {*rest} else "which has no stage"
        raise UserError(
            f"model.layout is {layout!r}, {lacking}; write ENCODER [INNER] DECODER, such as "
            '"m4 [T22] m4".'
        )
    return (*stages, (Layout.parse(rest, where),))


class Stage(nnx.Module):
    """One stage: an encoder, a segmenter and a decoder, or innermost the backbone alone."""

    def __init__(self, config: HNetConfig, stage: int, *, rngs: nnx.Rngs):
        self.config, self.stage, self.width = config, stage, config.widths[stage]
        wider = self.width - config.widths[stage - 1] if stage else 0
        self.pad = nnx.Param(jnp.zeros((wider,)), role="vector") if wider else None
        stacks = [config.build_stack(stage, each, rngs) for each in config.stages[stage]]
        if len(stacks) == 1:
            self.backbone = stacks[0]
            return
        self.encoder, self.decoder = stacks
        segmenter, needs = config.segmenters[stage], INNER_NEEDS if stage else config.needs
        self.segmenter = config.build_segmenter(self.width, rngs, segmenter, needs)
        width, bound = self.width, self.width**-0.5
        self.residual = Dense(width, width, rngs=rngs, gain=0.0, bias=True, role="projection")
        bias = jax.random.uniform(rngs.params(), (width,), minval=-bound, maxval=bound)
        self.residual.bias.set_value(bias)

    def around(self, inside: "Stage", inner: Level | AnyStack) -> Level:
        """The level of this stage, with the next stage and its level inside."""
        return Level(
            encoder=self.encoder,
            segmenter=self.segmenter,
            pool=lambda x, cut: inside.widened(gather_first(x, cut.patches)),
            inner=inner,
            finish=lambda y, cut: smoothed(y[:, :, : self.width], cut),
            unpool=self.joined,
            decoder=self.decoder,
            capacity=lambda symbols: self.config.capacity_of(self.stage, symbols),
            width=self.width,
            stored=jnp.dtype("float32"),
        )

    def widened(self, x: jax.Array) -> jax.Array:
        """The learned channels after those of the stage around: `[B, P, d] -> [B, P, D]`."""
        if self.pad is None:
            return x
        pad = self.pad[...].astype(x.dtype)
        pad = jnp.broadcast_to(pad[None, None, :], (*x.shape[:2], len(pad)))
        return jnp.concatenate([x, pad], axis=2)

    def joined(self, x: jax.Array, y: jax.Array, cut: Segmentation) -> jax.Array:
        """What the decoder reads, `[B, N, D]`: the patches' vectors, and what passes them by."""
        passed = self.residual(x.astype(jnp.float32))
        return (confidence(cut) * cut.spread(y) + passed).astype(x.dtype)


def _no_norm(x: jax.Array) -> jax.Array:
    """The outermost decoder ends in a norm."""
    return x


class HNet(HierarchicalModel):
    """The model that a `HNetConfig` builds."""

    config: HNetConfig

    def __init__(self, config: HNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.widths[0]
        inputs, outputs = INPUT_SIZE, OUTPUT_SIZE
        if config.published_symbols:
            inputs = outputs = BYTES
        self.embedding = config.build_embedding(inputs, width, rngs)
        stages = range(len(config.stages))
        self.stages = nnx.Dict({str(stage): Stage(config, stage, rngs=rngs) for stage in stages})
        gain = 1.0 if config.deviation is None else config.deviation * width**0.5
        self.head = Dense(width, outputs, rngs=rngs, gain=gain, role="head")
        self.final_norm = _no_norm
        self.build_draft(config, rngs)

    def _in_order(self) -> list[Stage]:
        return [self.stages[str(stage)] for stage in range(len(self.stages))]

    @property
    def segmenters(self) -> tuple[Segmenter, ...]:
        return tuple(stage.segmenter for stage in self._in_order()[:-1])

    @property
    def level(self) -> Level:
        *outer, inside = self._in_order()
        level: Level | AnyStack = inside.backbone
        for stage in reversed(outer):
            level, inside = stage.around(inside, level), stage
        assert isinstance(level, Level)
        return level

    def embed(self, symbols: Symbols) -> jax.Array:
        return self.embedding.read(symbols, self.config.dtype, self._rows_of(symbols.ids))

    def embed_symbols(self, ids: jax.Array) -> jax.Array:
        return super().embed_symbols(self._rows_of(ids))

    def _rows_of(self, ids: jax.Array) -> jax.Array:
        """The row of the embedding for each symbol."""
        if not self.config.published_symbols:
            return ids
        special = jnp.array([END_BYTE, BEGIN_BYTE, 0])  # END, START, PAD
        return jnp.where(ids < BYTES, ids, special[jnp.maximum(ids - END, 0)])

    def of_symbols(self, logits: jax.Array) -> jax.Array:
        if self.config.published_symbols:
            end = logits[:, :, END_BYTE:]
            logits = jnp.concatenate([logits[:, :, :END_BYTE], end - CONFUSION, end], axis=2)
        return logits
