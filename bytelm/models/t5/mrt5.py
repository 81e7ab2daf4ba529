"""MrT5 (arXiv 2410.20771): a ByT5 whose encoder shortens its rows after a few blocks.

In training nothing is removed ("soft deletion"). Each state's gate, from 0 to -30, is added to its
scores as a key, in the encoder blocks after the gate and in the decoder's attention to the encoder.
In evaluation and generation, states with a gate below -15 are removed ("hard deletion"); the others
keep their original positions and have no gate. The two differ slightly; evaluation reports both.

`shortening` is the delete gate, or one of the paper's baselines (`bytelm.models.t5.shortening`).

Differences from the authors' code: a row whose states would all be deleted keeps the one with the
most open gate; theirs fails. The penalty on scores is a mean over all queries, and all keys but
padding. `RatioController` describes how their controller differs.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.models.encoder_decoder import Encoded, RatioController, Reading
from bytelm.models.t5.blocks import T5Block, T5Context
from bytelm.models.t5.byt5 import ByT5, ByT5Config
from bytelm.models.t5.shortening import GateShortening, ShorteningConfig


@dataclass(frozen=True)
class MrT5Config(ByT5Config):
    """An MrT5; the defaults are the published small one, without a target."""

    family: ClassVar[str] = "mrt5"

    gate_depth: int = 3
    """Blocks of the encoder before the rows are shortened."""
    shortening: ShorteningConfig = field(default_factory=GateShortening)
    """How rows are shortened."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = f"it must be from 0 to below model.encoder_depth ({self.encoder_depth})"
        self.require(rule, lambda x: 0 <= x < self.encoder_depth, "gate_depth")

    @property
    def controllers(self) -> dict[str, RatioController]:
        return self.shortening.controllers

    def build(self, rngs: nnx.Rngs) -> "MrT5":
        return MrT5(self, rngs=rngs)

    def encoder_flops(self, length: float, kept: float) -> float:
        before = self.block(self.gate_depth, cross=False).forward_flops(length)
        after = self.block(self.encoder_depth - self.gate_depth, cross=False)
        shortener = self.shortening.forward_flops(self.width, length)
        return before + shortener + after.forward_flops(kept)

    def training_slots(self, length: int) -> int:
        return self.shortening.slots(length)


class MrT5(ByT5):
    """The model that an `MrT5Config` builds."""

    config: MrT5Config

    def __init__(self, config: MrT5Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.shortener = config.shortening.build(config.width, rngs)

    def read(self, inputs: jax.Array, keys: jax.Array | None = None) -> Reading:
        reading = super().read(inputs)
        context = T5Context(self.encoder_bias.whole_rows(inputs.shape[1]), reading.keys_bias)
        states = self.encoder(reading.states, None, shared=context, last=self.config.gate_depth)
        return self.shortener(replace(reading, states=states), inputs, keys)

    def encode(self, reading: Reading, length: int | None = None) -> Encoded:
        if length is None:
            windows = self.encoder_bias.whole_rows(reading.states.shape[1])
        else:
            reading = reading.shortened(length)
            windows = self.encoder_bias.between(reading.positions, reading.positions)
        context = T5Context(windows, reading.keys_bias)
        gate_depth, penalty = self.config.gate_depth, self.config.shortening.score_penalty
        if length is not None or penalty is None:
            states = self.encoder(reading.states, None, shared=context, first=gate_depth)
            return Encoded(self.encoder_norm(states), reading.keys_bias)
        limit, weight = penalty

        def step(block: T5Block, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            states, excess = carry
            excess += block.excess(states, context, limit)
            return block(states, None, None, context), excess

        carry = reading.states, jnp.zeros(())
        states, excess = self.encoder.fold(step, carry, first=gate_depth)
        loss = weight * excess / (self.config.encoder_depth - gate_depth)
        return Encoded(self.encoder_norm(states), reading.keys_bias, {"scores": loss})
