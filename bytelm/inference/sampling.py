"""From the model's logits to the next symbols: temperature, then top-k, top-p and min-p."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bytelm.core.checked import require_positive
from bytelm.core.errors import UserError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampling:
    """How the next symbol is chosen. Each filter applies to the symbols that earlier ones keep.

    A pytree of numbers, so that new values compile nothing; a filter that is None costs nothing.
    Symbols of equal probability are kept or dropped together.
    """

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most probable symbol."""
    top_k: int | None = None
    """Keeps the k most probable symbols."""
    top_p: float | None = None
    """Keeps the fewest most probable symbols that together have at least this probability
    (nucleus sampling, arXiv 1904.09751)."""
    min_p: float | None = None
    """Keeps the symbols with at least this fraction of the highest probability
    (arXiv 2407.01082)."""

    def check(self) -> "Sampling":
        """Returns itself, or raises UserError for a value out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"the temperature is {self.temperature}; it must be at least 0.")
        require_positive("top-k", self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p}; it must be above 0 and at most 1.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min-p is {self.min_p}; it must be between 0 and 1.")
        return self


def log_probabilities(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """The distribution to sample from, given logits `[B, V]`.

    Log-probabilities, float32 `[B, V]`; -inf for dropped symbols.
    """
    logits = _cool(logits.astype(jnp.float32), sampling.temperature)
    if sampling.top_k is not None or sampling.top_p is not None:
        # Symbols less probable than the least probable one kept are dropped.
        ranked = -jnp.sort(-logits, axis=-1)
        kept = jnp.ones_like(ranked, bool)
        if sampling.top_k is not None:
            kept &= jnp.arange(ranked.shape[-1])[None, :] < sampling.top_k
        if sampling.top_p is not None:
            probabilities = jax.nn.softmax(jnp.where(kept, ranked, -jnp.inf))
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            kept &= (before < sampling.top_p) | (sampling.top_p >= 1)
        least = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if sampling.min_p is not None:
        least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(sampling.min_p)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return jax.nn.log_softmax(logits)


def _cool(logits: jax.Array, temperature: jax.typing.ArrayLike) -> jax.Array:
    """Logits / temperature; at 0, all but the first of the largest become -inf."""
    best = jnp.argmax(logits, axis=-1, keepdims=True)
    only_best = jnp.where(jnp.arange(logits.shape[-1])[None, :] == best, 0.0, -jnp.inf)
    greedy = jnp.equal(temperature, 0)
    return jnp.where(greedy, only_best, logits / jnp.where(greedy, 1.0, temperature))


def sample(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> jax.Array:
    """Draws one symbol for each row, int32 `[B]`, given logits `[B, V]`.

    `keys` are JAX random keys, `[B]`; a row's symbol depends on its own key only.
    """

    def drawn() -> jax.Array:
        return jax.vmap(jax.random.categorical)(keys, log_probabilities(logits, sampling))

    # Random numbers cost more than all else here, and at temperature 0 they decide nothing.
    greedy = jnp.equal(sampling.temperature, 0)
    symbols = jax.lax.cond(greedy, lambda: jnp.argmax(logits, axis=-1), drawn)
    return symbols.astype(jnp.int32)
