"""Learned segmenters: a predictor reads each byte's state; its training differs between kinds.

In training, `gumbel` and `flexitokens` draw boundaries with noise; in evaluation and generation all
kinds take the likelier value, so that a text has one segmentation and one probability. A learned
boundary tends to lie at the symbol after which the text is hard to predict. A patch starts at it or
ends with it, depending on the family; where patches start, a document's first symbol starts one.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError
from bytelm.core.losses import AuxiliaryLoss
from bytelm.core.statistics import Ratio, Statistic
from bytelm.nn.norms import NORMS, NormKind
from bytelm.patching.patches import positions_in_run
from bytelm.patching.predictor import (
    BoundaryPredictor,
    band_loss,
    binomial_prior,
    boundary_cross_entropy,
    entropy_spikes,
    relaxed_bernoulli,
    uniforms,
)
from bytelm.patching.rules import find_edges
from bytelm.patching.segmenter import Boundaries, Needs, Segmenter, SegmenterConfig, Supervision

RATE = Statistic("boundaries/rate", "share")
"""Share of the symbols that are boundaries."""
TARGET = Statistic("boundaries/target", "share")
"""The share at which their loss is least."""
PRECISION = Statistic("boundaries/precision", "share")
"""Share of the boundaries that are whitespace."""
RECALL = Statistic("boundaries/recall", "share")
"""Share of the whitespace that is a boundary."""
F1 = Statistic("boundaries/f1", "share")
"""Harmonic mean of precision and recall."""

COLLAPSED = (0.005, 0.9)
"""Below and above these rates learned boundaries have collapsed."""


def loss_name(level: int) -> str:
    """The name of the own loss of a segmenter at a level, in `ModelOutput.auxiliary_losses`."""
    return "boundaries" if level == 1 else f"boundaries/level_{level}"


Target = tuple[jax.Array, jax.Array]
"""A loss, and the number of boundaries in the batch that it aims at."""


class LearnedSegmenter(Segmenter):
    """Boundaries by a predictor. Its carry is int32 `[B]`, the symbols read."""

    def __init__(
        self,
        config: "LearnedPatches",
        width: int,
        needs: Needs,
        *,
        norm: NormKind | None,
        relu: bool,
        rngs: nnx.Rngs,
    ):
        self.config, self.mark = config, needs.mark
        self.norm = None if norm is None else NORMS[norm](width)
        hidden = config.hidden or 4 * width
        self.predictor = BoundaryPredictor(width, hidden, rate=config.rate, relu=relu, rngs=rngs)

    def __call__(
        self,
        states: jax.Array | None,
        ids: jax.Array,
        document_ids: jax.Array,
        carry: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[Boundaries, jax.Array]:
        assert states is not None
        carry = jnp.zeros((len(ids),), jnp.int32) if carry is None else carry
        first_document = document_ids == document_ids[:, :1]  # [B, T]
        positions = positions_in_run(document_ids)
        positions += jnp.where(first_document, carry[:, None], 0)
        logits = self.predictor(states if self.norm is None else self.norm(states))  # [B, T]
        hard, values = self.config.decide(logits, keys, document_ids, positions)
        if self.mark == "start":
            hard, values = hard | (positions == 0), jnp.where(positions == 0, 1.0, values)
        valid = document_ids > 0
        carry += (jnp.cumprod(first_document, axis=1) * valid).sum(axis=1)
        return Boundaries(hard & valid, values, logits), carry

    def init_carry(self, rows: int, length: int, dtype: jnp.dtype) -> jax.Array:
        return jnp.zeros((rows,), jnp.int32)

    def supervise(
        self, boundaries: Boundaries, seen: Supervision
    ) -> tuple[dict[str, AuxiliaryLoss], tuple[Ratio, ...]]:
        """The loss `boundaries`; the rate of boundaries, and their agreement with whitespace."""
        statistics = statistics_at(boundaries.hard, seen)
        target = self.config.loss(boundaries, seen)
        if target is None:
            return {}, statistics
        loss, wanted = target
        ratios = (*statistics, TARGET.at(seen.level)(wanted, seen.counted.sum()))
        return {loss_name(seen.level): self.config.weight * loss}, ratios


@dataclass(frozen=True)
class LearnedPatches(SegmenterConfig):
    """Base of the kinds that a predictor decides."""

    module: ClassVar[type[Any]] = LearnedSegmenter
    reads_states: ClassVar[bool] = True

    rate: float = 0.2
    """Expected share of the symbols that are boundaries. It sets the predictor's first probability,
    the mean of the prior of "gumbel", and the default number of slots."""
    hidden: int | None = None
    """Channels inside the predictor; None for four times the model's width."""
    weight: float = 1.0
    """Weight of the boundaries' own loss."""
    published: bool = False
    """Reproduces two faults of the authors' code: sampled kinds draw boundaries in evaluation too,
    and supervised kinds take probabilities for logits in their loss."""

    def check_values(self, where: str) -> None:
        self.require_share("rate", where=where)
        self.require("it must be at least 0", lambda x: x >= 0, "weight", where=where)
        self.require_positive("hidden", where=where)

    @property
    def default_bytes_per_slot(self) -> float:
        return max(1.0, 1 / (1.25 * self.rate))

    def forward_flops(self, width: int, length: float) -> float:
        return 2.0 * length * (self.hidden or 4 * width) * (width + 1)

    def decide(
        self, logits: jax.Array, keys: jax.Array | None, document_ids: jax.Array, positions: Any
    ) -> tuple[jax.Array, jax.Array]:
        """The boundaries, bool `[B, T]`, and the same as numbers that may have a gradient.

        `positions` int32 `[B, T]` are those of the symbols in their documents; the other arguments
        are as in a batch.
        """
        hard = logits > 0
        return hard, jax.lax.stop_gradient(hard.astype(jnp.float32))

    def cross_entropy(
        self, boundaries: Boundaries, targets: jax.Array, counted: jax.Array
    ) -> jax.Array:
        """The loss of boundaries that have targets, bool `[B, T]`."""
        assert boundaries.logits is not None
        return boundary_cross_entropy(boundaries.logits, targets, counted, twice=self.published)

    @abc.abstractmethod
    def loss(self, boundaries: Boundaries, seen: Supervision) -> Target | None:
        """The predictor's loss; None if the batch does not have its targets."""


