"""Where the segments of dynamic token pooling end: rules, and predictors with what trains them.

A rule is a function of the bytes; a learned kind asks a predictor at each symbol. In training,
sampled kinds (`gumbel`, `flexitokens`) draw boundaries with noise; in evaluation and generation all
learned kinds take the likelier value, so that a text has one segmentation and one probability.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.models.contract import Batch
from bytelm.patching.predictor import (
    band_loss,
    binomial_prior,
    boundary_cross_entropy,
    entropy_spikes,
    relaxed_bernoulli,
    uniforms,
)
from bytelm.patching.rules import BoundaryRule, RuleState, find_boundaries

Targets = tuple[jax.Array, jax.Array]
"""An auxiliary loss, and how many boundaries it would like to see in the batch."""


class Decision(NamedTuple):
    """Where segments are to end.

    Attributes:
        ends: bool `[B, T]`.
        numbers: the same as numbers, float32 `[B, T]`, for the gradient.
        logits: the predictor's, float32 `[B, T]`; None from a rule.
    """

    ends: jax.Array
    numbers: jax.Array
    logits: jax.Array | None


class Observed(NamedTuple):
    """What the loss of a predictor may look at.

    Attributes:
        logits: of boundaries, float32 `[B, T]`.
        numbers: the boundaries decided, as in a `Decision`.
        counted: bool `[B, T]`, the symbols that count.
        batch: the batch.
        predictions: the model's logits of the next symbol, `[B, T, OUTPUT_SIZE]`.
    """

    logits: jax.Array
    numbers: jax.Array
    counted: jax.Array
    batch: Batch
    predictions: jax.Array


@dataclass(frozen=True)
class BoundaryConfig(Variant, name="model.boundary", small=True, key="kind"):
    """Base of the kinds. A subclass that names its `kind` is thereby registered."""

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def bytes_per_slot(self) -> float:
        """Symbols for each entry that the backbone has room for, unless the model says."""


@dataclass(frozen=True)
class RuleBoundary(BoundaryConfig):
    """Base of the kinds that follow a rule."""

    @property
    def bytes_per_slot(self) -> float:
        return 4.0

    @property
    @abc.abstractmethod
    def rule(self) -> BoundaryRule:
        """The rule, of `bytelm.patching.rules`."""

    def ends(
        self, ids: jax.Array, document_ids: jax.Array, state: RuleState | None = None
    ) -> tuple[jax.Array, RuleState]:
        """The symbols with which segments end, bool `[B, T]`, and the rule's state after them."""
        boundaries, state = find_boundaries(self.rule, ids, document_ids, state)
        return boundaries.ends, state


@dataclass(frozen=True)
class WhitespaceBoundary(RuleBoundary):
    """A segment ends with whitespace."""

    kind: ClassVar[str] = "whitespace"

    characters: Literal["whitespace", "whitespace_run", "space"] = "whitespace"
    """With each Unicode whitespace character, with the first of a run, or (as published) with each
    space byte."""

    def __post_init__(self) -> None:
        if self.characters not in ("whitespace", "whitespace_run", "space"):
            raise UserError(
                f"model.boundary.characters is {self.characters!r}; choose whitespace, "
                "whitespace_run or space."
            )

    @property
    def rule(self) -> BoundaryRule:
        return BoundaryRule(self.characters)


@dataclass(frozen=True)
class SpacelikeBoundary(RuleBoundary):
    """A segment ends with each byte at which SpaceByte opens a patch."""

    kind: ClassVar[str] = "spacelike"

    @property
    def rule(self) -> BoundaryRule:
        return BoundaryRule("spacelike")

    def ends(
        self, ids: jax.Array, document_ids: jax.Array, state: RuleState | None = None
    ) -> tuple[jax.Array, RuleState]:
        boundaries, state = find_boundaries(self.rule, ids, document_ids, state)
        return boundaries.starts, state


