"""The interface of encoder-decoder models: inputs are read, then targets predicted.

Reading has two parts. `read` runs the first encoder blocks and marks the states that the later ones
need. `encode` runs the later blocks on rows of a length that the compiler must know; the host
chooses it from the numbers of kept states. `extend` then predicts targets byte by byte.

The symbols are those of every other family. T5's ids map to them (`T5_IDS`): id 0, its padding and
decoder start, is START; 1, end of sequence, is END; b + 3 is byte b.
"""

import abc
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.core.statistics import Ratio
from bytelm.core.vocabulary import BYTES, PAD
from bytelm.models.contract import Batch, LanguageModel, ModelConfig, ModelOutput
from bytelm.nn.attention.blockwise import MASKED

VOCABULARY = 384
"""Rows of a ByT5 checkpoint's tables; rows that are no symbol of ours are never a target."""
T5_IDS = np.concatenate([np.arange(BYTES) + 3, [1, 0, 2], np.arange(259, VOCABULARY)])
"""The T5 id of each row of our tables: the bytes, END, START, PAD (T5's "unknown"), the rest."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """Inputs after the encoder blocks that come before the shortening of rows."""

    states: jax.Array  # [B, S, d]
    positions: jax.Array  # int32 [B, S], for the biases of distances
    valid: jax.Array  # bool [B, S], false in padding
    kept: jax.Array  # bool [B, S], the valid states that shortening keeps
    gate: jax.Array  # float32 [B, S], added to the scores of each state unless rows are shortened
    deleted: jax.Array | None = None
    """Bool `[B, S]`, the inputs whose states are not kept, or are merged into an earlier one; None
    in a model that does not shorten."""
    losses: dict[str, jax.Array] = field(default_factory=dict)
    """Auxiliary losses, as in `ModelOutput`."""

    @property
    def counts(self) -> jax.Array:
        """States kept in each row, int32 `[B]`."""
        return self.kept.sum(axis=1)

    @property
    def keys_bias(self) -> jax.Array:
        """Added to the scores of each state, float32 `[B, S]`: the gate, or MASKED in padding."""
        return jnp.where(self.valid, self.gate, MASKED)

    def shortened(self, length: int) -> "Reading":
        """The kept states only, in order, in rows of `length`, at least the largest of `counts`."""
        index = jnp.where(self.kept, jnp.cumsum(self.kept, axis=1) - 1, length)  # [B, S]
        rows = jnp.arange(len(index))[:, None]
        sources = jnp.broadcast_to(jnp.arange(index.shape[1])[None, :], index.shape)
        source = jnp.zeros((len(index), length), jnp.int32)
        source = source.at[rows, index].set(sources, mode="drop")  # [B, length]
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
    """The encoder's outputs."""

    states: jax.Array  # [B, L, d]
    bias: jax.Array  # float32 [B, L], added to the scores of each state; MASKED in padding
    losses: dict[str, jax.Array] = field(default_factory=dict)
    """Auxiliary losses, as in `ModelOutput`."""


class EncoderDecoder(LanguageModel):
    """A probability for the next target symbol given the inputs and the targets before it."""

    def read(self, inputs: jax.Array, keys: jax.Array | None = None) -> Reading:
        """Runs the encoder up to where rows are shortened; arguments are as in `Batch`."""
        raise NotImplementedError

    def encode(self, reading: Reading, length: int | None = None) -> Encoded:
        """Runs the rest of the encoder.

        Rows are shortened to `length`, at least the largest of the counts; None removes nothing
        and adds the gate to the scores.
        """
        raise NotImplementedError

    def decode(self, ids: jax.Array, encoded: Encoded) -> jax.Array:
        """Logits float32 `[B, T, VOCABULARY]` after each of the decoder's symbols `[B, T]`."""
        raise NotImplementedError

    def start(self, encoded: Encoded, max_length: int) -> Any:
        """The decoder's initial state for these outputs of the encoder."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> ModelOutput:
        """Logits `[B, T, VOCABULARY]`; states are removed only if `batch.keys` is None."""
        reading = self.read(batch.inputs, batch.keys)
        soft = batch.keys is not None
        encoded = self.encode(reading, None if soft else batch.inputs.shape[1])
        return ModelOutput(
            self.decode(batch.ids, encoded),
            auxiliary_losses={**reading.losses, **encoded.losses},
            deleted=reading.deleted,
        )

    def init_state(self, batch_size: int, max_length: int) -> Any:
        """The state of rows with no input."""
        inputs = jnp.full((batch_size, 1), PAD, jnp.int32)
        return self.start(self.encode(self.read(inputs), 1), max_length)


ControllerState = dict[str, jax.Array]


@dataclass(frozen=True)
class RatioController:
    """A proportional-integral controller (MrT5, arXiv 2410.20771, section 3.3).

    With the error e = target - deleted share, `P = 0.9 P + 0.1 p e`, `I = I + i e`, and the loss's
    weight is `max(0, P + I)`. Both parts start at 0 and are not bounded. It moves once in each
    optimiser step, on the counts of the whole batch; the step's own loss still has the old weight.
    (The authors' code moves it once for each device and micro-batch, and in evaluation too.)
    """

    target: float
    """Share of the inputs to delete."""
    proportional: float = 0.5
    """p."""
    integral: float = 1e-5
    """i; the command in the authors' README has 5e-5."""

    def init(self) -> ControllerState:
        """The state before the first step."""
        return {"proportional": jnp.zeros(()), "integral": jnp.zeros(())}

    def weight(self, state: ControllerState) -> jax.Array:
        """The weight of the loss in the next step."""
        return jnp.maximum(0.0, state["proportional"] + state["integral"])

    def update(self, state: ControllerState, deleted: Ratio) -> ControllerState:
        """The state after a step in which this share of the inputs was deleted."""
        error = self.target - deleted.total / jnp.maximum(deleted.count, 1)
        return {
            "proportional": 0.9 * state["proportional"] + 0.1 * self.proportional * error,
            "integral": state["integral"] + self.integral * error,
        }


class EncoderDecoderConfig(ModelConfig):
    """Base of the configs of encoder-decoder families."""

    @property
    def controllers(self) -> dict[str, RatioController]:
        """Controllers of the weights of auxiliary losses, by the names of the losses."""
        return {}

    @abc.abstractmethod
    def encoder_flops(self, length: float, kept: float) -> float:
        """FLOPs of the encoder for a row of `length` inputs, `kept` of whose states it keeps."""

    @abc.abstractmethod
    def forward_flops(
        self, sequence_length: int, patches: float | None = None, *, target_length: int = 0
    ) -> float:
        """As in `ModelConfig`, for a row of S = `sequence_length` inputs and T targets.

        `patches` is the number of states that the encoder keeps with hard deletion; None for the
        number that training computes.
        """