@dataclass(frozen=True)
class SampledPatches(LearnedPatches):
    """Base of the kinds that draw relaxed boundaries in training."""

    needs_gradient: ClassVar[bool] = True

    temperature: float = 0.5
    """Of the relaxed Bernoulli distribution."""

    def check_values(self, where: str) -> None:
        super().check_values(where)
        self.require("it must be above 0", lambda x: x > 0, "temperature", where=where)

    def decide(
        self, logits: jax.Array, keys: jax.Array | None, document_ids: jax.Array, positions: Any
    ) -> tuple[jax.Array, jax.Array]:
        if keys is None and self.published:
            keys = jnp.zeros((len(positions), 2), jnp.uint32)
            # The same for each document, so that its score does not depend on those before it.
            document_ids = jnp.ones_like(document_ids)
        noise = None if keys is None else uniforms(keys, document_ids, positions)
        return relaxed_bernoulli(logits, noise, self.temperature)


@dataclass(frozen=True)
class GumbelPatches(SampledPatches):
    """Learned end to end, under a binomial prior of the boundary count."""

    kind: ClassVar[str] = "gumbel"

    def loss(self, boundaries: Boundaries, seen: Supervision) -> Target:
        prior = binomial_prior(boundaries.values, seen.counted, self.rate)
        return prior, self.rate * seen.counted.sum()


@dataclass(frozen=True)
class EntropyPatches(LearnedPatches):
    """Predicts where the model's own predictive entropy spikes."""

    kind: ClassVar[str] = "entropy"
    needs_supervision: ClassVar[bool] = True

    rate: float = 0.25
    """Expected share of the symbols that are boundaries."""
    left: int = 2
    """A spike exceeds this many values before it."""

    def check_values(self, where: str) -> None:
        super().check_values(where)
        self.require_positive("left", where=where)

    def loss(self, boundaries: Boundaries, seen: Supervision) -> Target:
        assert seen.predictions is not None
        log_p = jax.nn.log_softmax(jax.lax.stop_gradient(seen.predictions))
        entropy = -(jnp.exp(log_p) * log_p).sum(axis=-1)
        spikes = entropy_spikes(entropy, seen.counted, self.left)
        return self.cross_entropy(boundaries, spikes, seen.counted), spikes.sum()


@dataclass(frozen=True)
class UnigramPatches(LearnedPatches):
    """Predicts where the pieces of a SentencePiece Unigram model end (`data.unigram`)."""

    kind: ClassVar[str] = "unigram"
    needs_supervision: ClassVar[bool] = True
    needs_unigram: ClassVar[bool] = True

    def loss(self, boundaries: Boundaries, seen: Supervision) -> Target | None:
        ends, counted = seen.piece_ends, seen.counted
        if ends is None:
            return None
        return self.cross_entropy(boundaries, ends, counted), (ends & counted).sum()