@dataclass(frozen=True)
class FixedBoundary(SpacelikeBoundary):
    """A segment ends with a document's first symbol, and with every `stride`-th after it."""

    kind: ClassVar[str] = "fixed"

    stride: int = 4
    """Symbols in a segment."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserError(f"model.boundary.stride is {self.stride}; it must be at least 1.")

    @property
    def rule(self) -> BoundaryRule:
        return BoundaryRule("fixed", self.stride)

    @property
    def bytes_per_slot(self) -> float:
        return max(1.0, self.stride / 1.125)


@dataclass(frozen=True)
class LearnedBoundary(BoundaryConfig):
    """Base of the kinds that a predictor decides."""

    rate: float = 0.2
    """Share of the symbols that are expected to end a segment: the predictor's probability at
    first, the mean of the prior of "gumbel", and what the room for segments follows."""
    hidden: int | None = None
    """Channels inside the predictor; None for four times the model's width."""
    weight: float = 1.0
    """Weight of the loss that keeps the boundaries in check."""
    published: bool = False
    """Reproduces two faults of the authors' code: sampled kinds draw boundaries in evaluation too,
    and supervised kinds take probabilities for logits in their loss."""

    def __post_init__(self) -> None:
        _require_rate("model.boundary.rate", self.rate)
        if self.weight < 0:
            raise UserError(f"model.boundary.weight is {self.weight}; it must be at least 0.")
        if self.hidden is not None and self.hidden < 1:
            raise UserError(f"model.boundary.hidden is {self.hidden}; it must be at least 1.")

    @property
    def bytes_per_slot(self) -> float:
        return max(1.0, 1 / (1.25 * self.rate))

    @property
    def scripts(self) -> tuple[str, ...]:
        """The scripts that batches must tell apart, in the order of their numbers."""
        return ()

    def decide(self, logits: jax.Array, noise: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The boundaries, bool `[B, T]`, and the same as numbers that may have a gradient."""
        hard = logits > 0
        return hard, jax.lax.stop_gradient(hard.astype(jnp.float32))

    def noise(
        self, keys: jax.Array | None, document_ids: jax.Array, positions: jax.Array
    ) -> jax.Array | None:
        """Uniform numbers for `decide`, `[B, T]`, or None for the likelier value.

        Args:
            keys: as in a batch.
            document_ids: int32 `[B, T]`.
            positions: int32 `[B, T]`, of each symbol in its document.
        """
        return None

    @abc.abstractmethod
    def loss(self, seen: Observed) -> Targets | None:
        """What supervises the predictor; None where the batch does not tell."""


@dataclass(frozen=True)
class SampledBoundary(LearnedBoundary):
    """Base of the kinds that draw relaxed boundaries in training."""

    temperature: float = 0.5
    """Of the relaxed Bernoulli distribution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise UserError(
                f"model.boundary.temperature is {self.temperature}; it must be above 0."
            )

    def decide(self, logits: jax.Array, noise: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return relaxed_bernoulli(logits, noise, self.temperature)

    def noise(
        self, keys: jax.Array | None, document_ids: jax.Array, positions: jax.Array
    ) -> jax.Array | None:
        if keys is None and self.published:
            keys = jnp.zeros((len(positions), 2), jnp.uint32)
            # The same for each document, so that its score does not depend on those before it.
            document_ids = jnp.ones_like(document_ids)
        return None if keys is None else uniforms(keys, document_ids, positions)


@dataclass(frozen=True)
class GumbelBoundary(SampledBoundary):
    """Learned end to end, under a binomial prior of the boundary count."""

    kind: ClassVar[str] = "gumbel"

    def loss(self, seen: Observed) -> Targets:
        prior = binomial_prior(seen.numbers, seen.counted, self.rate)
        return prior, self.rate * seen.counted.sum()


@dataclass(frozen=True)
class EntropyBoundary(LearnedBoundary):
    """Predicts where the model's own predictive entropy spikes."""

    kind: ClassVar[str] = "entropy"

    rate: float = 0.25
    """Share of the symbols that are expected to end a segment."""
    left: int = 2
    """A spike exceeds so many values before it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.left < 1:
            raise UserError(f"model.boundary.left is {self.left}; it must be at least 1.")

    def loss(self, seen: Observed) -> Targets:
        log_p = jax.nn.log_softmax(jax.lax.stop_gradient(seen.predictions))
        entropy = -(jnp.exp(log_p) * log_p).sum(axis=-1)
        spikes = entropy_spikes(entropy, seen.counted, self.left)
        loss = boundary_cross_entropy(seen.logits, spikes, seen.counted, twice=self.published)
        return loss, spikes.sum()


@dataclass(frozen=True)
class UnigramBoundary(LearnedBoundary):
    """Predicts where the pieces of a SentencePiece Unigram model end (`data.unigram`)."""

    kind: ClassVar[str] = "unigram"

    def loss(self, seen: Observed) -> Targets | None:
        ends, counted = seen.batch.boundaries, seen.counted
        if ends is None:
            return None
        loss = boundary_cross_entropy(seen.logits, ends, counted, twice=self.published)
        return loss, (ends & counted).sum()


@dataclass(frozen=True)
class Band(Checked, name="model.boundary.bands"):
    """The boundary rates that one script may have."""

    script: str
    """Its name in `data.scripts`."""
    rate: float
    """alpha, the highest."""
    deviation: float
    """sigma; `bytelm data rates` measures both on parallel text."""


@dataclass(frozen=True)
class FlexitokensBoundary(SampledBoundary):
    """Learned end to end, within a band of boundary rates (arXiv 2507.12720)."""

    kind: ClassVar[str] = "flexitokens"

    rate: float = 1 / 3
    """alpha, the highest rate of boundaries, where there are no `bands`; and the rate at first."""
    deviation: float = 0.023
    """sigma, the deviation of the rate, where there are no `bands`."""
    width: float = 3.0
    """lambda: rates down to alpha - lambda x sigma cost nothing."""
    bands: tuple[Band, ...] = ()
    """A band of its own for each script of `data.scripts`, in their order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for where, rate, deviation in self._bands:
            _require_rate(f"{where}rate", rate)
            least = rate - self.width * deviation
            if not 0 < least <= rate:
                raise UserError(
                    f"{where}deviation {deviation} puts the lowest boundary rate at {least:.3g}, "
                    f"and the highest is {rate}; choose one from 0 to below the rate over "
                    f"model.boundary.width {self.width}, for without a lower bound the boundaries "
                    "vanish."
                )

    @property
    def _bands(self) -> list[tuple[str, float, float]]:
        if not self.bands:
            return [("model.boundary.", self.rate, self.deviation)]
        return [
            (f"model.boundary.bands[{number}].", band.rate, band.deviation)
            for number, band in enumerate(self.bands)
        ]

    @property
    def bytes_per_slot(self) -> float:
        return max(1.0, 1 / (1.25 * max(rate for _, rate, _ in self._bands)))

    @property
    def scripts(self) -> tuple[str, ...]:
        return tuple(band.script for band in self.bands)

    def loss(self, seen: Observed) -> Targets | None:
        batch, counted = seen.batch, seen.counted
        if self.bands and batch.scripts is None:
            return None
        scripts = batch.scripts if self.bands else jnp.zeros_like(batch.ids)
        rates = jnp.array([rate for _, rate, _ in self._bands])
        deviations = jnp.array([deviation for _, _, deviation in self._bands])
        loss = band_loss(seen.numbers, counted, scripts, rates, rates - self.width * deviations)
        known = counted & (scripts >= 0)
        return loss, jnp.where(known, rates[jnp.maximum(scripts, 0)], 0.0).sum()


def _require_rate(where: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise UserError(f"{where} is {rate}; a share of symbols lies between 0 and 1.")
