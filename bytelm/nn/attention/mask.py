"""Which positions see which."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bytelm.core.checked import require_positive


@dataclass(frozen=True)
class AttentionMask:
    """Which positions a position sees within its group. Static and hashable."""

    causal: bool = True
    """Whether a position sees only itself and the positions before it."""
    window: int | None = None
    """Positions at this distance or more are hidden; None for no limit."""

    def __post_init__(self) -> None:
        require_positive("an attention window", self.window)

    def pairs(self, length: float) -> float:
        """How many pairs of positions of a row of one group see each other."""
        window = min(self.window or length, length)
        pairs = window * (window + 1) / 2 + (length - window) * window
        return pairs if self.causal else 2 * pairs - length

    def visible(self, distance: jax.Array) -> jax.Array:
        """Whether keys are seen at these distances, int32 query - key of any shape."""
        if self.causal:
            visible = distance >= 0
        else:
            visible, distance = jnp.ones_like(distance, bool), jnp.abs(distance)
        return visible if self.window is None else visible & (distance < self.window)