@dataclass(frozen=True)
class Band(Checked, name="model.segmenter.bands"):
    """The boundary rates that one script may have."""

    script: str
    """Its name in `data.scripts`."""
    rate: float
    """alpha, the highest."""
    deviation: float
    """sigma; `bytelm data rates` measures both on parallel text."""


@dataclass(frozen=True)
class FlexitokensPatches(SampledPatches):
    """Learned end to end, within a band of boundary rates (arXiv 2507.12720)."""

    kind: ClassVar[str] = "flexitokens"
    needs_supervision: ClassVar[bool] = True

    rate: float = 1 / 3
    """alpha, the highest rate of boundaries without `bands`; also the initial rate."""
    deviation: float = 0.023
    """sigma, the deviation of the rate without `bands`."""
    width: float = 3.0
    """lambda: rates down to alpha - lambda x sigma cost nothing."""
    bands: tuple[Band, ...] = ()
    """One band for each script of `data.scripts`, in their order."""

    def check_values(self, where: str) -> None:
        super().check_values(where)
        for number, band in enumerate(self._bands):
            place = f"{where}.bands[{number}]" if self.bands else where
            band.require_share("rate", where=place)
            least = band.rate - self.width * band.deviation
            if not 0 < least <= band.rate:
                raise UserError(
                    f"{place}.deviation {band.deviation} puts the lowest boundary rate at "
                    f"{least:.3g}, and the highest is {band.rate}; choose one from 0 to below the "
                    f"rate over {where}.width {self.width}, for without a lower bound the "
                    "boundaries vanish."
                )

    @property
    def _bands(self) -> tuple[Band, ...]:
        return self.bands or (Band("", self.rate, self.deviation),)

    @property
    def default_bytes_per_slot(self) -> float:
        return max(1.0, 1 / (1.25 * max(band.rate for band in self._bands)))

    @property
    def scripts(self) -> tuple[str, ...]:
        return tuple(band.script for band in self.bands)

    def loss(self, boundaries: Boundaries, seen: Supervision) -> Target | None:
        scripts = seen.scripts if self.bands else jnp.zeros_like(seen.ids)
        if scripts is None:
            return None
        rates = jnp.array([band.rate for band in self._bands])
        deviations = jnp.array([band.deviation for band in self._bands])
        least = rates - self.width * deviations
        loss = band_loss(boundaries.values, seen.counted, scripts, rates, least)
        known = seen.counted & (scripts >= 0)
        return loss, jnp.where(known, rates[jnp.maximum(scripts, 0)], 0.0).sum()


def statistics_at(hard: jax.Array, seen: Supervision) -> tuple[Ratio, ...]:
    """The rate of boundaries bool `[B, T]`; of bytes, also their agreement with whitespace."""
    if seen.level > 1:
        return (_rate(hard & seen.counted, seen.counted, seen.level),)
    whitespace = find_edges("whitespace", seen.ids, seen.document_ids)[0].ends
    return boundary_statistics(hard, whitespace, seen.counted)


def boundary_statistics(
    boundaries: jax.Array, whitespace: jax.Array, counted: jax.Array
) -> tuple[Ratio, ...]:
    """The rate of hard boundaries, and their agreement with those at whitespace, bool `[B, T]`."""
    boundaries, whitespace = boundaries & counted, whitespace & counted
    made, there = boundaries.sum(), whitespace.sum()
    hits = (boundaries & whitespace).sum()
    return (
        _rate(boundaries, counted),
        PRECISION(hits, made),
        RECALL(hits, there),
        F1(2 * hits, made + there),
    )


def _rate(boundaries: jax.Array, counted: jax.Array, level: int = 1) -> Ratio:
    return RATE.at(level)(boundaries.sum(), counted.sum(), warn=Collapse(level))


@dataclass(frozen=True)
class Collapse:
    """Warns of too few or too many boundaries in a level."""

    level: int = 1

    def __call__(self, values: Mapping[str, float]) -> str | None:
        rate = values[RATE.at(self.level).name]
        if COLLAPSED[0] < rate < COLLAPSED[1]:
            return None
        inner = self.level > 1
        symbols = f"symbols of level {self.level}" if inner else "symbols"
        weight = "the weight of its segmenter" if inner else "model.segmenter.weight"
        return (
            f"{rate:.1%} of the {symbols} are boundaries: the segmentation has collapsed; raise "
            f"{weight}, or lower the learning rate."
        )
