"""A language model over tokens whose logits can be told in NumPy: quick to compile, and exact.

One symbol read wrongly, or in a wrong place, changes everything after it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import Vocabulary
from bytelm.models.contract import LanguageModel

TABLE = 997


class Hashing(LanguageModel):
    """Logits from a table, at a hash of the symbols read so far."""

    def __init__(self, table):
        self.table = nnx.Param(jnp.asarray(table))

    def init_cache(self, batch_size, max_length):
        zeros = jnp.zeros(batch_size, jnp.int32)
        return {"hash": zeros, "length": zeros, "most": zeros + max_length}

    def extend(self, ids, cache, lengths):
        def read(state, symbols):
            index, column = symbols
            state = jnp.where(index < lengths, (state * 31 + column + 1) % TABLE, state)
            return state, state

        steps = jnp.arange(ids.shape[1]), ids.T
        state, states = jax.lax.scan(read, cache["hash"], steps)
        # A cache that is too short would be no cache at all.
        room = (cache["length"] + lengths <= cache["most"])[:, None, None]
        logits = jnp.where(room, jnp.take(self.table[...], states.T, axis=0), jnp.nan)
        return logits, {**cache, "hash": state, "length": cache["length"] + lengths}

    def reorder(self, cache, rows):
        return {name: leaf[rows] for name, leaf in cache.items()}

    def put(self, cache, rows, new):
        return {name: leaf.at[rows].set(new[name], mode="drop") for name, leaf in cache.items()}

    def for_decoding(self):
        return self


def plain_log_p(table, symbols):
    """Float64 log-probabilities of what follows the symbols."""
    state = 0
    for symbol in symbols:
        state = (state * 31 + symbol + 1) % TABLE
    logits = table[state].astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def random_table(size, seed=0, scale=1.5):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(TABLE, Vocabulary(size).outputs))).astype(np.float32)
