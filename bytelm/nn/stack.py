"""Stacks of blocks: scanned or unrolled, rematerialised or not, with their state for decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.nn.attention.blockwise import KEPT
from bytelm.nn.block import Block, StackedConfig
from bytelm.nn.norms import LayerNorm, RMSNorm
from bytelm.nn.stack_state import Read, StackState, Unread, next_positions
from bytelm.nn.state import NewPositions, restore, snapshot

Remat = Literal["none", "dots", "full"]
Outputs = Literal["last", "last two", "parallel"]
"""What a stack returns: the output of its last block, `[B, T, width]`; `[B, T, 2, width]`, the last
block's input and output; or `[B, T, depth, width]`, that of each block, all of which read the same.
"""
Carry = TypeVar("Carry")

DEEPEST_UNROLLED = 12
"""Up to this depth a stack is unrolled by default: faster steps, and compilation is still short."""


class Stack(nnx.Module):
    """`depth` equal blocks, one after another: `[B, T, width] -> [B, T, width]`.

    Parameters are stored stacked, `[depth, ...]`, even if the stack is not scanned, so that
    checkpoints do not depend on `scan`. `unstack` gives the form for decoding.

    Args:
        config: builds the blocks.
        scan: run as `lax.scan` over layers (compile time does not grow with depth) or unrolled
            (faster on CPU); None chooses by depth.
        remat: what the backward pass recomputes: nothing ("none"), all but the results of matrix
            products and of attention ("dots"), or the whole block ("full", least memory).
        outputs: what it returns.
    """

    def __init__(
        self,
        config: StackedConfig,
        *,
        rngs: nnx.Rngs,
        scan: bool | None = None,
        remat: Remat = "none",
        outputs: Outputs = "last",
    ):
        self.config = config
        self.outputs = outputs
        self.scan = config.depth > DEEPEST_UNROLLED if scan is None else scan
        self.remat = remat

        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs: nnx.Rngs) -> Block:
            return config.build(rngs)

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
        by_layer = zip(*(jnp.unstack(leaf) for leaf in leaves), strict=True)
        return [nnx.merge(graphdef, jax.tree.unflatten(structure, layer)) for layer in by_layer]

    def _rematerialised(self, function: Callable) -> Callable:
        if self.remat == "none":
            return function
        known = jax.checkpoint_policies
        products = known.save_from_both_policies(
            known.dots_with_no_batch_dims_saveable, known.save_only_these_names(KEPT)
        )
        policy = products if self.remat == "dots" else None
        return jax.checkpoint(function, policy=policy, prevent_cse=not self.scan)

    def fold(
        self,
        step: Callable[[Any, Carry], Carry],
        carry: Carry,
        *,
        first: int = 0,
        last: int | None = None,
    ) -> Carry:
        """Runs `step(block, carry) -> carry` for the blocks from `first` up to but not `last`."""
        if self.scan and not isinstance(self.blocks, nnx.List):
            graphdef, stacked = nnx.split(self.blocks)

            def layer(carry: Carry, params: nnx.State) -> tuple[Carry, None]:
                return step(nnx.merge(graphdef, params), carry), None

            chosen = jax.tree.map(lambda leaf: leaf[first:last], stacked)
            return jax.lax.scan(self._rematerialised(layer), carry, chosen)[0]

        for block in self.layers()[first:last]:
            graphdef, params = nnx.split(block)

            def run(carry: Carry, params: nnx.State, graphdef=graphdef) -> Carry:
                return step(nnx.merge(graphdef, params), carry)

            carry = self._rematerialised(run)(carry, params)
        return carry

    def __call__(
        self,
        x: jax.Array,
        group_ids: jax.Array | None,
        *,
        positions: jax.Array | None = None,
        shared: Any = None,
        first: int = 0,
        last: int | None = None,
    ) -> jax.Array:
        """Runs whole rows through all blocks, or those from `first` up to but not `last`.

        Args:
            x: `[B, T, width]`.
            group_ids: int32 `[B, T]`; positions see their own group only. None for one group.
            positions: int32 `[B, T]` for the rotation; None counts from the row's start.
            shared: inputs that all layers have in common, of the type that the blocks take.
        """

        def step(block: Block, x: jax.Array) -> jax.Array:
            return block(x, group_ids, positions, shared)

        if self.outputs == "last":
            return self.fold(step, x, first=first, last=last)
        if self.outputs == "parallel":
            found = self.map(lambda block, x, _: (x, step(block, x)), x, None)[1]
            return jnp.moveaxis(found, 0, 2)
        before = self.fold(step, x, last=self.config.depth - 1)
        return jnp.stack([before, self.fold(step, before, first=self.config.depth - 1)], axis=2)

    def map(
        self, step: Callable[[Any, Carry, Any], tuple[Carry, Any]], carry: Carry, items: Any
    ) -> tuple[Carry, Any]:
        """Runs `step(block, carry, item) -> carry, result` as a scan over blocks and items.

        The leaves of items and of the stacked results are `[depth, ...]`.
        """
        blocks = self.blocks
        if isinstance(blocks, nnx.List):
            graphdef = nnx.split(blocks[0])[0]
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *(nnx.split(x)[1] for x in blocks))
        else:
            graphdef, stacked = nnx.split(blocks)

        def layer(carry: Carry, of_layer: tuple[nnx.State, Any]) -> tuple[Carry, Any]:
            params, item = of_layer
            return step(nnx.merge(graphdef, params), carry, item)

        layer = self._rematerialised(layer)
        found: tuple[Carry, Any] = jax.lax.scan(layer, carry, (stacked, items))
        return found

    def init_state(
        self, batch: int, max_length: int, dtype: jnp.dtype, shared: Any = None
    ) -> StackState:
        """The state of `batch` rows that will have at most `max_length` positions."""
        shape = (batch, self.config.entries(max_length))
        return StackState(
            length=jnp.zeros((batch,), jnp.int32),
            positions=jnp.full(shape, -1, jnp.int32),
            group_ids=jnp.zeros(shape, jnp.int32),
            layers=tuple(
                block.init_state(batch, max_length, dtype, shared) for block in self.layers()
            ),
        )

    def extend(
        self,
        x: jax.Array,
        state: Any,
        lengths: jax.Array,
        *,
        group_ids: jax.Array | None = None,
        shared: Any | Callable[[NewPositions], Any] = None,
    ) -> tuple[jax.Array, Any]:
        """Runs N new positions of each row.

        Args:
            x: `[B, N, width]`.
            state: a `StackState` of the positions before, watched or not; rows must not grow past
                `max_length`.
            lengths: int32 `[B]`, how many of the N positions each row really has, from the first
                on. Outputs past them are finite and meaningless; the state ignores them.
            group_ids: int32 `[B, N]`; positions see their own group only. None for one group.
            shared: as in `__call__`, or a function that computes it from the `NewPositions`.
        """
        if isinstance(state, Unread):
            return self._read(x, state.state, lengths, group_ids, shared)
        if isinstance(state, Read):
            return self._keep(state, lengths, group_ids, shared)
        return self._run(x, state, lengths, group_ids, shared)[:2]

    def _run(
        self, x: jax.Array, state: StackState, lengths: jax.Array, group_ids: Any, shared: Any
    ) -> tuple[jax.Array, StackState, list[jax.Array]]:
        """`extend`, and the inputs of all blocks."""
        new, after = next_positions(state, x.shape[1], lengths, group_ids)
        shared = shared(new) if callable(shared) else shared
        xs, layers, is_parallel = [x], [], self.outputs == "parallel"
        for block, layer in zip(self.layers(), state.layers, strict=True):
            x, layer = block.extend(x, layer, new, shared)
            xs.append(x)
            x = xs[0] if is_parallel else x
            layers.append(layer)
        if self.outputs != "last":
            x = jnp.stack(xs[1:] if is_parallel else xs[-2:], axis=2)
        inputs = [xs[0]] * len(layers) if is_parallel else xs[:-1]
        return x, replace(after, layers=tuple(layers)), inputs

    def _read(
        self, x: jax.Array, state: StackState, lengths: jax.Array, group_ids: Any, shared: Any
    ) -> tuple[jax.Array, Read]:
        """`extend`, and what `_keep` needs."""
        then = snapshot(state, x.shape[1])
        x, after, inputs = self._run(x, state, lengths, group_ids, shared)
        changes = map(jax.tree.leaves, then.layers)
        kept = tuple(x if leaves else None for x, leaves in zip(inputs, changes, strict=True))
        return x, Read(after, then, kept, x)

    def _keep(
        self, read: Read, lengths: jax.Array, group_ids: Any, shared: Any
    ) -> tuple[jax.Array, StackState]:
        """`extend` by the first `lengths` of positions that were read before."""
        new, after = next_positions(read.then, read.output.shape[1], lengths, group_ids)
        shared = shared(new) if callable(shared) else shared
        layers = []
        parts = zip(self.layers(), read.state.layers, read.then.layers, read.inputs, strict=True)
        for block, layer, then, x in parts:
            if x is not None:  # of the outputs the compiler keeps nothing
                layer = block.extend(x, restore(layer, then), new, shared)[1]
            layers.append(layer)
        return read.output, replace(after, layers=tuple(layers))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MixedState:
    """The states of the stacks of a `MixedStack`; they have read the same positions."""

    stacks: tuple[StackState, ...]

    @property
    def length(self) -> jax.Array:
        return self.stacks[0].length


class MixedStack(nnx.Module):
    """Stacks of different blocks, one after another, such as attention after state-space blocks.

    It is made with the options of a `Stack` and called like one. All blocks get the same `shared`.

    Args:
        stream: dtype of the residual stream; None for that of the input.
        norm: the last norm; None for none.
        outputs: of the last stack.
    """

    def __init__(
        self,
        configs: Sequence[StackedConfig],
        *,
        rngs: nnx.Rngs,
        stream: jnp.dtype | None = None,
        norm: RMSNorm | LayerNorm | None = None,
        outputs: Outputs = "last",
        **options: Any,
    ):
        *_, last = range(len(configs))
        # Names of parameters in files are text, so their keys are too.
        self.stacks = nnx.Dict(
            {
                str(index): Stack(
                    each, rngs=rngs, outputs=outputs if index == last else "last", **options
                )
                for index, each in enumerate(configs)
            }
        )
        self.stream = stream
        self.norm = norm

    def _in_order(self) -> list[Stack]:
        return [self.stacks[str(index)] for index in range(len(self.stacks))]

    def __call__(self, x: jax.Array, group_ids: jax.Array | None, **options: Any) -> jax.Array:
        x = x.astype(self.stream or x.dtype)
        for stack in self._in_order():
            x = stack(x, group_ids, **options)
        return x if self.norm is None else self.norm(x)

    def init_state(
        self, batch: int, max_length: int, dtype: jnp.dtype, shared: Any = None
    ) -> MixedState:
        states = (stack.init_state(batch, max_length, dtype, shared) for stack in self._in_order())
        return MixedState(tuple(states))

    def extend(
        self, x: jax.Array, state: MixedState, lengths: jax.Array, **options: Any
    ) -> tuple[jax.Array, MixedState]:
        x = x.astype(self.stream or x.dtype)
        states = []
        for stack, part in zip(self._in_order(), state.stacks, strict=True):
            x, part = stack.extend(x, part, lengths, **options)
            states.append(part)
        return x if self.norm is None else self.norm(x), MixedState(tuple(states))


AnyStack = Stack | MixedStack
"""What runs blocks one after another."""
