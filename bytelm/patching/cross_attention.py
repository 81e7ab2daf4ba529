"""Cross-attention between the symbols and the patches of a level (BLT, arXiv 2412.09871).

A patch has one vector, pooled from its symbols, cut into k queries that attend to these symbols.
On the way back each symbol attends to the k vectors of the patch that ended last. Who attends to
whom follows from the number of each symbol's patch, so there is no mask of symbols by patches and
no grid of patches: a softmax over segments on the way in, a gather on the way back.

Queries have a norm of their own, keys and values share one, and there are no positions. As in the
authors' code the result is `2 x + W_o attention`, x being counted twice.

Shapes: B = rows, N = symbols, P = patches, k = vectors of a patch, H = heads, K = head size,
S = entries of a cache, d = channels.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.nn.attention.blockwise import MASKED
from bytelm.nn.block import Block, BlockConfig, TransformerBlock
from bytelm.nn.linear import Dense
from bytelm.nn.norms import NORMS
from bytelm.nn.roles import Role
from bytelm.nn.sequence import add_at, max_at, take
from bytelm.nn.state import KeyValueCache, NewPositions
from bytelm.patching.patches import LEAST_SCORE, attention_pool

PoolingKind = Literal["avg", "min", "max"]


def pool(
    kind: PoolingKind, x: jax.Array, counts: jax.Array, index: jax.Array, groups: int
) -> jax.Array:
    """Pools the members of each group, `[B, N, d] -> [B, groups, d]`; 0 for an empty group.

    Args:
        counts: float32 `[B, N]`, symbols that each member stands for; 0 for none.
        index: int32 `[B, N]`, the group of each member; `groups` for none.
    """
    index, wide = jnp.where(counts > 0, index, groups), x.astype(jnp.float32)
    total = add_at(counts, index, groups)[:, :, None]
    if kind == "avg":
        pooled = add_at(wide * counts[:, :, None], index, groups) / jnp.maximum(total, 1)
    else:
        sign = 1 if kind == "max" else -1
        pooled = jnp.where(total > 0, sign * max_at(sign * wide, index, groups), 0)
    return pooled.astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Members:
    """The symbols that the patches of some rows read, and where they belong."""

    groups: jax.Array
    """Int32 `[B, W, N]`: the W patches that read each symbol, its own and those after it; P where
    there is none."""
    cached: jax.Array | None = None
    """Bool `[B, J, S]`, which entries of a cache the first J patches also read."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchKeys:
    """The vectors of patches, and which of them each symbol reads."""

    vectors: jax.Array  # [B, P, k, d]
    index: jax.Array  # int32 [B, N, W], the patches that each symbol reads
    visible: jax.Array  # bool [B, N, W], whether there is such a patch


