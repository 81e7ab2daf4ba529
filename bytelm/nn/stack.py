"""A stack of equal blocks: scanned or unrolled, rematerialised or not, with its decoding cache."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.models.t5.blocks import T5Block, T5Context
from bytelm.nn.block import (
    BlockConfig,
    CacheSlots,
    Condition,
    LayerCache,
    TransformerBlock,
)
from bytelm.nn.transformer_xl import PositionBiases, RelativeBlock

Block = TransformerBlock | RelativeBlock | T5Block
Shared = Condition | PositionBiases | T5Context
"""What all layers of a stack are given alike."""

Remat = Literal["none", "dots", "full"]

DEEPEST_UNROLLED = 12
"""Up to this depth a stack is unrolled by default: faster steps, and compilation is still short."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StackCache:
    """What a stack remembers of the positions it has seen, for incremental decoding.

    S slots hold the last S positions: slot p % S holds position p.

    Attributes:
        length: int32 `[B]`, how many positions each row has seen.
        positions: int32 `[B, S]`, the position that each slot holds, -1 if empty.
        segments: int32 `[B, S]`, the segment of that position.
        layers: keys and values of each layer.
    """

    length: jax.Array
    positions: jax.Array
    segments: jax.Array
    layers: tuple[LayerCache, ...]

    def reorder(self, rows: jax.Array) -> "StackCache":
        """The cache of N rows whose row i is a copy of row `rows[i]`, int32 `[N]`.

        Of a layer, keys and values move; what else it holds, as of an encoder's states, stays.
        """

        def of_heads(x: jax.Array) -> jax.Array:
            by_row = x.reshape(len(self.length), -1, *x.shape[1:])
            return jnp.take(by_row, rows, axis=0).reshape(-1, *x.shape[1:])

        layers = tuple(
            replace(layer, keys=of_heads(layer.keys), values=of_heads(layer.values))
            for layer in self.layers
        )
        return StackCache(self.length[rows], self.positions[rows], self.segments[rows], layers)

    def put(self, rows: jax.Array, new: "StackCache") -> "StackCache":
        """The cache with row i of `new` for row `rows[i]`, int32 `[N]`; none beyond the last row.

        The slots are as many as here; of a layer, keys and values move.
        """

        def of_heads(x: jax.Array, new: jax.Array) -> jax.Array:
            by_row = x.reshape(len(self.length), -1, *x.shape[1:])
            new = new.reshape(len(rows), *by_row.shape[1:])
            return by_row.at[rows].set(new, mode="drop").reshape(x.shape)

        layers = tuple(
            replace(
                layer,
                keys=of_heads(layer.keys, other.keys),
                values=of_heads(layer.values, other.values),
            )
            for layer, other in zip(self.layers, new.layers, strict=True)
        )
        return StackCache(
            self.length.at[rows].set(new.length, mode="drop"),
            self.positions.at[rows].set(new.positions, mode="drop"),
            self.segments.at[rows].set(new.segments, mode="drop"),
            layers,
        )


