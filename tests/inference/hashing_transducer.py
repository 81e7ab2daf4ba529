"""An encoder-decoder whose logits can be told in NumPy: quick to compile, and exact.

One symbol read or written wrongly changes everything after it.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import PAD, START
from bytelm.inference.transduction import Transducer
from bytelm.models.encoder_decoder import VOCABULARY, Encoded, EncoderDecoder, Reading

TABLE = 997
DELETED = ord("x")
"""Inputs that the encoder does not keep."""


class Hashing(EncoderDecoder):
    """Logits from a table, at a hash of the inputs kept, the targets so far, and all positions."""

    def __init__(self, table):
        self.table = nnx.Param(jnp.asarray(table))

    def read(self, inputs, keys=None):
        valid = inputs != PAD
        positions = jnp.broadcast_to(jnp.arange(inputs.shape[1])[None, :], inputs.shape)
        kept = valid & (inputs != DELETED)
        return Reading(inputs[:, :, None], positions, valid, kept, jnp.zeros(inputs.shape))

    def encode(self, reading, length=None):
        short = reading.shortened(length)
        terms = (short.states[:, :, 0] + 1) * (short.positions + 1)
        return Encoded((terms * short.valid)[:, :, None], short.keys_bias)

    def start(self, encoded, max_length):
        inputs = encoded.states.sum(axis=(1, 2)) % TABLE
        zeros = jnp.zeros(len(inputs), jnp.int32)
        return {"length": zeros, "hash": zeros, "inputs": inputs, "most": zeros + max_length}

    def extend(self, ids, state, lengths):
        offsets = jnp.arange(ids.shape[1])[None, :]
        positions = state["length"][:, None] + offsets
        terms = jnp.where(offsets < lengths[:, None], (ids + 1) * (positions + 3), 0)
        hashes = (state["hash"][:, None] + jnp.cumsum(terms, axis=1)) % TABLE
        places = (hashes * (1 + state["inputs"][:, None])) % TABLE
        # A state that is too short is an error.
        room = (state["length"] + lengths <= state["most"])[:, None, None]
        logits = jnp.where(room, jnp.take(self.table[...], places, axis=0), jnp.nan)
        state = {**state, "length": state["length"] + lengths, "hash": hashes[:, -1]}
        return logits, state

    def for_decoding(self):
        return self


def plain_logits(table, text, symbols):
    """What follows START and these symbols, for an input."""
    terms = [(s + 1) * (p + 1) for p, s in enumerate([*text, 256]) if s != DELETED]
    written = [(s + 1) * (p + 3) for p, s in enumerate([START, *symbols])]
    return table[sum(written) % TABLE * (1 + sum(terms) % TABLE) % TABLE]


def random_table(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(TABLE, VOCABULARY))).astype(np.float32)


def transducer(table, **sizes):
    graphdef, params = nnx.split(Hashing(table))
    return Transducer(graphdef, nnx.to_pure_dict(params), **sizes)
