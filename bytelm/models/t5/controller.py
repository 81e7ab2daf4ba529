"""The weight of a loss, controlled by a ratio: MrT5's controller of the share of deletions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bytelm.core.errors import UserError
from bytelm.core.statistics import Ratio

ControllerState = dict[str, jax.Array]


@dataclass(frozen=True)
class RatioController:
    """A proportional-integral controller (MrT5, arXiv 2410.20771, section 3.3).

    With the error e = target - deleted share, `P = 0.9 P + 0.1 p e`, `I = I + i e`, and the loss's
    weight is `max(0, P + I)`. Both parts start at 0 and are not bounded. It moves once in each
    optimiser step, with the counts of the whole batch; the step's own loss has the weight from
    before. (The authors' code also moves it once per device and micro-batch, and in evaluation.)
    """

    target: float
    """Share of the inputs to delete."""
    proportional: float = 0.5
    """p."""
    integral: float = 1e-5
    """i; the command in the authors' README has 5e-5."""

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise UserError(
                f"the target deletion ratio is {self.target}; it must be between 0 and 1."
            )

    def init(self) -> ControllerState:
        """The state before the first step."""
        return {"proportional": jnp.zeros(()), "integral": jnp.zeros(())}

    def weight(self, state: ControllerState) -> jax.Array:
        """The weight of the loss that the next step has."""
        return jnp.maximum(0.0, state["proportional"] + state["integral"])

    def update(self, state: ControllerState, deleted: Ratio) -> ControllerState:
        """The state after a step in which this share of the inputs was deleted."""
        error = self.target - deleted.total / jnp.maximum(deleted.count, 1)
        return {
            "proportional": 0.9 * state["proportional"] + 0.1 * self.proportional * error,
            "integral": state["integral"] + self.integral * error,
        }