class Stack(nnx.Module):
    """`depth` Transformer blocks, one after another: `[B, T, width] -> [B, T, width]`.

    Parameters are stored stacked, `[depth, ...]`, however the stack is run, so that a checkpoint
    does not depend on it. `unstack` gives the form for decoding.

    Args:
        scan: run as `lax.scan` over layers (compile time does not grow with depth) or unrolled
            (faster on CPU); None chooses by depth.
        remat: what the backward pass recomputes: nothing ("none"), all but the results of matrix
            products ("dots"), or the whole block ("full", least memory).
        block: the class of the blocks.
    """

    def __init__(
        self,
        config: BlockConfig,
        *,
        rngs: nnx.Rngs,
        scan: bool | None = None,
        remat: Remat = "none",
        block: type[Block] = TransformerBlock,
    ):
        self.config = config
        self.scan = config.depth > DEEPEST_UNROLLED if scan is None else scan
        self.remat = remat

        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs: nnx.Rngs) -> Block:
            return block(config, rngs=rngs)  # type: ignore[arg-type]

        self.blocks: Any = blocks(rngs)

    def unstack(self) -> None:
        """Stores each layer's parameters on their own, so that decoding does not slice them."""
        self.blocks = nnx.List(self.layers())

    def layers(self) -> list[Any]:
        """The blocks, each with its own parameters."""
        if isinstance(self.blocks, nnx.List):
            return list(self.blocks)
        graphdef, stacked = nnx.split(self.blocks)
        # One split per array: its gradient is one concatenation, where indexing adds up `depth`.
        leaves, structure = jax.tree.flatten(stacked)
        pieces = [jnp.unstack(leaf) for leaf in leaves]
        return [
            nnx.merge(graphdef, jax.tree.unflatten(structure, layer))
            for layer in zip(*pieces, strict=True)
        ]

    def _rematerialised(self, function: Callable) -> Callable:
        if self.remat == "none":
            return function
        policy = (
            jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            if self.remat == "dots"
            else None
        )
        return jax.checkpoint(function, policy=policy, prevent_cse=not self.scan)

    def __call__(
        self,
        x: Any,
        group_ids: jax.Array | None,
        *,
        positions: jax.Array | None = None,
        condition: Shared | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> Any:
        """Runs all blocks over whole rows, or those from `first` up to and without `last`.

        Args:
            x: `[B, T, width]`, or what else the class of the blocks takes and returns.
            group_ids: int32 `[B, T]`; positions see their own segment only.
            positions: int32 `[B, T]` for the rotation; None counts from the row's start.
            condition: what every layer is given alike: vectors that are added to its input, where
                the config has a `condition_width`, the biases of a `RelativeBlock`, or the
                context of a `T5Block`.
        """
        if self.scan and not isinstance(self.blocks, nnx.List):
            graphdef, stacked = nnx.split(self.blocks)

            def layer(x: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
                return nnx.merge(graphdef, params)(x, group_ids, positions, condition), None

            chosen = jax.tree.map(lambda leaf: leaf[first:last], stacked)
            return jax.lax.scan(self._rematerialised(layer), x, chosen)[0]

        for block in self.layers()[first:last]:
            graphdef, params = nnx.split(block)

            def run(x: jax.Array, params: nnx.State, graphdef=graphdef) -> jax.Array:
                return nnx.merge(graphdef, params)(x, group_ids, positions, condition)

            x = self._rematerialised(run)(x, params)
        return x

    def init_cache(self, batch: int, max_length: int, dtype: jnp.dtype) -> StackCache:
        """An empty cache for `batch` rows of at most `max_length` positions.

        With a window W only the last W positions are kept.
        """
        config = self.config
        slots = min(max_length, config.mask.window or max_length)
        shape = (batch * config.key_value_heads, slots, config.head_width)
        return StackCache(
            length=jnp.zeros((batch,), jnp.int32),
            positions=jnp.full((batch, slots), -1, jnp.int32),
            segments=jnp.zeros((batch, slots), jnp.int32),
            layers=tuple(
                LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
                for _ in range(config.depth)
            ),
        )

    def extend(
        self,
        x: jax.Array,
        cache: StackCache,
        lengths: jax.Array,
        *,
        group_ids: jax.Array | None = None,
        condition: Shared | Callable[[CacheSlots], Shared] | None = None,
    ) -> tuple[jax.Array, StackCache]:
        """Runs N new positions of each row.

        Args:
            x: `[B, N, width]`.
            cache: of the positions before; without a window, `length + N` must fit in its slots.
            lengths: int32 `[B]`, how many of the N positions each row really has (from the first
                on); outputs beyond are finite and mean nothing, and the cache forgets them.
            group_ids: int32 `[B, N]`; positions see their own segment only. None for one segment.
            condition: as in a whole run, or what makes it of the slots.

        Returns:
            outputs `[B, N, width]` and the cache with the new positions.
        """
        slot_count = cache.positions.shape[1]
        offsets = jnp.arange(x.shape[1])[None, :]
        new_length = cache.length + lengths
        positions = cache.length[:, None] + offsets
        valid = offsets < lengths[:, None]
        kept = valid & (positions >= new_length[:, None] - slot_count)
        rows = jnp.arange(x.shape[0])[:, None]
        slots = jnp.where(kept, positions % slot_count, slot_count)
        positions = jnp.where(valid, positions, -1)
        segments = jnp.zeros_like(positions) if group_ids is None else group_ids
        new_positions = cache.positions.at[rows, slots].set(positions, mode="drop")
        new_segments = cache.segments.at[rows, slots].set(segments, mode="drop")
        if x.shape[1] == 1:
            keys = new_positions, new_segments
        else:
            keys = (
                jnp.concatenate([cache.positions, positions], axis=1),
                jnp.concatenate([cache.segments, segments], axis=1),
            )
        where = CacheSlots(slots, positions, segments, *keys)
        shared = condition(where) if callable(condition) else condition

        layers = []
        for block, layer in zip(self.layers(), cache.layers, strict=True):
            x, layer = block.extend(x, layer, where, shared)
            layers.append(layer)
        return x, StackCache(new_length, new_positions, new_segments, tuple(layers))
