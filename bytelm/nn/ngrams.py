"""Embeddings of hashed n-grams of bytes (BLT, arXiv 2412.09871, section 3.2.1, and its code).

For each size n and each hash function there is a table. The n symbols up to and including the one
at t, g_0 the oldest, have the hash `sum of g_i p^i` in signed 64-bit arithmetic with wraparound,
p being the function's multiplier; its floor modulus is the row. Symbols before the document count
as 0. The rows are added up, without the paper's division.

JAX has 64-bit integers only if a program turns them on for everything, so the hash is computed
exactly in parts of 16 bits.

Shapes: B = rows, T = symbols, J = tables, d = channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import BYTES

MULTIPLIERS = (
    1000000007,
    5915587277,
    1500450271,
    3267000013,
    5754853343,
    4093082899,
    9576890767,
    3628273133,
    2860486313,
    5463458053,
    3367900313,
)
"""One for each hash function, in the order in which they are used."""
LONGEST = 64
"""The largest n; up to here no sum of 16-bit parts overflows 32 bits."""

Hash = tuple[jax.Array, jax.Array]
"""The higher and the lower 32 bits, uint32 each."""


def hashed_ids(ids: jax.Array) -> jax.Array:
    """The numbers that are hashed, BLT's ids: byte b is b + 4, END 2, START 1, PAD 0; uint32."""
    special = jnp.array([2, 1, 0])  # END, START, PAD
    codes = jnp.where(ids < BYTES, ids + 4, special[jnp.clip(ids - BYTES, 0, 2)])
    return codes.astype(jnp.uint32)


def hash_ngrams(codes: Sequence[jax.Array], size: int, multiplier: int) -> Hash:
    """The hash of the n-gram of this size that ends at each symbol.

    Args:
        codes: uint32 of any shape, below 2**9: of the symbol, of the one before it, and so on.
    """
    parts = [jnp.zeros_like(codes[0])] * 4
    for place in range(size):
        power = pow(multiplier, place, 2**64)
        code = codes[size - 1 - place]
        for index in range(4):
            parts[index] += code * np.uint32(power >> 16 * index & 0xFFFF)
    for index in range(3):
        parts[index + 1] += parts[index] >> 16
    low, second, third, high = parts
    return (third & 0xFFFF) | (high << 16), (low & 0xFFFF) | (second << 16)


def floor_modulus(value: Hash, size: int) -> jax.Array:
    """A signed 64-bit number modulo `size`, below 2**31, as Python's %: int32."""
    # The remainder of the leading bits, times a power of two, must stay below 2**32.
    step = 32 - size.bit_length()
    rest = jnp.zeros_like(value[0])
    for word in value:
        left = 32
        while left:
            taken = min(step, left)
            left -= taken
            bits = word >> np.uint32(left) & np.uint32(2**taken - 1)
            rest = (rest << np.uint32(taken) | bits) % np.uint32(size)
    is_negative = value[0] >> 31 == 1
    shifted = (rest + np.uint32(size - 2**64 % size)) % np.uint32(size)
    return jnp.where(is_negative, shifted, rest).astype(jnp.int32)


class NGrams(nnx.Module):
    """Sums of the embeddings of each symbol's n-grams: int32 `[B, T]` to `[B, T, width]`.

    One table holds those of all functions and sizes, function by function. It starts as a normal
    of standard deviation width^-1/2.

    Args:
        sizes: n of each kind of n-gram.
        functions: hash functions.
        rows: of each table.
    """

    chosen: jax.Array | None = None
    """Int32, ascending: the rows that the table holds; None for all. Set in training, where a step
    works on the rows that its batch reads."""

    def __init__(
        self, sizes: tuple[int, ...], functions: int, rows: int, width: int, *, rngs: nnx.Rngs
    ):
        self.sizes, self.functions, self.rows = sizes, functions, rows
        shape = (functions * len(sizes) * rows, width)
        table = jax.random.normal(rngs.params(), shape) * width**-0.5
        self.table = nnx.Param(table, role="ngrams", tensor_axis=-2)

    def numbers(
        self, ids: jax.Array, positions: jax.Array, before: jax.Array | None = None
    ) -> jax.Array:
        """The rows that each symbol reads, int32 `[B, T, J]`.

        Args:
            ids: int32 `[B, T]`.
            positions: int32 `[B, T]`, the number of each symbol in its document.
            before: int32 `[B, n - 1]` for the largest n, the symbols before these, the newest
                last, those before the document being ignored; None at the start of rows.
        """
        (rows, length), most = ids.shape, max(self.sizes)
        if before is None:
            before = jnp.zeros((rows, most - 1), ids.dtype)
        codes = hashed_ids(jnp.concatenate([before, ids], axis=1))  # [B, n - 1 + T]
        back = [
            jnp.where(positions >= k, codes[:, most - 1 - k : most - 1 - k + length], 0)
            for k in range(most)
        ]
        tables = [
            floor_modulus(hash_ngrams(back, size, multiplier), self.rows)
            for multiplier in MULTIPLIERS[: self.functions]
            for size in self.sizes
        ]
        first = self.rows * jnp.arange(len(tables), dtype=jnp.int32)
        return jnp.stack(tables, axis=2) + first[None, None, :]

    def __call__(
        self,
        ids: jax.Array,
        positions: jax.Array,
        before: jax.Array | None = None,
        *,
        dtype: jnp.dtype,
    ) -> jax.Array:
        """The sums, for the arguments of `numbers`."""
        numbers = self.numbers(ids, positions, before)
        if self.chosen is not None:
            numbers = jnp.searchsorted(self.chosen, numbers)
        vectors = jnp.take(self.table[...], numbers, axis=0, mode="clip")  # [B, T, J, d]
        return vectors.sum(axis=2).astype(dtype)
