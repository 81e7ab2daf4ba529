"""Decoding states: a model's memory of the symbols it has read, and operations on its rows.

A state is a pytree. All its leaves have the batch axis first, so these functions serve all
families. A block may keep any state; attention keeps a `KeyValueCache`.

To undo the reading of rejected symbols, take a `snapshot` before reading, `restore` it, and read
the accepted symbols again (`LanguageModel.verify` and `keep`, in which stacks need not compute
again). A snapshot is small: it leaves out `Fixed` parts, and the caches of which so many symbols
overwrite nothing that is still seen.

Shapes: B = rows, N = new positions, S = entries of a cache, G = key heads, K = head size.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp

from bytelm.core.xla import backend
from bytelm.nn.attention.mask import AttentionMask

FIRST_PART = 256
"""Entries of a cache's first part on CPU; with each further part it doubles."""


class Fixed:
    """Base of the parts of a state that reading never changes, such as an encoder's outputs."""


class Watched:
    """Base of the parts of a state that themselves remember how to take symbols back."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the positions that an attention layer may still see.

    Entry p % S holds position p. The entries lie in parts, one after another, of which attention
    skips those that no row has reached. A head's keys lie together: XLA:CPU then reads them in
    place, where it would copy another layout.
    """

    keys: tuple[jax.Array, ...]  # [B, G, ., K] each, S entries together
    values: tuple[jax.Array, ...]
    spare: int | None = field(default=None, metadata={"static": True})
    """In a ring, where new positions overwrite old ones, how many positions may be written, and
    taken back, before one that is still seen is lost; None if the cache only appends."""

    @classmethod
    def empty(
        cls, batch: int, heads: int, entries: int, size: int, dtype: jnp.dtype, spare: int | None
    ) -> Self:
        """A cache of S = `entries`, before the first position."""
        keys, values = (
            tuple(jnp.zeros((batch, heads, part, size), dtype) for part in _part_sizes(entries))
            for _ in range(2)
        )
        return cls(keys, values, spare)

    def lasts(self, count: int) -> bool:
        """Whether all that is still seen is there after `count` more positions are written."""
        return self.spare is None or count <= self.spare


def _part_sizes(entries: int) -> list[int]:
    sizes, left = list[int](), entries
    # On accelerators a branch costs more than to read empty entries.
    while backend() == "cpu" and left > (size := sum(sizes) or FIRST_PART):
        sizes.append(size)
        left -= size
    return [*sizes, left]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NewPositions:
    """N new positions of each row, and where the caches of a stack's layers store them.

    The keys that they may see are the cache after writing, `[B, S]`, if it lasts for N positions.
    Otherwise they are the cache before writing and the new positions, `[B, S + N]`.
    """

    entries: jax.Array  # int32 [B, N], the cache entry of each; S (dropped) for none
    positions: jax.Array  # int32 [B, N], from the row's start; -1 where a row has fewer than N
    group_ids: jax.Array  # int32 [B, N]
    key_positions: jax.Array  # int32 [B, S] or [B, S + N], positions of the keys, -1 for none
    key_groups: jax.Array  # int32, their group ids
    used: jax.Array  # int32 scalar, entries of these keys, from the first on, that rows may use

    def extend(
        self, cache: KeyValueCache, k: jax.Array, v: jax.Array
    ) -> tuple[KeyValueCache, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Writes new keys and values `[B, N, G, K]` into a cache.

        Returns:
            the cache, and the keys and values at `key_positions`, in parts `[B, G, ., K]`.
        """
        k, v = (new.swapaxes(1, 2).astype(cache.keys[0].dtype) for new in (k, v))  # [B, G, N, K]
        keys, values = self._write(cache.keys, k), self._write(cache.values, v)
        written = KeyValueCache(keys, values, cache.spare)
        if cache.lasts(k.shape[2]):
            return written, keys, values
        return written, (*cache.keys, k), (*cache.values, v)

    def visible(self, mask: AttentionMask) -> jax.Array:
        """Bool `[B, N, .]`: which keys each position sees; a causal mask applies in each group."""
        same_group = self.group_ids[:, :, None] == self.key_groups[:, None, :]
        present = (self.key_positions >= 0)[:, None, :]
        return mask.visible(self.distances) & present & same_group

    @property
    def distances(self) -> jax.Array:
        """Position minus key position, int32 `[B, N, .]`."""
        return self.positions[:, :, None] - self.key_positions[:, None, :]

    def _write(self, parts: tuple[jax.Array, ...], new: jax.Array) -> tuple[jax.Array, ...]:
        # With rows and heads as one axis the scatter works in place, without a transposition.
        new, written, start = new.reshape(-1, *new.shape[2:]), [], 0  # [B G, N, K]
        index = jnp.arange(len(new))[:, None]  # [B G, 1]
        for part in parts:
            flat, size = part.reshape(-1, *part.shape[2:]), part.shape[2]
            entries = jnp.where(self.entries < start, size, self.entries - start)
            entries = jnp.repeat(entries, part.shape[1], axis=0)  # [B G, N]
            written.append(flat.at[index, entries].set(new, mode="drop").reshape(part.shape))
            start += size
        return tuple(written)


def take(state: Any, rows: jax.Array, *, fixed: bool = True) -> Any:
    """The state of N rows whose row i is a copy of row `rows[i]`, int32 `[N]`.

    `Fixed` parts are copied too, unless the rows of a copy share them: `fixed=False`.
    """

    def part(x: Any) -> Any:
        return x if isinstance(x, Fixed) else jnp.take(x, rows, axis=0)

    return jax.tree.map(part, state, is_leaf=lambda x: not fixed and isinstance(x, Fixed))


def put(state: Any, rows: jax.Array, new: Any) -> Any:
    """The state with row i of `new` as row `rows[i]`, int32 `[N]`; rows past the last are dropped.

    Both states must be for the same length.
    """
    return jax.tree.map(lambda x, other: x.at[rows].set(other, mode="drop"), state, new)


def snapshot(state: Any, most: int) -> Any:
    """The parts that `restore` needs to return to this state after at most `most` more symbols."""

    def lasts(part: Any) -> bool:
        # A cache then has further entries, which the restored stack treats as empty.
        of_cache = isinstance(part, KeyValueCache) and part.lasts(most)
        return of_cache or isinstance(part, Fixed | Watched)

    return jax.tree.map(lambda x: None if lasts(x) else x, state, is_leaf=lasts)


def restore(state: Any, then: Any) -> Any:
    """The state at the time of the snapshot `then`, from a later one."""

    def part(x: Any, now: Any) -> Any:
        return now if x is None else x

    return jax.tree.map(part, then, state, is_leaf=lambda x: x is None)
