"""BLT, the Byte Latent Transformer (Pagnoni et al. 2024, arXiv 2412.09871).

Each byte's embedding has those of its hashed n-grams added (section 3.2.1). A local encoder runs
over the bytes, each with a window. A patch is pooled from its bytes, cut into k queries that attend
to these bytes, and the k results side by side are its vector (3.2.2). The backbone runs over the
patches. Its output at a patch becomes k keys of the decoder, which goes on from the encoder's
states: before each of its layers, a byte attends to the keys of the last patch that ended, its own
if it ends with this byte (3.3). Where patches end is known from the bytes so far, so nothing is
read from a patch before it has ended, and the byte that follows may already use it.

From the authors' code, where the paper differs or is silent: embeddings of n-grams are added
without division; cross-attention adds its input twice, `2 x + W_o attention`, on both sides; in an
encoder with cross-attention in all layers the patch is pooled after the first one; there is no norm
before or after the backbone; a document's first symbol is a patch of its own.

Their ids: 0 is PAD here, 1 START, 2 END, b + 4 byte b; 3, their delimiter of subwords, is nothing.
They read and predict all 260, we read 259 and predict the 256 bytes and END. Conversion reorders
rows; what is left out is never a target, and a converted model keeps it (`published_symbols`).
Hashes are those of their ids.

Different here:

- Documents packed into one row do not see each other: not through n-grams, nor through patches that
  begin in one document and end in the next. In their rows both do; attention alone stops at END.
- A row has a fixed number of slots for patches. When all are filled no more patches end, the bytes
  that follow go on reading the last one, and every byte is scored. A document that begins when no
  slot is left reads none. Their rows have a fixed number of patches and any number of bytes.
- Rotary positions rotate the two halves of a head, where the code rotates neighbouring channels:
  the same model with its channels in another order.
- Kernels start as normals; theirs are cut off at three deviations. `scaled_init=False` otherwise
  starts as they do, and `qk_norm=False` gives their blocks.

The defaults are the layout of the released models; options give the others that they report:
cross-attention in other layers, over several patches or nowhere, and other poolings.

Shapes: B = rows, T = bytes, P = patches, k = vectors of a patch, d and D = local and global width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.entropy_patches import PUBLISHED_SYMBOLS
from bytelm.models.hierarchy import HierarchicalModel, TwoWidthsConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense
from bytelm.nn.mesh import shard_rows
from bytelm.nn.state import KeyValueCache
from bytelm.patching.cross_attention import (
    CrossAttention,
    CrossBlockConfig,
    PatchKeys,
    PoolingKind,
)
from bytelm.patching.ended import segment_ended
from bytelm.patching.levels import (
    LevelState,
    Result,
    Segmentation,
    Symbols,
    run,
    run_if_any,
    take,
)
from bytelm.patching.segmenter import Needs, RulePatches, SegmenterConfig
from bytelm.patching.unfinished import UnfinishedPatch, members_of, places_of, pool_patches


@dataclass(frozen=True)
class BLTConfig(TwoWidthsConfig):
    """Byte Latent Transformer; the defaults are its layout with today's blocks."""

    family: ClassVar[str] = "blt"
    needs: ClassVar[Needs] = Needs("end", states=True)
    norm_epsilon: ClassVar[float] = 1e-5

    encoder_depth: int = 1
    """Blocks of the encoder."""
    decoder_depth: int = 4
    """Blocks of the decoder."""
    window: int | None = 512
    """A byte sees itself and the window - 1 bytes before it; None for all before it."""
    vectors: int = 2
    """k, vectors of a patch, of `local_width` channels each."""
    pooling: tuple[PoolingKind, ...] = ("max",)
    """How a patch is pooled from its bytes; several only without cross-attention in the encoder."""
    encoder_cross: Literal["last", "all", "none"] = "last"
    """After which layers of the encoder patches read their bytes."""
    decoder_cross: Literal["all", "first", "none"] = "all"
    """Before which layers of the decoder bytes read patches; "none" adds the patch to the byte."""
    encoder_patches: int = 1
    """A patch reads its own bytes and those of so many patches, less one, before it."""
    decoder_patches: int = 1
    """A byte reads so many of the last patches."""
    cross_heads: int | None = None
    """Heads of cross-attention; None for those of the local blocks."""
    local_key_value_heads: int | None = None
    """Heads of keys and values in local blocks, dividing the others; None for as many."""
    local_mlp_width: int | None = None
    """Channels inside the local MLPs; None for the default of the kind."""
    global_head_width: int | None = None
    """Channels of one head of the backbone; None for `head_width`."""
    global_key_value_heads: int | None = None
    """Heads of keys and values in the backbone, dividing the others; None for as many."""
    global_mlp_width: int | None = None
    """Channels inside the backbone's MLPs; None for the default of the kind."""
    segmenter: SegmenterConfig = field(default=RulePatches("spacelike"))
    """Where patches end."""
    ngrams: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    """Sizes of the n-grams of bytes whose hashed embeddings are added to each byte's."""

    published_symbols: bool = False
    """Whether the tables have rows for all symbols of the released models; those that are none of
    ours are never read, and get no probability."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("encoder_depth", "decoder_depth", "window", "vectors")
        self.require_positive("encoder_patches", "decoder_patches", "cross_heads")
        self.require_positive("local_key_value_heads", "local_mlp_width", "global_head_width")
        self.require_positive("global_key_value_heads", "global_mlp_width")
        kinds = self.pooling
        if not kinds or len(set(kinds)) < len(kinds):
            raise UserError(f"model.pooling is {kinds}; give different kinds, at least one.")
        if len(kinds) > 1 and self.encoder_cross != "none":
            raise UserError(
                f"model.pooling is {kinds}, and queries are made of one; give one, or set "
                "model.encoder_cross to none."
            )
        if self.global_width % self.global_head:
            raise UserError(
                f"model.global_width {self.global_width} is no multiple of model.global_head_width "
                f"{self.global_head}; change one of them."
            )
        self.require_divisor("local_key_value_heads", self.local_width // self.head_width)
        self.require_divisor("global_key_value_heads", self.global_width // self.global_head)
        if self.local_width % self.crossing_heads:
            raise UserError(
                f"model.cross_heads {self.cross_heads} does not divide model.local_width "
                f"{self.local_width}; choose a divisor."
            )

    def require_heads(self, *names: str) -> None:
        super().require_heads(*(name for name in names if name != "global_width"))

    @property
    def global_head(self) -> int:
        return self.global_head_width or self.head_width

    @property
    def crossing_heads(self) -> int:
        return self.cross_heads or self.local_width // self.head_width

    @property
    def patch_width(self) -> int:
        """Channels of a patch's vector before the backbone."""
        has_queries = self.encoder_cross != "none"
        return self.local_width * (self.vectors if has_queries else len(self.pooling))

    @property
    def table_rows(self) -> tuple[int, int]:
        """Rows of the embedding, and outputs of the head; those that are no symbols come last."""
        if self.published_symbols:
            return PUBLISHED_SYMBOLS, PUBLISHED_SYMBOLS
        return INPUT_SIZE, OUTPUT_SIZE

    @property
    def stages(self) -> int:
        """Parts of the encoder, each with its blocks and, after them, its cross-attention."""
        return self.encoder_depth if self.encoder_cross == "all" else 1

    @property
    def pooling_kinds(self) -> tuple[PoolingKind, ...]:
        """In the order in which their results lie side by side."""
        return tuple(kind for kind in get_args(PoolingKind) if kind in self.pooling)

    def local_block(self, depth: int) -> BlockConfig:
        mask = AttentionMask(window=self.window)
        heads, hidden = self.local_key_value_heads, self.local_mlp_width
        return self.block(self.local_width, depth, mask, key_value_heads=heads, mlp_width=hidden)

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.local_width, self.table_rows[1]

    def draft_blocks(self, depth: int, window: int | None) -> BlockConfig:
        block = self.local_block(depth)
        return block if window is None else replace(block, mask=AttentionMask(window=window))

    def encoder_block(self) -> BlockConfig:
        """The blocks of one stage."""
        additions = 2 * self.encoder_depth
        return replace(self.local_block(self.encoder_depth // self.stages), additions=additions)

    def decoder_block(self) -> BlockConfig:
        block = self.local_block(self.decoder_depth)
        if self.decoder_cross != "all":
            return block
        return CrossBlockConfig(**vars(block), cross_heads=self.crossing_heads)

    def global_block(self) -> BlockConfig:
        block = self.block(
            self.global_width,
            self.global_depth,
            AttentionMask(),
            heads=self.global_width // self.global_head,
            key_value_heads=self.global_key_value_heads,
            mlp_width=self.global_mlp_width,
        )
        return replace(block, head_width=self.global_head)

    def build_cross(self, block: BlockConfig, rngs: nnx.Rngs) -> CrossAttention:
        """A cross-attention that is in no stack."""
        return CrossAttention(block, self.crossing_heads, role="projection", rngs=rngs)

    def build(self, rngs: nnx.Rngs) -> "BLT":
        return BLT(self, rngs=rngs)

    def local_flops(self, length: int, patches: float) -> float:
        d, width, keys = self.local_width, self.global_width, patches * self.vectors
        linear = float(length * d * self.table_rows[1])
        if self.encoder_cross != "none":
            linear += keys * d * d + self.stages * 2 * d * d * (length + keys)
        if self.patch_width != width:
            linear += patches * self.patch_width * width
        if self.decoder_cross == "none":
            linear += patches * width * d
        else:
            layers = self.decoder_depth if self.decoder_cross == "all" else 1
            seen = length * self.vectors * self.decoder_patches
            linear += keys * width * d + layers * 2 * d * (d * (length + keys) + seen)
        stacks = self.stages * self.encoder_block().forward_flops(length)
        stacks += self.decoder_block().forward_flops(length)
        return stacks + self.segmenter.forward_flops(d, length) + 2.0 * linear


class EncoderStage(nnx.Module):
    """Some blocks of the encoder, and the cross-attention after them."""

    def __init__(self, config: BLTConfig, *, rngs: nnx.Rngs):
        block = config.encoder_block()
        self.stack = config.stack(block, rngs)
        self.cross = None if config.encoder_cross == "none" else config.build_cross(block, rngs)


class BLT(HierarchicalModel):
    """The model that a `BLTConfig` builds."""

    config: BLTConfig

    def __init__(self, config: BLTConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, width = config.local_width, config.global_width
        scale = 1.0 if config.scaled_init else d**-0.5
        inputs, outputs = config.table_rows
        self.embedding = config.build_embedding(inputs, d, rngs, scale)
        # Names of parameters in files are text, so their keys are too.
        self.encoder = nnx.Dict(
            {str(stage): EncoderStage(config, rngs=rngs) for stage in range(config.stages)}
        )
        self.segmenter = config.build_segmenter(d, rngs)
        project = partial(Dense, rngs=rngs, role="projection")
        has_queries, is_projected = config.encoder_cross != "none", config.patch_width != width
        self.to_queries = project(d, config.vectors * d) if has_queries else None
        self.to_global = project(config.patch_width, width) if is_projected else None
        self.backbone = config.stack(config.global_block(), rngs)
        keys = 1 if config.decoder_cross == "none" else config.vectors
        self.to_decoder = project(width, keys * d)
        block, is_first = config.decoder_block(), config.decoder_cross == "first"
        self.decoder_cross = config.build_cross(block, rngs) if is_first else None
        self.decoder = config.stack(block, rngs)
        self.final_norm, self.head = config.build_head(d, rngs, outputs)
        self.build_draft(config, rngs)

    def of_symbols(self, logits: jax.Array) -> jax.Array:
        return logits[:, :, :OUTPUT_SIZE]

    @property
    def _stages(self) -> list[EncoderStage]:
        return [self.encoder[str(stage)] for stage in range(self.config.stages)]

    @property
    def _encoder_crosses(self) -> list[CrossAttention]:
        return [stage.cross for stage in self._stages if stage.cross is not None]

    def forward(self, symbols: Symbols, state: LevelState | None = None) -> Result:
        before = state or LevelState()
        x = shard_rows(self.embedding.read(symbols, self.config.dtype))
        states, encoder = [], []
        for index, stage in enumerate(self._stages):
            x, after = run(stage.stack, x, symbols, before.encoder and before.encoder[index])
            states.append(x)
            encoder.append(after)
        cut, patching = segment_ended(
            self.segmenter, x, symbols, self.config.capacity, before.patching, null=False
        )
        vectors, patch = self._patches(states, cut, state)
        slots = symbols.inner(cut.patches.document_ids, cut.patches.total)

        def through_backbone() -> tuple[jax.Array, Any]:
            y = vectors()
            y = y if self.to_global is None else self.to_global(y)
            y, backbone = run(self.backbone, shard_rows(y), slots, before.inner)
            return self.to_decoder(y), backbone

        shape = (*cut.patches.null.shape, self.to_decoder.kernel.shape[-1])
        none = jnp.zeros(shape, self.config.dtype)
        y, backbone = run_if_any(slots, through_backbone, none, before.inner)  # [B, P, k d]
        keys = self._keys(y, cut, state)
        if self.config.decoder_cross == "none":
            added = take(keys.vectors[:, :, 0], keys.index[:, :, 0])
            x = x + jnp.where(keys.visible, added, 0)
        if self.decoder_cross is not None:
            x = self.decoder_cross.of_symbols(x, keys)
        shared = keys if self.config.decoder_cross == "all" else None
        x, decoder = run(self.decoder, x, symbols, before.decoder, shared=shared)
        if state is None:
            return x, None, (cut,)
        last = cut.patches.total[:, None] + jnp.arange(self.config.decoder_patches)[None, :]
        open = patch, take(keys.vectors, last)
        return x, LevelState(tuple(encoder), patching, backbone, open, decoder), ()

    def _patches(
        self, states: list[jax.Array], cut: Segmentation, state: LevelState | None
    ) -> tuple[Callable[[], jax.Array], UnfinishedPatch | None]:
        """What computes the vectors of patches that end, `[B, P, patch_width]`.

        From the bytes' states after each part of the encoder. Also the unfinished patch.
        """
        config, places = self.config, places_of(cut)
        before, opened = (None, 0) if state is None else (state.open[0], state.patching.opened)
        pooled, patch = pool_patches(config.pooling_kinds, states[0], places, cut, before)
        crosses = self._encoder_crosses
        pairs = [cross.keys_values(x) for cross, x in zip(crosses, states, strict=False)]
        members = members_of(places, cut, config.encoder_patches, before, opened)

        def vectors() -> jax.Array:
            y = jnp.concatenate(pooled, axis=2)
            if self.to_queries is None:
                return y
            y = self.to_queries(y).reshape(*y.shape[:2], config.vectors, -1)  # [B, P, k, d]
            caches = [None] * len(crosses) if before is None else before.caches
            for cross, pair, cache in zip(crosses, pairs, caches, strict=True):
                y = cross.of_patches(y, members, *pair, cache)
            return y.reshape(*y.shape[:2], -1)

        return vectors, patch and patch.after(places, cut, opened, pairs)

    def _keys(self, y: jax.Array, cut: Segmentation, state: LevelState | None) -> PatchKeys:
        """What each byte reads of the patches' keys `[B, P, k d]`."""
        window, d, patches = self.config.decoder_patches, self.config.local_width, cut.patches
        index = patches.read[:, :, None] - jnp.arange(window)[None, None, :]  # [B, T, W]
        if state is None:
            documents = patches.document_ids
            here = take(documents, jnp.maximum(patches.read, 0))[:, :, None]  # [B, T, 1]
            there = take(documents, jnp.maximum(index, 0).reshape(len(y), -1))
            visible = (index >= 0) & (there.reshape(index.shape) == here)
            vectors = y.reshape(*y.shape[:2], -1, d)
        else:
            visible = state.patching.opened[:, None, None] + index >= 0
            vectors = y.reshape(*y.shape[:2], -1, d)
            vectors = jnp.concatenate([state.open[1], vectors], axis=1)
            index = index + window
        return PatchKeys(vectors, jnp.maximum(index, 0), visible)

    def init_parts(self, rows: int, length: int) -> LevelState:
        """`open` holds the unfinished patch, and the last patches' keys of the decoder."""
        config, dtype = self.config, self.config.dtype
        d, longest = config.local_width, config.segmenter.longest
        entries = min(length, config.encoder_patches * longest if longest else length)
        heads, spare = config.crossing_heads, 0 if entries < length else None
        patch = UnfinishedPatch.none(
            tuple(jnp.zeros((rows, d), dtype) for _ in config.pooling),
            tuple(
                KeyValueCache.empty(rows, heads, entries, d // heads, dtype, spare)
                for _ in self._encoder_crosses
            ),
        )
        keys = jnp.zeros((rows, config.decoder_patches, self.to_decoder.kernel.shape[-1]), dtype)
        open = patch, keys.reshape(*keys.shape[:2], -1, d)
        encoder = tuple(stage.stack.init_state(rows, length, dtype) for stage in self._stages)
        state = self.init_level(rows, length, open=open, decoder=self.decoder)
        return replace(state, encoder=encoder)
