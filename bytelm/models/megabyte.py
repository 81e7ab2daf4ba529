"""MegaByte: a global model over fixed patches, a local one inside each (Yu et al. 2023).

arXiv 2305.07185, as the authors of SpaceByte reproduced it (arXiv 2404.14408 and its code). A
document is cut every P symbols. For each patch, the global model reads the P symbols up to and
including the patch's first, embedded at D/P channels and concatenated. Its output is divided into P
shares of D/P channels, one for each symbol of the patch. The local model runs inside each patch
only. A learned pad replaces the global input of a document's first patch, and the local input of
each patch's first symbol, which the global model has already read.

Decided here: packed documents are cut and numbered separately. When all slots of a row are filled,
its last patch goes on. After the patch's first P symbols, the local model reads each symbol, sees
P - 1 symbols back, and gets nothing from the global model. Every byte is scored.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE, PAD
from bytelm.models.hierarchy import HierarchicalModel, PositionTable, TwoWidthsConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.mesh import shard_rows
from bytelm.nn.sequence import take_joined
from bytelm.patching.levels import (
    LevelState,
    OpenPatch,
    Result,
    Segmentation,
    Symbols,
    run,
    run_patches,
    take,
)
from bytelm.patching.segmenter import FixedPatches, Needs


@dataclass(frozen=True)
class MegaByteConfig(TwoWidthsConfig):
    """MegaByte with two levels."""

    family: ClassVar[str] = "megabyte"
    needs: ClassVar[Needs] = Needs("start")

    patch_size: int = 8
    """P, symbols in a patch; it divides `global_width`."""
    local_depth: int = 6
    """Local blocks."""
    learned_positions: int | None = None
    """Bytes with a learned position in the global model; later ones share the last. None for no
    learned positions there. The local model always has one for each place in a patch."""

    def __post_init__(self) -> None:
        self.require_positive("patch_size", "local_depth", "learned_positions")
        super().__post_init__()
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

    def local_block(self) -> BlockConfig:
        mask = AttentionMask(window=self.patch_size)
        return self.block(self.local_width, self.local_depth, mask)

    def build(self, rngs: nnx.Rngs) -> "MegaByte":
        return MegaByte(self, rngs=rngs)

    def local_flops(self, length: int, patches: float) -> float:
        block = self.local_block()
        # No symbol sees beyond its patch, though the window would reach there.
        window = min(self.patch_size, length)
        seen = window * (window + 1) // 2 + (length - window) * window
        hidden = seen - length * (self.patch_size + 1) / 2
        attention = block.depth * 4.0 * hidden * block.heads * block.head_width
        linear = 2.0 * length * self.local_width * (self.share + OUTPUT_SIZE)
        return block.forward_flops(length) - attention + linear


class MegaByte(HierarchicalModel):
    """The model that a `MegaByteConfig` builds."""

    config: MegaByteConfig

    def __init__(self, config: MegaByteConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, width = config.local_width, config.global_width
        self.segmenter = config.build_segmenter(d, rngs)
        self.global_embedding = Embedding(INPUT_SIZE, config.share, rngs=rngs)
        if config.learned_positions is not None:
            self.global_positions = PositionTable(config.learned_positions, config.share, rngs=rngs)
        self.global_pad = nnx.Param(jax.random.normal(rngs.params(), (width,)), role="vector")
        self.backbone = config.stack(config.global_block(), rngs)
        self.to_local = Dense(config.share, d, rngs=rngs, role="projection")
        self.to_local_bias = nnx.Param(jnp.zeros((d,)), role="bias")
        self.local_embedding = config.build_embedding(INPUT_SIZE, d, rngs)
        self.local_positions = PositionTable(config.patch_size, d, rngs=rngs)
        self.local_pad = nnx.Param(jax.random.normal(rngs.params(), (d,)), role="vector")
        self.local = config.stack(config.local_block(), rngs)
        self.final_norm, self.head = config.build_head(d, rngs)
        self.build_draft(config, rngs)

    def embed_symbols(self, ids: jax.Array) -> jax.Array:
        return self.local_embedding(ids, self.config.dtype)

    def forward(self, symbols: Symbols, state: LevelState | None = None) -> Result:
        size, before = self.config.patch_size, state or LevelState()
        recent, open = before.open or (None, None)
        most = -(-symbols.ids.shape[1] // size)
        cut, patching = self.segment(None, symbols, before.patching, open=open, most=most)
        y = shard_rows(self._global_input(cut, recent))
        y, backbone = run_patches(self.backbone, y, cut.inner_symbols, before.inner)
        x = shard_rows(self._local_input(cut, y))
        opened = 0 if state is None else state.patching.opened[:, None]
        starts = cut.patches.boundaries | (symbols.positions == 0)
        groups = jnp.where(symbols.document_ids > 0, opened + jnp.cumsum(starts, axis=1), 0)
        x, local = run(self.local, x, symbols, before.decoder, group_ids=groups)
        if state is None:
            return x, None, (cut,)
        kept = symbols.lengths[:, None] + jnp.arange(size - 1)[None, :]  # [B, P - 1]
        recent = take(jnp.concatenate([state.open[0], symbols.ids], axis=1), kept)
        open = recent, cut.after(y)
        return x, LevelState(patching=patching, inner=backbone, open=open, decoder=local), ()

    def _global_input(self, cut: Segmentation, recent: jax.Array | None) -> jax.Array:
        """The patch vectors `[B, patches, D]`; `recent` holds the P - 1 symbols before these."""
        config, symbols, patches = self.config, cut.symbols, cut.patches
        x = self.global_embedding(symbols.ids, config.dtype)  # [B, T, D / P]
        if recent is None:  # the first patch of a row gets the pad in any case
            before = jnp.zeros((len(x), config.patch_size - 1, config.share), x.dtype)
        else:
            before = self.global_embedding(recent, config.dtype)
        # The P symbols up to and including each patch's first, P - 1 after its position.
        places = jnp.arange(config.patch_size)[None, None, :]
        index = (patches.positions[:, :, None] + places).reshape(len(x), -1)
        y = take_joined((before, x), index)
        if config.learned_positions is not None:
            # The authors count the P - 1 symbols that they put before a document.
            positions = take(symbols.positions, patches.positions)[:, :, None] + places
            y = y + self.global_positions(positions.reshape(len(x), -1), y.dtype)
        y = y.reshape(len(x), -1, config.global_width)  # [B, patches, D]
        pad = self.global_pad[...].astype(y.dtype)[None, None, :]
        return jnp.where((patches.number == 0)[:, :, None], pad, y)

    def _local_input(self, cut: Segmentation, y: jax.Array) -> jax.Array:
        """The local input `[B, T, d]`, from the global output `[B, patches, D]`."""
        config, symbols, offsets = self.config, cut.symbols, cut.offsets
        # A patch that goes on gets nothing from the global model after its first P symbols.
        served = cut.in_patch & (offsets < config.patch_size)  # [B, T]
        place = symbols.positions % config.patch_size
        x = self.local_embedding.read(symbols, config.dtype)
        x = x + self.local_positions(place, x.dtype)
        pad = self.local_pad[...].astype(x.dtype)[None, None, :]
        x = jnp.where(((place == 0) & served)[:, :, None], pad, x)
        vectors, patch = cut.read(y)
        shares = vectors.reshape(len(x), -1, config.share)  # [B, (1 + patches) P, D / P]
        share = take(shares, jnp.where(served, patch * config.patch_size + offsets, 0))
        added = self.to_local(share) + self.to_local_bias[...].astype(x.dtype)[None, None, :]
        return x + jnp.where(served[:, :, None], added, 0)

    def init_parts(self, rows: int, length: int) -> LevelState:
        """`open` holds the last P - 1 symbols, int32 `[B, P - 1]`, and the unfinished patch."""
        recent = jnp.full((rows, self.config.patch_size - 1), PAD, jnp.int32)
        patch = OpenPatch.none(rows, self.config.global_width, self.config.dtype)
        return self.init_level(rows, length, open=(recent, patch), decoder=self.local)
