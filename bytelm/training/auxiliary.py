"""The auxiliary losses in a step: the part of each micro-batch in those of the whole batch."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bytelm.core.losses import AuxiliaryLoss, BatchLoss
from bytelm.core.statistics import Ratio, Statistic
from bytelm.core.vocabulary import PAD, UNSCORED
from bytelm.models import Batch, ModelOutput

AUXILIARY = Statistic("auxiliary")
"""Auxiliary losses by name, in nats per scored symbol."""


class Whole(NamedTuple):
    """What the losses of a micro-batch depend on in its batch."""

    symbols: jax.Array  # scored
    inputs: jax.Array | None  # that an encoder reads
    losses: dict[str, BatchLoss]  # by name

    @classmethod
    def of(cls, batch: Batch, losses: dict[str, BatchLoss]) -> "Whole":
        """The counts of a batch, with its losses."""
        inputs = None if batch.inputs is None else (batch.inputs != PAD).sum()
        return cls((batch.targets != UNSCORED).sum(), inputs, losses)


def batch_losses(output: ModelOutput) -> dict[str, BatchLoss]:
    """The losses that are functions of sums, by name."""
    losses = output.auxiliary_losses.items()
    return {name: loss for name, loss in losses if isinstance(loss, BatchLoss)}


def part_of_losses(
    losses: Mapping[str, AuxiliaryLoss], weights: Mapping[str, jax.Array], own: Whole, whole: Whole
) -> tuple[jax.Array, list[Ratio]]:
    """The part of a micro-batch in the auxiliary losses, summed and in nats, and their ratios."""
    symbols, share = own.symbols, own.symbols
    if own.inputs is not None and whole.inputs is not None:
        # An encoder's losses are means over inputs; a micro-batch has a share of all inputs.
        share = own.inputs * (whole.symbols / jnp.maximum(whole.inputs, 1))
    total, ratios = jnp.zeros(()), []
    for name, loss in losses.items():
        scale = share
        if isinstance(loss, BatchLoss):
            value = loss.within(whole.losses[name]).value
            ratios.append(loss.statistic(value * share, symbols))
            loss, scale = loss.weight * value, whole.symbols
        ratios.append(AUXILIARY((loss * share)[None], symbols, parts=(name,)))
        total += weights.get(name, 1.0) * loss * scale
    return total, ratios
