"""Auxiliary losses: what a model adds to the mean cost of a scored symbol in training."""

import abc
from typing import TypeVar

import jax

from bytelm.core.statistics import Statistic

Own = TypeVar("Own", bound="BatchLoss")


class BatchLoss(abc.ABC):
    """A loss that is a function of sums over a batch, and no mean over its symbols.

    A subclass is a pytree of the sums; those of micro-batches are added before it is computed.
    """

    weight: float
    """In the training loss."""
    statistic: Statistic
    """Reports the loss without its weight."""

    @property
    @abc.abstractmethod
    def value(self) -> jax.Array:
        """The loss without its weight, a scalar in nats per scored symbol."""

    def within(self: Own, whole: Own) -> Own:
        """The sums of the whole batch, with the gradients of this micro-batch's part in them.

        So the gradients that micro-batches give add up to that of the whole batch.
        """

        def with_gradient(total: jax.Array, part: jax.Array) -> jax.Array:
            return jax.lax.stop_gradient(total) + (part - jax.lax.stop_gradient(part))

        return jax.tree.map(with_gradient, whole, self)


AuxiliaryLoss = jax.Array | BatchLoss
"""An array is a scalar in nats per scored symbol, the mean over those of its batch."""
