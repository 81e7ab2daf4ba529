"""The decoding state of a stack, and how the last positions that it read are taken back.

`watch` marks the states of a model's stacks before symbols of which the last may be taken back. A
stack then remembers its outputs, and returns them if it reads fewer of these positions again.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.nn.state import KeyValueCache, NewPositions, Watched


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StackState:
    """Decoding state of a stack, for the last S positions: entry p % S holds position p."""

    length: jax.Array  # int32 [B], positions of each row
    positions: jax.Array  # int32 [B, S], the position that each entry holds, -1 if empty
    group_ids: jax.Array  # int32 [B, S], the group of that position
    layers: tuple[Any, ...]  # the state of each block


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unread(Watched):
    """A stack's state before positions of which the last may be taken back: `watch`."""

    state: StackState

    @property
    def length(self) -> jax.Array:
        return self.state.length


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Read(Watched):
    """A stack's state after these positions.

    If the stack reads them again, fewer of them, it returns the same outputs, and its state is the
    one after the fewer. Only layers whose state does not last compute a part again.
    """

    state: StackState  # after all of the positions
    then: StackState  # a snapshot of the one before
    inputs: tuple[jax.Array | None, ...]
    """`[B, N, width]`, the inputs of each layer; None if its state lasts."""
    output: jax.Array  # [B, N, width], or as `Outputs` says

    @property
    def length(self) -> jax.Array:
        return self.then.length


def watch(state: Any) -> Any:
    """The state of a model before symbols of which the last may be taken back."""
    return jax.tree.map(
        lambda part: Unread(part) if isinstance(part, StackState) else part,
        state,
        is_leaf=lambda part: isinstance(part, StackState),
    )


def is_watched(state: Any) -> bool:
    """Whether symbols may be taken back from the state of a model or of a part of one."""

    def watched(part: Any) -> bool:
        return isinstance(part, Watched)

    return any(map(watched, jax.tree.leaves(state, is_leaf=watched)))


def lasts(state: StackState, count: int) -> bool:
    """`KeyValueCache.lasts` of all layers."""

    def is_cache(part: Any) -> bool:
        return isinstance(part, KeyValueCache)

    parts = jax.tree.leaves(state.layers, is_leaf=is_cache)
    return all(part.lasts(count) for part in parts if is_cache(part))


def next_positions(
    state: StackState, count: int, lengths: jax.Array, group_ids: jax.Array | None
) -> tuple[NewPositions, StackState]:
    """`count` new positions of each row, and the state after them, still with its layers' old one.

    Arguments as in `Stack.extend`.
    """
    entry_count = state.positions.shape[1]
    offsets = jnp.arange(count)[None, :]  # [1, N]
    new_length = state.length + lengths
    positions = state.length[:, None] + offsets  # [B, N]
    valid = offsets < lengths[:, None]
    kept = valid & (positions >= new_length[:, None] - entry_count)
    rows = jnp.arange(len(lengths))[:, None]
    entries = jnp.where(kept, positions % entry_count, entry_count)
    positions = jnp.where(valid, positions, -1)
    group_ids = jnp.zeros_like(positions) if group_ids is None else group_ids
    all_positions = state.positions.at[rows, entries].set(positions, mode="drop")
    all_groups = state.group_ids.at[rows, entries].set(group_ids, mode="drop")
    keys = all_positions, all_groups, jnp.minimum(new_length.max(), entry_count)  # [B, S]
    if not lasts(state, count):
        keys = (
            jnp.concatenate([state.positions, positions], axis=1),  # [B, S + N]
            jnp.concatenate([state.group_ids, group_ids], axis=1),
            jnp.int32(entry_count + count),
        )
    new = NewPositions(entries, positions, group_ids, *keys)
    return new, StackState(new_length, all_positions, all_groups, state.layers)
