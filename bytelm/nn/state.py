"""Decoding states: a model's memory of the symbols it has read, and operations on its rows.

A state is a pytree. All its leaves have the batch axis first, so these functions serve all
families. A block may keep any state; attention keeps a `KeyValueCache`.

To undo the reading of rejected symbols, take a `snapshot` before reading, `restore` it, and read
the accepted symbols again (`LanguageModel.verify` and `keep`, in which stacks need not compute
again). A snapshot is small: it leaves out the parts that reading never overwrites, which are caches
that append and `Fixed` parts.

Shapes: B = rows, N = new positions, S = entries of a cache, G = key heads, K = head size.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.nn.attention.mask import AttentionMask


class Fixed:
    """Base of the parts of a state that reading never changes, such as an encoder's outputs."""


class Watched:
    """Base of the parts of a state that themselves remember how to take symbols back."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values `[B, G, S, K]` of the positions that an attention layer may still see.

    Entry p % S holds position p. A head's keys lie together: XLA:CPU then reads them in place,
    where it would copy another layout.
    """

    keys: jax.Array
    values: jax.Array
    is_ring: bool = field(metadata={"static": True})
    """Whether new positions overwrite old ones; otherwise the cache only appends."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NewPositions:
    """N new positions of each row, and where the caches of a stack's layers store them.

    The keys that they may see are the cache after writing, `[B, S]`, if N = 1 or the cache only
    appends. Otherwise they are the cache before writing and the new positions, `[B, S + N]`.
    """

    entries: jax.Array  # int32 [B, N], the cache entry of each; S (dropped) for none
    positions: jax.Array  # int32 [B, N], from the row's start; -1 where a row has fewer than N
    group_ids: jax.Array  # int32 [B, N]
    key_positions: jax.Array  # int32 [B, S] or [B, S + N], positions of the keys, -1 for none
    key_groups: jax.Array  # int32, their group ids

    def extend(
        self, cache: KeyValueCache, k: jax.Array, v: jax.Array
    ) -> tuple[KeyValueCache, jax.Array, jax.Array]:
        """Writes new keys and values `[B, N, G, K]` into a cache.

        Returns:
            the cache, and the keys and values `[B, G, ., K]` at `key_positions`.
        """
        k, v = (new.swapaxes(1, 2).astype(cache.keys.dtype) for new in (k, v))  # [B, G, N, K]
        keys, values = self._write(cache.keys, k), self._write(cache.values, v)
        written = KeyValueCache(keys, values, cache.is_ring)
        if k.shape[2] == 1 or not cache.is_ring:
            return written, keys, values
        # A ring may already have lost keys that the first new positions still see.
        keys = jnp.concatenate([cache.keys, k], axis=2)
        return written, keys, jnp.concatenate([cache.values, v], axis=2)

    def visible(self, mask: AttentionMask) -> jax.Array:
        """Bool `[B, N, .]`: which keys each position sees; a causal mask applies in each group."""
        same_group = self.group_ids[:, :, None] == self.key_groups[:, None, :]
        present = (self.key_positions >= 0)[:, None, :]
        return mask.visible(self.distances) & present & same_group

    @property
    def distances(self) -> jax.Array:
        """Position minus key position, int32 `[B, N, .]`."""
        return self.positions[:, :, None] - self.key_positions[:, None, :]

    def _write(self, cache: jax.Array, new: jax.Array) -> jax.Array:
        # With rows and heads as one axis the scatter works in place, without a transposition.
        flat = cache.reshape(-1, *cache.shape[2:])  # [B G, S, K]
        index = jnp.arange(len(flat))[:, None]  # [B G, 1]
        entries = jnp.repeat(self.entries, cache.shape[1], axis=0)  # [B G, N]
        flat = flat.at[index, entries].set(new.reshape(-1, *new.shape[2:]), mode="drop")
        return flat.reshape(cache.shape)


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


def snapshot(state: Any) -> Any:
    """The parts that `restore` needs to return to this state after more symbols were read."""
    return jax.tree.map(lambda x: None if _lasts(x) else x, state, is_leaf=_lasts)


def restore(state: Any, then: Any) -> Any:
    """The state at the time of the snapshot `then`, from a later one."""
    return jax.tree.map(lambda now, x: now if _lasts(now) else x, state, then, is_leaf=_lasts)


def _lasts(part: Any) -> bool:
    """Whether a part stays valid for the earlier positions when more symbols are read.

    A cache that appends then has further entries, which the restored stack treats as empty.
    """
    appends = isinstance(part, KeyValueCache) and not part.is_ring
    return appends or isinstance(part, Fixed | Watched)
