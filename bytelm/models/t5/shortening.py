"""How an encoder shortens its rows: MrT5's delete gate, and the baselines of its paper.

A shortener reads the states between two blocks of an encoder and decides which of them the later
blocks need. Three kinds (`gate`, `random`, `fixed`) delete states; the remaining ones keep their
values and positions. Two kinds (`boundary`, `convolution`) pool states and number the results from
0. Every row with any states keeps at least one.

Shapes: B = rows, S = symbols read, d = channels.
"""

import abc
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.core.vocabulary import END, PAD, START
from bytelm.models.encoder_decoder import RatioController, Reading
from bytelm.nn.linear import Dense
from bytelm.nn.norms import RMSNorm
from bytelm.patching.ended import after_ends, find_ended, gather_mean
from bytelm.patching.patches import positions_in_run
from bytelm.patching.predictor import BoundaryPredictor, binomial_prior, relaxed_bernoulli, uniforms

SCORE_LIMIT = 5.0
"""Attention scores may be this large without a penalty."""
SEPARATORS = tuple(b" \t\n\v\f\r")
"""Bytes that end a patch of fixed deletion; END ends one too."""


class Shortener(nnx.Module):
    """Shortens rows; a `ShorteningConfig` builds it."""

    def __call__(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> Reading:
        """The reading, none of whose states is removed yet, with the kept ones marked or pooled.

        The other arguments are as in a batch.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ShorteningConfig(Variant, name="model.shortening", small=True, key="kind"):
    """Base of the kinds. A subclass with a `kind` is registered under it."""

    kind: ClassVar[str]

    @property
    def controllers(self) -> dict[str, RatioController]:
        """Controllers of the weights of losses, by the losses' names."""
        return {}

    @property
    def score_penalty(self) -> tuple[float, float] | None:
        """Limit and weight of the penalty on later blocks' scores in training; None for none."""
        return None

    def slots(self, length: int) -> int:
        """States that training computes for a row of `length` inputs, after it is shortened."""
        return length

    def forward_flops(self, width: int, length: float) -> float:
        """Matrix-product FLOPs of the shortener itself, for a row of `length` inputs."""
        return 0.0

    @abc.abstractmethod
    def build(self, width: int, rngs: nnx.Rngs) -> Shortener:
        """The shortener, with fresh parameters."""


@dataclass(frozen=True)
class GateShortening(ShorteningConfig):
    """MrT5's delete gate."""

    kind: ClassVar[str] = "gate"

    target: float | None = None
    """Share of the inputs to delete, which a controller aims at; None for a fixed `weight`."""
    weight: float = 0.0
    """Weight of the mean gate in the loss, if there is no target."""
    proportional: float = 0.5
    """Proportional gain of the controller."""
    integral: float = 1e-5
    """Integral gain of the controller."""
    floor: float = -30.0
    """Value of a closed gate, added to attention scores; a state is deleted below half of it."""
    bias: float = 1.0
    """The gate's initial bias. At 1 a fresh gate deletes about a quarter, and only the loss of the
    targets opens it again; at 3 it deletes a fiftieth, so a target below a quarter can be met."""
    noise: bool = False
    """Whether training adds Gumbel noise to the gate's logits."""
    score_weight: float = 0.0
    """Weight of the penalty on attention scores above 5 in the blocks after the gate, which could
    outweigh it; the authors train from scratch with 0.5."""

    def __post_init__(self) -> None:
        self.require_share("target")
        if self.target is not None and self.weight:
            raise UserError(
                f"model.shortening.target is {self.target} and its weight {self.weight}; give "
                "the ratio to aim at or the weight of the gate, not both."
            )
        gains = "proportional", "integral", "score_weight"
        self.require("it must be at least 0", lambda x: x >= 0, *gains)
        self.require("it must be below 0", lambda x: x < 0, "floor")

    @property
    def controllers(self) -> dict[str, RatioController]:
        if self.target is None:
            return {}
        return {"gate": RatioController(self.target, self.proportional, self.integral)}

    @property
    def score_penalty(self) -> tuple[float, float] | None:
        return (SCORE_LIMIT, self.score_weight) if self.score_weight else None

    def forward_flops(self, width: int, length: float) -> float:
        return 2.0 * length * width

    def build(self, width: int, rngs: nnx.Rngs) -> "DeleteGate":
        return DeleteGate(self, width, rngs=rngs)


class DeleteGate(Shortener):
    """`G = floor * sigmoid(-(w RMSNorm(h) + b))`: 0 keeps a state, `floor` hides it from queries.

    Padding has a closed gate, and so has START, the published padding id.
    """

    def __init__(self, config: GateShortening, width: int, *, rngs: nnx.Rngs):
        self.config = config
        self.norm = RMSNorm(width)
        limit = (6 / (width + 1)) ** 0.5
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), (width,), minval=-1) * limit, role="gate"
        )
        self.bias = nnx.Param(jnp.full((), config.bias, jnp.float32), role="bias")

    def logits(self, states: jax.Array) -> jax.Array:
        """Logits of keeping each state, float32 `[B, S]`."""
        # A threshold decides on these, so they are computed in float32 from float32 weights.
        normed = self.norm(states.astype(jnp.float32))
        return normed @ self.kernel[...].astype(jnp.float32) + self.bias[...]

    def __call__(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> Reading:
        config, floor = self.config, self.config.floor
        logits = self.logits(reading.states)
        if keys is not None and config.noise:
            noise = uniforms(keys, jnp.zeros_like(inputs), reading.positions)
            logits = logits - jnp.log(-jnp.log(jnp.clip(noise, 1e-7, 1 - 1e-7)))
        counted = reading.valid & (inputs != START)
        gate = jnp.where(counted, floor * jax.nn.sigmoid(-logits), floor)
        count = jnp.maximum(counted.sum(), 1)
        mean = jnp.where(counted, gate, 0.0).sum() / count
        losses = {"gate": mean if config.target is not None else config.weight * mean}
        found = _deleting(reading, counted, gate > floor / 2, logits)
        return replace(found, gate=gate, losses=losses)


def _deleting(reading: Reading, counted: jax.Array, wanted: jax.Array, rank: jax.Array) -> Reading:
    """The reading with the wanted states kept, or in a row without any the one ranked highest."""
    none = ~(wanted & reading.valid).any(axis=1, keepdims=True)  # [B, 1]
    highest = jnp.where(reading.valid, rank, -jnp.inf).argmax(axis=1)  # [B]
    first = jnp.arange(rank.shape[1])[None, :] == highest[:, None]  # [B, S]
    kept = reading.valid & (wanted | (none & first))
    return replace(reading, kept=kept, deleted=counted & ~kept)


@dataclass(frozen=True)
class DeletingShortening(ShorteningConfig):
    """Base of the baselines that delete a share of the inputs, without parameters."""

    ratio: float = 0.5
    """Share of the inputs to delete."""

    def __post_init__(self) -> None:
        self.require_share("ratio")

    def build(self, width: int, rngs: nnx.Rngs) -> "Deletion":
        return Deletion(self)

    @abc.abstractmethod
    def wanted(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> jax.Array:
        """The states to keep, bool `[B, S]`; arguments as in `Shortener`."""


class Deletion(Shortener):
    """Deletion without a gate: deleted states are hidden in training too."""

    def __init__(self, config: DeletingShortening):
        self.config = config

    def __call__(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> Reading:
        wanted = self.config.wanted(reading, inputs, keys)
        found = _deleting(reading, reading.valid, wanted, jnp.zeros(wanted.shape))
        return replace(found, valid=found.kept)


@dataclass(frozen=True)
class RandomShortening(DeletingShortening):
    """A baseline: each state is deleted with the same probability.

    In evaluation a row's draw depends only on its inputs, so it is the same each time.
    """

    kind: ClassVar[str] = "random"

    def wanted(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> jax.Array:
        keys = _content_keys(inputs, reading.positions) if keys is None else keys
        return uniforms(keys, jnp.zeros_like(inputs), reading.positions) >= self.ratio


def _content_keys(inputs: jax.Array, positions: jax.Array) -> jax.Array:
    """A key for each row that depends on its inputs, uint32 `[B, 2]`."""
    valid = (inputs != PAD).astype(jnp.uint32)
    odd = positions.astype(jnp.uint32) * 2 + 1
    mixed = (inputs.astype(jnp.uint32) + 1) * odd * jnp.uint32(2654435761)
    mixed = (mixed ^ (mixed >> 15)) * valid  # [B, S]
    return jnp.stack([mixed.sum(axis=1), (mixed * mixed).sum(axis=1)], axis=1)


@dataclass(frozen=True)
class FixedShortening(DeletingShortening):
    """A baseline: in each patch, which a whitespace byte ends, the last bytes are deleted.

    The first `ceil((1 - ratio) length)` bytes are kept.
    """

    kind: ClassVar[str] = "fixed"

    def wanted(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> jax.Array:
        ends = jnp.isin(inputs, jnp.array([*SEPARATORS, END]))
        patch = jnp.cumsum(ends, axis=1) - ends  # [B, S]
        count = jax.vmap(lambda valid, patch: jnp.zeros(len(patch) + 1).at[patch].add(valid))
        lengths = jnp.take_along_axis(count(reading.valid, patch), patch, axis=1)  # [B, S]
        # A little less, so that rounding does not keep one more than the formula.
        return positions_in_run(patch) < jnp.ceil((1 - self.ratio) * lengths - 1e-4)


@dataclass(frozen=True)
class BoundaryShortening(ShorteningConfig):
    """The boundary predictor baseline (BP): states are pooled to the means of learned patches."""

    kind: ClassVar[str] = "boundary"

    rate: float = 0.2
    """Boundaries per symbol that the binomial prior expects."""
    temperature: float = 0.5
    """Of the relaxed Bernoulli distribution that boundaries are sampled from in training."""
    weight: float = 1.0
    """Weight of the prior in the loss."""

    def __post_init__(self) -> None:
        self.require_share("rate")
        self.require("it must be above 0", lambda x: x > 0, "temperature")

    def forward_flops(self, width: int, length: float) -> float:
        return 2.0 * length * width * (width + 1)

    def build(self, width: int, rngs: nnx.Rngs) -> "BoundaryPooling":
        return BoundaryPooling(self, width, rngs=rngs)


class BoundaryPooling(Shortener):
    """Pools patches that end where a predictor says, or with the row's last symbol."""

    def __init__(self, config: BoundaryShortening, width: int, *, rngs: nnx.Rngs):
        self.config = config
        first = 1 / (1 + math.e)  # the authors' bias of -1
        self.predictor = BoundaryPredictor(width, width, rate=first, relu=False, rngs=rngs)

    def __call__(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> Reading:
        config, valid = self.config, reading.valid
        logits = self.predictor(reading.states)
        zeros = jnp.zeros_like(inputs)
        noise = None if keys is None else uniforms(keys, zeros, reading.positions)
        ends, numbers = relaxed_bernoulli(logits, noise, config.temperature)
        last = valid & ~jnp.pad(valid[:, 1:], ((0, 0), (0, 1)))
        patches = find_ended(
            (ends | last) & valid,
            valid.astype(jnp.int32),
            inputs.shape[1],
            first=jnp.zeros_like(valid),
        )
        exists = patches.document_ids > 0
        pooled = gather_mean(reading.states, numbers, patches, "published")
        return replace(
            reading,
            states=pooled.astype(reading.states.dtype),
            valid=exists,
            kept=exists,
            deleted=valid & ~after_ends(patches.boundaries, valid) & (reading.positions > 0),
            losses={"boundaries": config.weight * binomial_prior(numbers, valid, config.rate)},
        )


@dataclass(frozen=True)
class ConvolutionShortening(ShorteningConfig):
    """The convolution baseline (CP): a learned linear map makes one state of every few."""

    kind: ClassVar[str] = "convolution"

    stride: int = 4
    """States that become one."""

    def __post_init__(self) -> None:
        self.require("it must be at least 2", lambda x: x >= 2, "stride")

    def slots(self, length: int) -> int:
        return -(-length // self.stride)

    def forward_flops(self, width: int, length: float) -> float:
        return 2.0 * math.ceil(length / self.stride) * self.stride * width * width

    def build(self, width: int, rngs: nnx.Rngs) -> "ConvolutionPooling":
        return ConvolutionPooling(self, width, rngs=rngs)


class ConvolutionPooling(Shortener):
    """A convolution whose kernel is as wide as its stride."""

    def __init__(self, config: ConvolutionShortening, width: int, *, rngs: nnx.Rngs):
        self.config = config
        self.projection = Dense(
            config.stride * width, width, rngs=rngs, bias=True, role="projection"
        )

    def __call__(self, reading: Reading, inputs: jax.Array, keys: jax.Array | None) -> Reading:
        stride, (rows, length, width) = self.config.stride, reading.states.shape
        count = -(-length // stride)
        states = jnp.where(reading.valid[:, :, None], reading.states, 0)
        states = jnp.pad(states, ((0, 0), (0, count * stride - length), (0, 0)))
        pooled = self.projection(states.reshape(rows, count, stride * width))
        valid = jnp.pad(reading.valid, ((0, 0), (0, count * stride - length)))
        valid = valid.reshape(rows, count, stride).any(axis=2)
        return replace(
            reading,
            states=pooled,
            positions=reading.positions[:, :count],
            valid=valid,
            kept=valid,
            gate=reading.gate[:, :count],
            deleted=reading.valid & (reading.positions % stride != 0),
        )
