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

    def init_state(self, batch_size, max_length):
        zeros = jnp.zeros(batch_size, jnp.int32)
        return {"hash": zeros, "length": zeros, "most": zeros + max_length}

    def extend(self, ids, state, lengths):
        def read(hashed, symbols):
            index, column = symbols
            hashed = jnp.where(index < lengths, (hashed * 31 + column + 1) % TABLE, hashed)
            return hashed, hashed

        steps = jnp.arange(ids.shape[1]), ids.T
        last, hashes = jax.lax.scan(read, state["hash"], steps)
        # A state that is too short is an error.
        room = (state["length"] + lengths <= state["most"])[:, None, None]
        logits = jnp.where(room, jnp.take(self.table[...], hashes.T, axis=0), jnp.nan)
        return logits, {**state, "hash": last, "length": state["length"] + lengths}

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
