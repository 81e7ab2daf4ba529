"""How symbols become vectors: a table, and the hashed n-grams of bytes if there are any."""

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.nn.linear import Embedding
from bytelm.nn.ngrams import NGrams
from bytelm.patching.levels import Symbols


class SymbolEmbedding(Embedding):
    """The table of symbols, with an input mixer: the embeddings of n-grams are added.

    `ngrams` stands for its tables; None for no mixer.
    """

    def __init__(
        self, size: int, width: int, ngrams: NGrams | None, *, rngs: nnx.Rngs, scale: float = 1.0
    ):
        super().__init__(size, width, rngs=rngs, scale=scale)
        self.ngrams = ngrams

    def read(self, symbols: Symbols, dtype: jnp.dtype, ids: jax.Array | None = None) -> jax.Array:
        """The vectors of symbols, `[B, T, width]`; `ids` are their rows of the table, if others."""
        x = self(symbols.ids if ids is None else ids, dtype)
        if self.ngrams is None:
            return x
        return x + self.ngrams(symbols.ids, symbols.positions, symbols.before, dtype=dtype)
