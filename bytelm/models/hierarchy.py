"""The shared parts of hierarchical families: options, segmenter, head, scoring and decoding."""

import abc
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.losses import AuxiliaryLoss
from bytelm.core.statistics import Ratio
from bytelm.core.vocabulary import OUTPUT_SIZE, UNSCORED
from bytelm.models.blocks import BlocksConfig
from bytelm.models.contract import Batch, ModelOutput
from bytelm.models.drafting import DraftingModel
from bytelm.models.embedding import SymbolEmbedding
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, project
from bytelm.nn.mesh import shard_rows
from bytelm.nn.norms import NORMS, LayerNorm, NormKind, RMSNorm
from bytelm.nn.stack import AnyStack
from bytelm.patching.budget import Budget
from bytelm.patching.levels import (
    Level,
    LevelState,
    PatchingState,
    Result,
    Segmentation,
    Symbols,
    segment,
    take,
)
from bytelm.patching.marks import find_marks
from bytelm.patching.patches import overflow_ratio, slots
from bytelm.patching.segmenter import Needs, Segmenter, SegmenterConfig, Supervision


@dataclass(frozen=True)
class HierarchyConfig(BlocksConfig):
    """Options of every family that has blocks over bytes and a backbone over patches."""

    needs: ClassVar[Needs]
    """What the family needs of its segmenter."""
    norm_epsilon: ClassVar[float | None] = None
    """Added to the mean square in all norms; None for the default of the kind."""

    bytes_per_slot: float | None = None
    """Symbols of a row for each slot, rounded up to whole slots. None takes 4 for rules, an eighth
    more slots than fixed patches fill in one document, a quarter more than the expected number of
    learned boundaries or of patches by an entropy model, and a half more than that of a router.
    When all slots are filled no more patches open, and the last one takes the symbols that follow.
    `bytelm data describe` reports the value that a corpus needs."""
    norm: NormKind = "rms"
    """RMSNorm, or LayerNorm with a scale and no shift."""
    scaled_init: bool = True
    """Whether kernels that end a residual branch start divided by sqrt(2 x depth), and the head at
    zero; otherwise all kernels start as a normal of variance 1/d_in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.segmenter.check(self.needs, self.family)
        self.require_positive("bytes_per_slot")

    def capacity(self, length: int) -> int:
        """Slots for patches in a row of `length` symbols."""
        return slots(length, self.bytes_per_slot or self.segmenter.default_bytes_per_slot)

    @property
    @abc.abstractmethod
    def segmenter(self) -> SegmenterConfig:
        """Where patches start or end."""

    @property
    def scripts(self) -> tuple[str, ...]:
        return self.segmenter.scripts

    @property
    def needs_unigram(self) -> bool:
        return self.segmenter.needs_unigram

    def block(self, width: int, depth: int, mask: AttentionMask, **options: Any) -> BlockConfig:
        options |= {"norm": self.norm, "scaled_init": self.scaled_init}
        options |= {"norm_epsilon": self.norm_epsilon}
        return super().block(width, depth, mask, **options)

    def build_segmenter(
        self,
        width: int,
        rngs: nnx.Rngs,
        config: SegmenterConfig | None = None,
        needs: Needs | None = None,
        *,
        normed_states: bool = False,
    ) -> Segmenter:
        """A segmenter, which may read states `[B, T, width]`; it has no norm if they have one.

        `config` and `needs` are those of an inner level; None for the family's.
        """
        config, needs = config or self.segmenter, needs or self.needs
        norm, relu = None if normed_states else self.norm, self.mlp == "relu"
        return config.build(width, needs, norm=norm, relu=relu, rngs=rngs)

    def build_norm(self, width: int) -> RMSNorm | LayerNorm:
        """A norm between stacks."""
        return NORMS[self.norm](width, epsilon=self.norm_epsilon)

    def build_head(
        self, width: int, rngs: nnx.Rngs, outputs: int = OUTPUT_SIZE
    ) -> tuple[RMSNorm | LayerNorm, Dense]:
        """The final norm and the linear layer that computes logits."""
        gain = 0.0 if self.scaled_init else 1.0
        return self.build_norm(width), Dense(width, outputs, rngs=rngs, gain=gain, role="head")

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        patches = self.capacity(sequence_length) if patches is None else patches
        return self.local_flops(sequence_length, patches) + self.backbone_flops(patches)

    def frozen_flops(self, sequence_length: int, patches: float | None = None) -> float:
        by_draft = self.frozen_by_draft(sequence_length, patches)
        return by_draft or self.segmenter.frozen_flops(sequence_length)

    @abc.abstractmethod
    def local_flops(self, length: int, patches: float) -> float:
        """FLOPs, as in `forward_flops`, of all but the backbone."""

    def backbone_flops(self, patches: float) -> float:
        """FLOPs of the backbone, or of the levels inside.

        With `patches` = the capacity it is exactly what is computed.
        """
        return self.global_block().forward_flops(patches)

    def global_block(self) -> BlockConfig:
        """The shape of the backbone's blocks, of which `backbone_flops` counts the cost."""
        raise NotImplementedError