class CrossAttention(nnx.Module):
    """Attention of queries to a few keys of their own, with the queries added twice."""

    def __init__(self, config: BlockConfig, heads: int, *, role: Role, rngs: nnx.Rngs):
        d = config.width
        self.heads = heads
        self.query_norm = NORMS[config.norm](d, epsilon=config.norm_epsilon)
        self.key_norm = NORMS[config.norm](d, epsilon=config.norm_epsilon)
        self.query = Dense(d, d, rngs=rngs, tensor_axis=-1, role=role)
        self.key = Dense(d, d, rngs=rngs, tensor_axis=-1, role=role)
        self.value = Dense(d, d, rngs=rngs, tensor_axis=-1, role=role)
        self.output = Dense(d, d, rngs=rngs, gain=config.output_gain, tensor_axis=-2, role=role)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of vectors `[..., d]`: `[..., H, K]` each."""
        x = self.key_norm(x)
        shape = (*x.shape[:-1], self.heads, -1)
        return self.key(x).reshape(shape), self.value(x).reshape(shape)

    def _queries(self, x: jax.Array) -> jax.Array:
        """Queries `[..., H, K]`, with the scale of scores."""
        q = self.query(self.query_norm(x)).reshape(*x.shape[:-1], self.heads, -1)
        return q * q.shape[-1] ** -0.5

    def _added(self, x: jax.Array, mixed: jax.Array) -> jax.Array:
        return 2 * x + self.output(mixed.reshape(x.shape).astype(x.dtype))

    def of_patches(
        self,
        y: jax.Array,
        reads: Members,
        keys: jax.Array,
        values: jax.Array,
        cache: KeyValueCache | None = None,
    ) -> jax.Array:
        """Patches `[B, P, k, d]` read their symbols, whose keys and values are `[B, N, H, K]`."""
        rows, patches, k, _ = y.shape
        q = self._queries(y)  # [B, P, k, H, K]
        flat = q.reshape(rows, patches, -1)
        scores, index = [], []
        for groups in jnp.unstack(reads.groups, axis=1):  # [B, N]
            own = take(flat, jnp.minimum(groups, patches - 1)).reshape(*groups.shape, *q.shape[2:])
            product = own.astype(jnp.float32) * keys[:, :, None].astype(jnp.float32)
            scores.append(product.sum(axis=-1).reshape(*groups.shape, -1))  # [B, N, k H]
            index.append(groups)
        values = jnp.broadcast_to(values[:, :, None], (*values.shape[:2], k, *values.shape[2:]))
        values = values.reshape(*values.shape[:2], -1, values.shape[-1])  # [B, N, k H, K]
        mixed = [values] * len(scores)
        if cache is not None:
            before, weights = _of_cache(q, cache, reads.cached)
            scores.append(weights)
            mixed.append(before)
            first = jnp.arange(before.shape[1])[None, :]
            index.append(jnp.broadcast_to(first, before.shape[:2]))
        found, _ = attention_pool(
            jnp.concatenate(scores, axis=1),
            jnp.concatenate(mixed, axis=1),
            jnp.concatenate(index, axis=1),
            patches,
        )  # [B, P, k H, K]
        return self._added(y, found)

    def of_symbols(self, x: jax.Array, patches: PatchKeys) -> jax.Array:
        """Symbols `[B, N, d]` read the vectors of patches."""
        rows, length, window = patches.index.shape
        k = patches.vectors.shape[2]
        index = patches.index.reshape(rows, -1)
        keys, values = (
            take(each.reshape(*each.shape[:2], -1), index).reshape(
                rows, length, window * k, *each.shape[3:]
            )
            for each in self.keys_values(patches.vectors)
        )  # [B, N, W k, H, K]
        q = self._queries(x)  # [B, N, H, K]
        scores = jnp.einsum("bnhc,bnkhc->bnhk", q, keys, preferred_element_type=jnp.float32)
        visible = jnp.repeat(patches.visible, k, axis=2)[:, :, None]  # [B, N, 1, W k]
        weights = jax.nn.softmax(jnp.where(visible, scores, MASKED), axis=-1)
        weights = jnp.where(visible, weights, 0).astype(values.dtype)
        return self._added(x, jnp.einsum("bnhk,bnkhc->bnhc", weights, values))


def _of_cache(
    q: jax.Array, cache: KeyValueCache, visible: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """What the first J patches read of a cache, as one member of each: values and scores.

    From queries `[B, P, k, H, K]` and visible `[B, J, S]`: `[B, J, k H, K]` and `[B, J, k H]`.
    """
    assert visible is not None
    q = q[:, : visible.shape[1]].astype(jnp.float32)
    keys, values = (
        jnp.concatenate(parts, axis=2).astype(jnp.float32) for parts in (cache.keys, cache.values)
    )
    scores = jnp.einsum("bjkhc,bhsc->bjkhs", q, keys)
    visible = visible[:, :, None, None]  # [B, J, 1, 1, S]
    scores = jnp.where(visible, scores, LEAST_SCORE)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.where(visible, jnp.exp(scores - top), 0)
    total = weights.sum(axis=-1)  # [B, J, k, H]
    mixed = jnp.einsum("bjkhs,bhsc->bjkhc", weights, values)
    mixed = mixed / jnp.maximum(total, 1e-30)[..., None]
    weight = top[..., 0] + jnp.log(jnp.where(total > 0, total, 1.0))
    rows, first = q.shape[:2]
    return mixed.reshape(rows, first, -1, q.shape[-1]), weight.reshape(rows, first, -1)


@dataclass(frozen=True, kw_only=True)
class CrossBlockConfig(BlockConfig):
    """Blocks that read patches first; `cross_heads` are the heads of that attention."""

    cross_heads: int

    def build(self, rngs: nnx.Rngs) -> Block:
        return CrossBlock(self, rngs=rngs)


class CrossBlock(TransformerBlock):
    """A Transformer block before which each symbol reads its patches: `shared` is `PatchKeys`."""

    def __init__(self, config: CrossBlockConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.cross = CrossAttention(config, config.cross_heads, role="matrix", rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        group_ids: jax.Array | None,
        positions: jax.Array | None = None,
        shared: Any = None,
    ) -> jax.Array:
        return super().__call__(self.cross.of_symbols(x, shared), group_ids, positions)

    def extend(
        self, x: jax.Array, state: KeyValueCache, new: NewPositions, shared: Any = None
    ) -> tuple[jax.Array, KeyValueCache]:
        return super().extend(self.cross.of_symbols(x, shared), state, new)
