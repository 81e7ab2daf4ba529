"""The post-norm Transformer block with the relative attention of Transformer-XL.

The score of key j for query i is `((q_i + u) k_j + (q_i + v) r_{i-j}) / sqrt(K)`, where `r_m` is a
projection of the sinusoids of distance m, and u and v are biases that all layers share
(arXiv 1901.02860, without its memory). It takes quadratic memory and is only for the published
models that use it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.nn.attention.blockwise import MASKED
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense
from bytelm.nn.norms import LayerNorm
from bytelm.nn.state import KeyValueCache, NewPositions

DEVIATION = 0.02
"""Initial standard deviation of all kernels."""


@dataclass(frozen=True, kw_only=True)
class RelativeBlockConfig(BlockConfig):
    """Shape of Transformer-XL's blocks; norm, RoPE and initialisation are their own."""

    def build(self, rngs: nnx.Rngs) -> "RelativeBlock":
        return RelativeBlock(self, rngs=rngs)

    def forward_flops(self, length: float) -> float:
        inner = self.heads * self.head_width
        # Projections of the distances, and their products with queries.
        distances = length * self.width + length * (length + 1) / 2
        return super().forward_flops(length) + self.depth * 2.0 * inner * distances


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PositionBiases:
    """The biases u (`content`) and v (`position`) of the queries of all layers, `[H, K]` each."""

    content: jax.Array
    position: jax.Array


class RelativeBlock(nnx.Module):
    """`x = norm(x + attention(x))`, then `x = norm(x + mlp(x))`: `[B, T, width]` to the same.

    All linear layers and norms have biases. The MLP's activation is the exact (erf) GELU or ReLU.
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        inner = config.heads * config.head_width

        def dense(d_in: int, d_out: int) -> Dense:
            return Dense(d_in, d_out, rngs=rngs, gain=DEVIATION * d_in**0.5, bias=True)

        self.query = dense(config.width, inner)
        self.key = dense(config.width, inner)
        self.value = dense(config.width, inner)
        self.distance = dense(config.width, inner)
        self.output = dense(inner, config.width)
        self.attention_norm = LayerNorm(config.width, bias=True)
        self.up = dense(config.width, config.hidden)
        self.down = dense(config.hidden, config.width)
        self.mlp_norm = LayerNorm(config.width, bias=True)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.config.heads, self.config.head_width)

    def _distances(self, count: int, dtype: jnp.dtype) -> jax.Array:
        """The projected distances 0 to count - 1, `[count, H, K]`."""
        return self._heads(self.distance(sinusoids(count, self.config.width).astype(dtype)))

    def _mix(
        self, scores: jax.Array, visible: jax.Array, values: jax.Array, x: jax.Array
    ) -> jax.Array:
        """From scores `[B, H, N, S]`, visible `[B, N, S]`, values `[B, S, H, K]`, x `[B, N, d]`."""
        scores = jnp.where(visible[:, None], scores * self.config.head_width**-0.5, MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bhns,bshk->bnhk", weights, values)
        x = self.attention_norm(x + self.output(mixed.reshape(*x.shape[:2], -1)))
        hidden = self.up(x)
        relu = self.config.mlp == "relu"
        hidden = nnx.relu(hidden) if relu else nnx.gelu(hidden, approximate=False)
        return self.mlp_norm(x + self.down(hidden))

    def _products(
        self, q: jax.Array, k: jax.Array, r: jax.Array, biases: PositionBiases
    ) -> tuple[jax.Array, jax.Array]:
        """Scores of the keys `[B, H, N, S]`, and of the distances `[B, H, N, M]`."""
        content, position = (
            q + bias.astype(q.dtype)[None, None] for bias in (biases.content, biases.position)
        )
        by_key = jnp.einsum("bnhk,bshk->bhns", content, k, preferred_element_type=jnp.float32)
        by_distance = jnp.einsum("bnhk,mhk->bhnm", position, r, preferred_element_type=jnp.float32)
        return by_key, by_distance

    def __call__(
        self,
        x: jax.Array,
        group_ids: jax.Array | None,
        positions: jax.Array | None,
        shared: PositionBiases,
    ) -> jax.Array:
        length = x.shape[1]
        q, k, v = (self._heads(project(x)) for project in (self.query, self.key, self.value))
        by_key, by_distance = self._products(q, k, self._distances(length, x.dtype), shared)
        visible = jnp.tril(jnp.ones((length, length), bool))[None]  # [1, T, T]
        if group_ids is not None:
            visible &= group_ids[:, :, None] == group_ids[:, None, :]
        return self._mix(by_key + distances_to_keys(by_distance), visible, v, x)

    def init_state(
        self, batch: int, length: int, dtype: jnp.dtype, shared: PositionBiases | None = None
    ) -> KeyValueCache:
        return self.config.empty_cache(batch, length, dtype)

    def extend(
        self, x: jax.Array, state: KeyValueCache, new: NewPositions, shared: PositionBiases
    ) -> tuple[jax.Array, KeyValueCache]:
        q, k, v = (self._heads(project(x)) for project in (self.query, self.key, self.value))
        state, *both = new.extend(state, k, v)
        keys, values = (
            jnp.concatenate(parts, axis=2).swapaxes(1, 2).astype(x.dtype) for parts in both
        )  # [B, S, H, K]
        r = self._distances(keys.shape[1], x.dtype)  # [S, H, K]
        by_key, by_distance = self._products(q, keys, r, shared)  # [B, H, N, S]
        index = jnp.clip(new.distances, 0, len(r) - 1)[:, None]
        by_distance = jnp.take_along_axis(by_distance, index, axis=3)
        return self._mix(by_key + by_distance, new.visible(self.config.mask), values, x), state


def sinusoids(count: int, width: int) -> jax.Array:
    """Vectors of the distances 0 to count - 1: all sines, then all cosines, `[count, width]`."""
    frequencies = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    angles = jnp.arange(count, dtype=jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def distances_to_keys(by_distance: jax.Array) -> jax.Array:
    """Scores `[..., i, m]` of distances m to scores `[..., i, j]` of keys j <= i, m = i - j."""
    length = by_distance.shape[-1]
    shape = by_distance.shape[:-2]
    # Padded by a column and read as rows one shorter, each row is shifted by one (Transformer-XL).
    padded = jnp.pad(by_distance[..., ::-1], [(0, 0)] * len(shape) + [(0, 0), (1, 0)])
    shifted = padded.reshape(*shape, length + 1, length)[..., 1:, :]
    return shifted.reshape(*shape, length, length)