@dataclass(frozen=True)
class TwoWidthsConfig(HierarchyConfig):
    """Options of the families with local blocks for bytes and wider global blocks for patches."""

    local_width: int = 256
    """d, channels of the local blocks: an encoder, a decoder, or both."""
    global_width: int = 512
    """D, channels of the global blocks: the backbone."""
    global_depth: int = 6
    """Global blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("global_depth")
        self.require_heads("local_width", "global_width")

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.local_width, OUTPUT_SIZE

    def global_block(self) -> BlockConfig:
        return self.block(self.global_width, self.global_depth, AttentionMask())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HierarchyState:
    """Decoding state."""

    length: jax.Array  # int32 [B], the symbols read
    parts: Any  # of the level of bytes
    recent: jax.Array | None  # int32 [B, K], the last symbols, as `Symbols.before`
    draft: Any = None  # of draft heads, if they read along


class HierarchicalModel(DraftingModel):
    """Base of the hierarchical families: one forward pass, used for scoring and for decoding.

    A family is its `embed` and its `level`, or it has a `forward` and an `init_parts` of its own.
    """

    config: HierarchyConfig
    segmenter: Segmenter
    embedding: SymbolEmbedding
    backbone: AnyStack
    final_norm: Callable[[jax.Array], jax.Array]
    head: Dense

    @property
    def segmenters(self) -> tuple[Segmenter, ...]:
        """Those of all levels, the outermost first."""
        return (self.segmenter,)

    @property
    def level(self) -> Level:
        """The level of bytes, around those inside and the backbone."""
        raise NotImplementedError

    def embed(self, symbols: Symbols) -> jax.Array:
        """The vectors `[B, T, d]` that the level reads."""
        raise NotImplementedError

    def forward(self, symbols: Symbols, state: LevelState | None = None) -> Result:
        """From symbols to the vectors that the head reads: the method section of the paper.

        Reads whole rows, or with the `state` before them the next symbols of rows.
        """
        return self.level(shard_rows(self.embed(symbols)), symbols, state)

    def init_parts(self, rows: int, length: int) -> LevelState:
        """The state of `forward` before the first of at most `length` symbols."""
        return self.level.init_state(rows, length, self.config.dtype)

    def init_level(
        self,
        rows: int,
        length: int,
        *,
        encoder: AnyStack | None = None,
        open: Any,
        decoder: AnyStack,
        marks: bool = False,
    ) -> LevelState:
        """`init_parts` of a family whose level is no `Level`.

        With `marks` its decoder reads one for each patch, in addition to the symbols.
        """
        dtype, budget = self.config.dtype, Budget.of(self.config.capacity, length)
        return LevelState(
            encoder=encoder and encoder.init_state(rows, length, dtype),
            patching=PatchingState.start(self.segmenter, rows, length, budget, dtype),
            inner=self.backbone.init_state(rows, budget.entries, dtype),
            open=open,
            decoder=decoder.init_state(rows, length + marks * budget.entries, dtype),
        )

    def segment(
        self, x: jax.Array | None, symbols: Symbols, state: PatchingState | None, **options: Any
    ) -> tuple[Segmentation, PatchingState | None]:
        """Cuts bytes into patches, with the options of `bytelm.patching.levels.segment`."""
        return segment(self.segmenter, x, symbols, self.config.capacity, state, **options)

    def __call__(self, batch: Batch) -> ModelOutput:
        symbols = Symbols.of_rows(batch.ids, batch.document_ids, batch.keys, batch.entropies)
        x, _, cuts = self.forward(symbols)
        logits = self.logits(x)
        losses, statistics = self.supervise(cuts, batch, logits)
        output = ModelOutput(
            logits,
            auxiliary_losses=losses,
            statistics=(*_overflow(cuts, self.config), *statistics),
            levels=find_marks(cuts, self.config.needs.mark),
            states=self.final_norm(x),
        )
        return self.with_draft(output, x, batch)

    def supervise(
        self, cuts: tuple[Segmentation, ...], batch: Batch, predictions: jax.Array
    ) -> tuple[dict[str, AuxiliaryLoss], tuple[Ratio, ...]]:
        """Losses and statistics of the boundaries of all levels, the outermost first.

        `predictions` are the logits of the next symbol, `[B, T, outputs]`.
        """
        seen = Supervision(
            batch.ids,
            batch.document_ids,
            self.counted(batch),
            predictions,
            batch.scripts,
            batch.boundaries,
        )
        losses: dict[str, AuxiliaryLoss] = {}
        statistics: list[Ratio] = []
        outer: Segmentation | None = None
        for segmenter, cut in zip(self.segmenters, cuts, strict=True):
            seen = seen if outer is None else _inside(seen, outer)
            own_losses, own_statistics = segmenter.supervise(cut.boundaries, seen)
            losses |= own_losses
            statistics += own_statistics
            outer = cut
        return losses, tuple(statistics)

    @staticmethod
    def counted(batch: Batch) -> jax.Array:
        """The symbols whose boundaries count in losses: those with a scored target, `[B, T]`."""
        return batch.targets != UNSCORED

    def logits(self, x: Any) -> jax.Array:
        """Float32 `[B, T, outputs]`, from the vectors that `forward` returns."""
        return self.unembed(x)

    def unembed(self, x: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        states = self.final_norm(x)
        if kernel is None:
            return self.of_symbols(self.head(states).astype(jnp.float32))
        return self.of_symbols(project(states, kernel).astype(jnp.float32))

    def of_symbols(self, logits: jax.Array) -> jax.Array:
        """The logits of bytes and END, `[..., outputs]`, from those of all outputs of the head."""
        return logits

    def embed_symbols(self, ids: jax.Array) -> jax.Array:
        return self.embedding(ids, self.config.dtype)

    def init_state(self, batch_size: int, max_length: int) -> HierarchyState:
        length = jnp.zeros((batch_size,), jnp.int32)
        parts = self.init_parts(batch_size, max_length)
        return HierarchyState(length, parts, self.config.no_symbols(batch_size))

    def extend(
        self, ids: jax.Array, state: HierarchyState, lengths: jax.Array
    ) -> tuple[jax.Array, HierarchyState]:
        output, state = self.advance(ids, state, lengths)
        return output.logits, state

    def advance(
        self, ids: jax.Array, state: HierarchyState, lengths: jax.Array
    ) -> tuple[ModelOutput, HierarchyState]:
        symbols = Symbols.following(ids, state.length, lengths, state.recent)
        x, parts, _ = self.forward(symbols, state.parts)
        draft, length = self.extend_draft(x, state.draft, lengths), state.length + lengths
        return self.predict(x), HierarchyState(length, parts, symbols.recent, draft)

    def predict(self, x: Any) -> ModelOutput:
        """The logits, and what else the next symbols cost, from the vectors of `forward`."""
        return ModelOutput(self.logits(x))

    def full_rows(self, state: HierarchyState) -> jax.Array:
        return state.parts.full_rows


def _inside(seen: Supervision, cut: Segmentation) -> Supervision:
    """What the segmenter inside the level of this cut sees: its symbols are the patches."""
    inner = cut.inner_symbols
    counted = take(seen.counted, cut.patches.positions) & cut.patches.valid
    return Supervision(inner.ids, inner.document_ids, counted, None, level=seen.level + 1)


def _overflow(cuts: tuple[Segmentation, ...], config: HierarchyConfig) -> list[Ratio]:
    """The overflow of each level; its capacity is set by an option `..._per_slot`.

    A tuple has the capacities of all levels further inside: `patches_per_slot[0]` and so on.
    """
    options = [field.name for field in fields(config) if field.name.endswith("_per_slot")]
    if isinstance(getattr(config, options[-1]), tuple):
        *outer, name = options
        options = [*outer, *(f"{name}[{index}]" for index in range(len(cuts) - len(outer)))]
    if len(cuts) != len(options):
        raise ValueError(
            f"the model has {len(cuts)} levels, and its config the options of capacity {options}; "
            "name one `..._per_slot` for each level, the outermost first."
        )
    levels = enumerate(zip(cuts, options, strict=True), start=1)
    return [overflow_ratio(cut.patches, option, level) for level, (cut, option) in levels]


class PositionTable(nnx.Module):
    """Learned absolute positions: int `[B, T] -> [B, T, width]`, initial standard deviation 1.

    Positions past the end of the table get its last row, so that longer texts can be read.
    """

    def __init__(self, size: int, width: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (size, width)), role="positions")

    def __call__(self, positions: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.take(self.table[...].astype(dtype), positions, axis=0, mode="clip")
