"""What encoder-decoder models are to the rest of bytelm: inputs are read, then targets predicted.

Reading has two parts. `read` says which of an input's positions the later encoder blocks need;
`encode` runs them on just as many slots as those take, a number that the host can choose from
the counts and the compiler must know. `extend` then predicts targets byte by byte.

The symbols are those of every other family. What a checkpoint of T5 calls ids are these: pad and
decoder start 0 is START, end of sequence 1 is END, byte b + 3 is b, and so on (`T5_IDS`).
"""

import abc
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.core.vocabulary import BYTES, PAD
from bytelm.models.contract import Batch, LanguageModel, ModelConfig, ModelOutput
from bytelm.models.t5.controller import RatioController
from bytelm.nn.attention.blockwise import MASKED

VOCABULARY = 384
"""Rows of a ByT5 checkpoint's tables; ids that are no symbol of ours are never a target."""
T5_IDS = np.concatenate([np.arange(BYTES) + 3, [1, 0, 2], np.arange(259, VOCABULARY)])
"""The T5 id of each row of our tables: the bytes, END, START, PAD (T5's "unknown"), the rest."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """Inputs read up to where they may be shortened.

    Attributes:
        states: `[B, S, d]`.
        positions: int32 `[B, S]`, for the biases of distances.
        valid: bool `[B, S]`, the states that there are.
        kept: bool `[B, S]`, those of them that are left once the row is shortened.
        gate: float32 `[B, S]`, added to the scores of each state for as long as none is removed.
        deleted: bool `[B, S]`, the inputs whose states are not kept, or are not the first of those
            merged into one; None in a model that does not shorten.
        losses: auxiliary losses, as in `ModelOutput`.
    """

    states: jax.Array
    positions: jax.Array
    valid: jax.Array
    kept: jax.Array
    gate: jax.Array
    deleted: jax.Array | None = None
    losses: dict[str, jax.Array] = field(default_factory=dict)

    @property
    def counts(self) -> jax.Array:
        """States left in each row, int32 `[B]`."""
        return self.kept.sum(axis=1)

    @property
    def keys_bias(self) -> jax.Array:
        """What each state's scores get as a key: the gate, or MASKED where there is none."""
        return jnp.where(self.valid, self.gate, MASKED)

    def shortened(self, length: int) -> "Reading":
        """The kept states alone, in order, at the front of `length` slots.

        States beyond the last slot are dropped: choose at least the largest of `counts`.
        """
        slots = jnp.where(self.kept, jnp.cumsum(self.kept, axis=1) - 1, length)
        rows = jnp.arange(len(slots))[:, None]
        places = jnp.broadcast_to(jnp.arange(slots.shape[1])[None, :], slots.shape)
        source = jnp.zeros((len(slots), length), jnp.int32)
        source = source.at[rows, slots].set(places, mode="drop")
        valid = jnp.arange(length)[None, :] < self.counts[:, None]
        return replace(
            self,
            states=jnp.take_along_axis(self.states, source[:, :, None], axis=1),
            positions=jnp.take_along_axis(self.positions, source, axis=1),
            valid=valid,
            kept=valid,
            gate=jnp.zeros(valid.shape),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoded:
    """What a decoder attends to.

    Attributes:
        states: `[B, L, d]`, the encoder's last.
        bias: float32 `[B, L]`, added to the scores of each; MASKED where there is none.
        losses: auxiliary losses, as in `ModelOutput`.
    """

    states: jax.Array
    bias: jax.Array
    losses: dict[str, jax.Array] = field(default_factory=dict)


class EncoderDecoder(LanguageModel):
    """A probability for the next target symbol given the inputs and the targets before it."""

    def read(self, inputs: jax.Array, keys: jax.Array | None = None) -> Reading:
        """Runs the encoder up to where rows are shortened.

        Args:
            inputs: int32 `[B, S]`, PAD behind each row's last symbol.
            keys: as in `Batch`.
        """
        raise NotImplementedError

    def encode(self, reading: Reading, length: int | None = None) -> Encoded:
        """Runs the rest of the encoder.

        Args:
            reading: what `read` returned.
            length: slots for the states that are kept, at least the largest of its counts; None
                removes none, and adds the gate to the scores instead.
        """
        raise NotImplementedError

    def decode(self, ids: jax.Array, encoded: Encoded) -> jax.Array:
        """Logits float32 `[B, T, VOCABULARY]` after each of the decoder's symbols `[B, T]`."""
        raise NotImplementedError

    def start(self, encoded: Encoded, max_length: int) -> Any:
        """The decoder's state, as from `LanguageModel.init_state`, for rows that were encoded."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> ModelOutput:
        """Logits `[B, T, VOCABULARY]`; rows are shortened in fact where `batch.keys` is None."""
        reading = self.read(batch.inputs, batch.keys)
        soft = batch.keys is not None
        encoded = self.encode(reading, None if soft else batch.inputs.shape[1])
        return ModelOutput(
            self.decode(batch.ids, encoded),
            auxiliary_losses={**reading.losses, **encoded.losses},
            deleted=reading.deleted,
        )

    def init_state(self, batch_size: int, max_length: int) -> Any:
        """The state of rows without input."""
        inputs = jnp.full((batch_size, 1), PAD, jnp.int32)
        return self.start(self.encode(self.read(inputs), 1), max_length)


class EncoderDecoderConfig(ModelConfig):
    """Base of the configs of encoder-decoder families."""

    @property
    def controllers(self) -> dict[str, RatioController]:
        """What sets the weights of auxiliary losses in training, by the losses' names."""
        return {}

    @abc.abstractmethod
    def encoder_flops(self, length: float, kept: float) -> float:
        """Of the encoder for a row of `length` inputs, of whose states so many are kept."""

    @abc.abstractmethod
    def forward_flops(
        self, sequence_length: int, patches: float | None = None, *, target_length: int = 0
    ) -> float:
        """As in `ModelConfig`, for a row of S = `sequence_length` inputs and T targets.

        `patches` are the states that the encoder keeps, for what hard deletion needs; None for
        those that training computes.
        """
