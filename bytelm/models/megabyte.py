"""MegaByte: a global model over fixed patches, a local one inside each (Yu et al. 2023).

arXiv 2305.07185, as the authors of SpaceByte reproduced it (arXiv 2404.14408 and its code). A
document is cut every P symbols. The global model reads, for each patch, the P symbols up to and
including the patch's first, embedded at D/P channels and laid side by side; its output is cut into
P pieces, and each goes to one symbol of the patch. The local model runs inside each patch alone. A
learned pad stands for the input of a document's first patch, and for each patch's first symbol in
the local model, as the global model has seen it.

Decided here: documents packed into one row are cut and numbered each by itself. Where a row has no
room for another patch, the last one goes on: its local model looks P - 1 symbols back, has nothing
from the global one, and reads each symbol; every byte is scored.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE, PAD
from bytelm.models.contract import Batch, LanguageModel, ModelOutput
from bytelm.models.hierarchy import HierarchyConfig, PositionTable, extend_backbone
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.norms import NORMS
from bytelm.nn.partitioning import shard_rows
from bytelm.nn.stack import StackState
from bytelm.patching.patches import Patches, find_patches, positions_in_run
from bytelm.patching.rules import RuleCarry
from bytelm.patching.segmenter import FixedPatches, Needs


@dataclass(frozen=True)
class MegaByteConfig(HierarchyConfig):
    """MegaByte with two levels."""

    family: ClassVar[str] = "megabyte"
    needs: ClassVar[Needs] = Needs("start")

    patch_size: int = 8
    """P, symbols in a patch."""
    global_width: int = 512
    """D, channels of the global blocks; a multiple of P."""
    global_depth: int = 6
    """Global blocks."""
    local_width: int = 256
    """Channels of the local blocks."""
    local_depth: int = 6
    """Local blocks."""
    learned_positions: int | None = None
    """Bytes that have a learned position in the global model (each symbol of a patch has one in
    the local model in any case); later ones get the last one's. None for none."""

    def __post_init__(self) -> None:
        self.require_positive("patch_size", "global_depth", "local_depth", "learned_positions")
        super().__post_init__()
        self.require_heads("global_width", "local_width")
        if self.global_width % self.patch_size:
            raise UserError(
                f"model.global_width {self.global_width} is no multiple of model.patch_size "
                f"{self.patch_size}; each symbol of a patch gets an equal share of the channels."
            )

    @property
    def segmenter(self) -> FixedPatches:
        return FixedPatches(self.patch_size)

    @property
    def share(self) -> int:
        """Channels that each symbol of a patch has in the global model."""
        return self.global_width // self.patch_size

    def global_block(self) -> BlockConfig:
        return self.block(self.global_width, self.global_depth, AttentionMask())

    def local_block(self) -> BlockConfig:
        mask = AttentionMask(window=self.patch_size)
        return self.block(self.local_width, self.local_depth, mask)

    def build(self, rngs: nnx.Rngs) -> "MegaByte":
        return MegaByte(self, rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        patches = self.capacity(sequence_length) if patches is None else patches
        ends = 2.0 * sequence_length * self.local_width * (self.share + OUTPUT_SIZE)
        # No symbol sees beyond its patch, though the window would reach there.
        pairs = sequence_length * (self.patch_size + 1) / 2
        block = self.local_block()
        inner = block.heads * block.head_width
        unwindowed = block.forward_flops(sequence_length)
        window = min(self.patch_size, sequence_length)
        seen = window * (window + 1) // 2 + (sequence_length - window) * window
        local = unwindowed - block.depth * 4.0 * (seen - pairs) * inner
        return local + self.global_block().forward_flops(patches) + ends


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MegaByteState:
    """Decoding state.

    Attributes:
        recent: int32 `[B, P - 1]`, the last symbols read.
        pieces: `[B, P, share]`, the global output for the symbols of the patch that is open.
        segment: int32 `[B]`, number of that patch among the row's, from 1.
        opened: int32 `[B]`, the symbol at which the last patch of the global model opened.
        carry, backbone, local: of the segmenter and the two stacks.
    """

    recent: jax.Array
    pieces: jax.Array
    segment: jax.Array
    opened: jax.Array
    carry: RuleCarry
    backbone: StackState
    local: StackState


class MegaByte(LanguageModel):
    """The model that a `MegaByteConfig` builds."""

    def __init__(self, config: MegaByteConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, width = config.local_width, config.global_width
        self.segmenter = config.segmenter.build(d, config.needs, norm=None, relu=False, rngs=rngs)
        self.global_embedding = Embedding(INPUT_SIZE, config.share, rngs=rngs)
        if config.learned_positions is not None:
            self.global_positions = PositionTable(config.learned_positions, config.share, rngs=rngs)
        self.global_pad = nnx.Param(jax.random.normal(rngs.params(), (width,)), role="vector")
        self.backbone = config.stack(config.global_block(), rngs)
        self.to_local = Dense(config.share, d, rngs=rngs, role="projection")
        self.to_local_bias = nnx.Param(jnp.zeros((d,)), role="bias")
        self.local_embedding = Embedding(INPUT_SIZE, d, rngs=rngs)
        self.local_positions = PositionTable(config.patch_size, d, rngs=rngs)
        self.local_pad = nnx.Param(jax.random.normal(rngs.params(), (d,)), role="vector")
        self.local = config.stack(config.local_block(), rngs)
        self.final_norm = NORMS[config.norm](d)
        self.head = Dense(
            d, OUTPUT_SIZE, rngs=rngs, gain=0.0 if config.scaled_init else 1.0, role="head"
        )

    def __call__(self, batch: Batch) -> ModelOutput:
        ids, document_ids = batch.ids, batch.document_ids
        rows, length = ids.shape
        positions = positions_in_run(document_ids)
        boundaries, _ = self.segmenter(None, ids, document_ids)
        patches = find_patches(boundaries.hard, document_ids, self.config.capacity(length))
        # Nothing lies before a row: its first patch has the pad.
        before = jnp.zeros((rows, self.config.patch_size - 1, self.config.share), self.config.dtype)
        y = self._global_input(ids, before, positions, patches, patches.number)
        y = self.backbone(shard_rows(y), patches.document_ids)

        pieces = self._pieces(y)
        offset = jnp.arange(length)[None, :] - _take(patches.positions, patches.index)
        index = patches.index * self.config.patch_size + offset
        served = (patches.index >= 0) & (offset < self.config.patch_size)
        x = self._local_input(ids, positions, pieces, jnp.where(served, index, -1))
        groups = jnp.cumsum(patches.boundaries | (positions == 0), axis=1)
        groups = jnp.where(document_ids > 0, groups, 0)
        x = self.local(shard_rows(x), groups)
        return ModelOutput(
            self._logits(x),
            statistics=patches.statistics,
            patch_starts=patches.boundaries,
            states=self.final_norm(x),
        )

    def _global_input(
        self,
        ids: jax.Array,
        before: jax.Array,
        positions: jax.Array,
        patches: Patches,
        numbers: jax.Array,
    ) -> jax.Array:
        """The patch vectors `[B, patches, D]`; `before` has the P - 1 vectors before the row."""
        size, rows = self.config.patch_size, ids.shape[0]
        x = self.global_embedding(ids, self.config.dtype)
        x = jnp.concatenate([before, x], axis=1)
        # Positions count from the first new symbol, which stands at P - 1.
        index = patches.positions[:, :, None] + jnp.arange(size)[None, None, :]
        y = jnp.take_along_axis(x, index.reshape(rows, -1)[:, :, None], axis=1)
        if self.config.learned_positions is not None:
            # Counted with the P - 1 symbols that the authors put before a document.
            places = (
                _take(positions, patches.positions)[:, :, None] + jnp.arange(size)[None, None, :]
            )
            y = y + self.global_positions(places.reshape(rows, -1), y.dtype)
        y = y.reshape(rows, -1, self.config.global_width)
        pad = self.global_pad[...].astype(y.dtype)[None, None, :]
        return jnp.where((numbers == 0)[:, :, None], pad, y)

    def _pieces(self, y: jax.Array) -> jax.Array:
        """`[B, patches, D] -> [B, patches x P, share]`."""
        return y.reshape(y.shape[0], -1, self.config.share)

    def _local_input(
        self, ids: jax.Array, positions: jax.Array, pieces: jax.Array, index: jax.Array
    ) -> jax.Array:
        """The local model's input `[B, T, d]`; index says which piece each symbol gets, or -1."""
        place = positions % self.config.patch_size
        x = self.local_embedding(ids, self.config.dtype)
        x = x + self.local_positions(place, x.dtype)
        pad = self.local_pad[...].astype(x.dtype)[None, None, :]
        x = jnp.where(((place == 0) & (index >= 0))[:, :, None], pad, x)
        piece = jnp.take_along_axis(pieces, jnp.maximum(index, 0)[:, :, None], axis=1)
        added = self.to_local(piece) + self.to_local_bias[...].astype(x.dtype)[None, None, :]
        return x + jnp.where((index >= 0)[:, :, None], added, 0)

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.final_norm(x)).astype(jnp.float32)

    def init_state(self, batch_size: int, max_length: int) -> MegaByteState:
        config, zeros = self.config, jnp.zeros((batch_size,), jnp.int32)
        return MegaByteState(
            recent=jnp.full((batch_size, config.patch_size - 1), PAD, jnp.int32),
            pieces=jnp.zeros((batch_size, config.patch_size, config.share), config.dtype),
            segment=zeros,
            opened=zeros,
            carry=self.segmenter.init_carry(batch_size, max_length, config.dtype),
            backbone=self.backbone.init_state(
                batch_size, config.capacity(max_length), config.dtype
            ),
            local=self.local.init_state(batch_size, max_length, config.dtype),
        )

    def extend(
        self, ids: jax.Array, state: MegaByteState, lengths: jax.Array
    ) -> tuple[jax.Array, MegaByteState]:
        size, new = self.config.patch_size, ids.shape[1]
        offsets = jnp.arange(new)[None, :]
        valid = (offsets < lengths[:, None]).astype(jnp.int32)
        positions = state.local.length[:, None] + offsets
        boundaries, carry = self.segmenter(None, ids, valid, state.carry)
        seen = state.backbone.length
        slots_left = state.backbone.positions.shape[1] - seen
        patches = find_patches(boundaries.hard, valid, -(-new // size), slots_left=slots_left)
        numbers = seen[:, None] + patches.number
        before = self.global_embedding(state.recent, self.config.dtype)
        y = self._global_input(ids, before, positions, patches, numbers)
        y, backbone = extend_backbone(self.backbone, y, state.backbone, patches.total)

        # The patch that was open before comes first, then the new ones.
        pieces = jnp.concatenate([state.pieces, self._pieces(y)], axis=1)
        opened = state.local.length[:, None] + patches.positions
        opened = jnp.concatenate([state.opened[:, None], opened], axis=1)
        offset = positions - _take(opened, patches.count)
        index = jnp.where(offset < size, patches.count * size + offset, -1)
        x = self._local_input(ids, positions, pieces, index)
        groups = state.segment[:, None] + patches.count
        x, local = self.local.extend(x, state.local, lengths, group_ids=groups)

        last = patches.total[:, None]
        recent = jnp.concatenate([state.recent, ids], axis=1)
        kept = lengths[:, None] + jnp.arange(size - 1)[None, :]
        places = last * size + jnp.arange(size)[None, :]
        return self._logits(x), MegaByteState(
            recent=jnp.take_along_axis(recent, kept, axis=1),
            pieces=jnp.take_along_axis(pieces, places[:, :, None], axis=1),
            segment=state.segment + patches.total,
            opened=_take(opened, last)[:, 0],
            carry=carry,
            backbone=backbone,
            local=local,
        )

    def for_decoding(self) -> "MegaByte":
        self.backbone.unstack()
        self.local.unstack()
        return self


def _take(values: jax.Array, index: jax.Array) -> jax.Array:
    """`values[b, index[b, i]]` for int arrays; the first value where the index is negative."""
    return jnp.take_along_axis(values, jnp.maximum(index, 0), axis=1)
