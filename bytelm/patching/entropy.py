"""Patches by the entropy of the next byte, as in BLT (arXiv 2412.09871, section 2.3).

A model of bytes that is trained on its own gives H_t, the entropy in nats of its prediction made
after symbol t. Whether symbol t + 1 starts a patch follows from H up to t, so a patch's end is
known with its last symbol. Positions count from a document's first symbol, START:

- 0 and 1 always start patches, so START is a patch of its own and H_0 is never used;
- with a `threshold` alone (the paper's global one), t + 1 starts one if H_t > threshold;
- with a `rise` alone (its approximate monotonic one), if H_t - H_{t-1} > rise; position 2 always;
- with both, if both hold; position 2 always and 3 never.

All this is as in the authors' code, also where both are given: they meant that no patch starts
right after another, and look only at whether position 2 started one. Different here:

- Documents packed into one row have entropies, positions and patches of their own. The code strings
  all rows of a batch together, so that a row's patches depend on the others.
- Entropies are rounded to 1/1024 nat. The same H computed by two programs, such as those of whole
  rows and of decoding, differs by some 1e-6 (at most 6e-6 in 12,000 bytes). Where the true values
  are equal, as H_t and H_{t-1} in a long run of one byte, the strict comparisons would be decided
  by these differences; rounded, equal is equal. What remains is an H as close as that to the middle
  between two multiples of 1/1024 that a threshold separates: about one byte in a million. Two
  programs may cut it differently.

Shapes: B = rows, T = symbols, V = outputs of the entropy model.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.patching.patches import positions_in_run
from bytelm.patching.rules import Edges, count_own, last_own, split_longer

STEP = 1 / 1024
"""Entropies are multiples of it, in nats; exact in float32 and in 16-bit integers."""


def entropies_of(logits: jax.Array) -> jax.Array:
    """The entropy in nats of `[..., V]` float32 logits, rounded to multiples of `STEP`: `[...]`."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return rounded(-(jnp.exp(log_p) * log_p).sum(axis=-1))


def rounded(entropies: jax.Array) -> jax.Array:
    """Float32 entropies as multiples of `STEP`."""
    return jnp.round(entropies / STEP) * STEP


@dataclass(frozen=True)
class EntropyRule:
    """Where patches start, by the entropies; at least one of the first two is given.

    These may be float32 scalars of a program.
    """

    threshold: Any = None  # nats, which H_t exceeds
    rise: Any = None  # nats, by which H_t exceeds H_{t-1}
    longest: int | None = None  # most symbols in a patch

    def decide(self, entropies: jax.Array, before: jax.Array, positions: jax.Array) -> jax.Array:
        """Whether a patch starts after each symbol, without the limit of length, bool `[B, T]`.

        `before` are the entropies of the symbols before, and `positions` are int32, all `[B, T]`.
        """
        decided = jnp.ones(entropies.shape, bool)
        if self.threshold is not None:
            decided &= entropies > self.threshold
        if self.rise is None:
            return decided | (positions == 0)
        first = 1 if self.threshold is None else 2
        decided &= (entropies - before > self.rise) & (positions > first)
        return decided | (positions <= 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EntropyCarry:
    """What the rule remembers of the symbols before."""

    read: jax.Array  # int32 [B], symbols read
    entropy: jax.Array  # float32 [B], of the last one
    decided: jax.Array  # bool [B], whether a patch starts after it
    since: jax.Array  # int32 [B], symbols since the last start that `longest` did not cause

    @classmethod
    def empty(cls, rows: int) -> "EntropyCarry":
        """Before the first symbol."""
        zeros = jnp.zeros((rows,), jnp.int32)
        return cls(zeros, jnp.zeros((rows,)), jnp.zeros((rows,), bool), zeros)


def entropy_edges(
    rule: EntropyRule,
    entropies: Any,
    document_ids: Any,
    carry: EntropyCarry | None = None,
) -> tuple[Edges, EntropyCarry]:
    """Applies the rule to rows, or to the next symbols of rows of one document each.

    Args:
        entropies: float32 `[B, T]`.
        document_ids: int32 `[B, T]`, as in a batch.
        carry: from the last call; None for whole rows.

    Returns:
        the edges, of which all ends are known; the carry after each row's first document.
    """
    carry = EntropyCarry.empty(len(entropies)) if carry is None else carry
    entropies = rounded(entropies)
    is_first = jnp.cumprod(document_ids == document_ids[:, :1], axis=1) > 0  # document of the row
    positions = positions_in_run(document_ids) + jnp.where(is_first, carry.read[:, None], 0)

    def shifted(values: jax.Array, first: jax.Array) -> jax.Array:
        return jnp.concatenate([first[:, None], values[:, :-1]], axis=1)

    decided = rule.decide(entropies, shifted(entropies, carry.entropy), positions)
    begins = positions == 0
    starts = shifted(decided, carry.decided) | begins
    edges, since = split_longer(starts, decided, begins, document_ids, carry.since, rule.longest)
    return edges, EntropyCarry(
        read=carry.read + count_own(document_ids),
        entropy=last_own(entropies, document_ids, carry.entropy),
        decided=last_own(decided, document_ids, carry.decided),
        since=since,
    )
