"""Models that may have draft heads: their loss and statistics, and their drafts in decoding."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.statistics import Ratio, Statistic
from bytelm.core.vocabulary import UNSCORED
from bytelm.models.contract import Batch, LanguageModel, ModelOutput, Unembedding
from bytelm.models.draft import DraftedConfig, DraftHeads, Item
from bytelm.nn.roles import freeze

Choose = Callable[[jax.Array, int], jax.Array]
"""(logits `[B, V]`, number of the draft, from 0) -> the drafted symbols, int32 `[B]`."""

DRAFT_BITS = Statistic("draft/bits", "bits", divisor=float(np.log(2)))
"""Bits of a target of each head after the first, by the head's number."""
DRAFT_AGREEMENT = Statistic("draft/agreement", "share")
"""How often each head's best symbol is head 1's best one at its place, given the true text."""
DRAFT_ACCEPTED = Statistic("draft/accepted", "symbols")
"""Symbols that a greedy step of decoding would gain, 1 to n: 1, and the heads in order from the
second on that agree, given the true text. Over the places that have all n targets."""


class DraftingModel(LanguageModel):
    """Base of the models that can have draft heads.

    A family calls `build_draft` at the end of its `__init__`.
    """

    config: Any
    draft: DraftHeads | None

    def build_draft(self, config: DraftedConfig, rngs: nnx.Rngs) -> None:
        """Adds the heads of the config, if there are any."""
        if not config.draft.train_model:
            freeze(self)
        self.draft = config.draft.build(config, rngs)

    def unembed(self, x: jax.Array, kernel: jax.Array | None = None) -> jax.Array | Unembedding:
        """The logits, as `ModelOutput.head`, of vectors `[B, N, d]` before the final norm.

        `kernel` `[d, V]`, of a draft head, takes the place of the head's own.
        """
        raise NotImplementedError

    def embed_symbols(self, ids: jax.Array) -> jax.Array:
        """The embeddings of symbols by themselves: int32 `[B, N]` to `[B, N, d]`."""
        raise NotImplementedError

    def logits(self, x: Any) -> jax.Array:
        """Head 1's logits, float32 `[B, N, outputs]`."""
        raise NotImplementedError

    def read_by_heads(self, x: Any) -> jax.Array:
        """The vectors `[B, N, d]` that draft heads read, of what `logits` reads."""
        found: jax.Array = x
        return found

    def extend_draft(self, x: Any, draft: Any, lengths: jax.Array) -> Any:
        """The heads' state after new symbols, None without; arguments as of `DraftHeads.read`."""
        return draft and self._heads.read(self.read_by_heads(x), draft, lengths)

    def with_draft(self, output: ModelOutput, x: Any, batch: Batch) -> ModelOutput:
        """The output with the heads' weighted loss and statistics.

        `output` has head 1's logits, and x is what the heads read of (`read_by_heads`).
        """
        if self.draft is None:
            return output
        config, is_training = self.draft.config, batch.keys is not None
        best, ids = None if is_training else output.best, batch.document_ids

        def ahead(values: jax.Array, steps: int) -> jax.Array:
            return _shifted(values, steps, ids)

        steps = range(1, config.heads)
        items = Item(
            jnp.stack([ahead(batch.ids, step) for step in steps]),
            jnp.stack([ahead(batch.targets, step) for step in steps]),
            None if best is None else jnp.stack([ahead(best, step) for step in steps]),
        )
        nats, agrees = self.draft.score(self, self.read_by_heads(x), ids, items)
        weights = jnp.asarray(config.weights or (1.0,) * config.ahead, jnp.float32)
        scored = jnp.maximum((batch.targets != UNSCORED).sum(), 1)
        loss = (weights * nats.sum(axis=(1, 2))).sum() / scored
        statistics = _statistics(nats, agrees, items.targets != UNSCORED)
        return replace(
            output,
            auxiliary_losses={**output.auxiliary_losses, "draft": loss},
            statistics=(*output.statistics, *statistics),
        )

    def init_drafting(self, rows: int, length: int) -> Any:
        """`init_state` with the heads, which read what the model reads, for `draft_symbols`."""
        draft = self._heads.init_state(rows, length, self.config.dtype)
        return replace(self.init_state(rows, length), draft=draft)

    def draft_symbols(
        self, state: Any, pending: jax.Array, count: int, choose: Choose
    ) -> jax.Array:
        """Drafts the `count` symbols, at most n - 1, after `pending`: int32 `[B, count]`.

        Args:
            state: of the model, from `init_drafting`, after the symbol before `pending`.
            pending: int32 `[B]`, the symbol that head 1 has given.
            choose: chooses a draft by its logits.
        """
        heads, draft, last, drafts = self._heads, state.draft, pending, []
        h = draft.last.reshape(len(pending), -1, heads.width)[:, :1]
        for index, head in enumerate(heads.stack.layers()[:count]):
            embed = partial(self.embed_symbols, last[:, None])
            h, x = heads.start(head, index, draft, h, embed)
            logits = ModelOutput(self.unembed(x, heads.kernel(head))).logits[:, 0]
            last = choose(logits, index)
            drafts.append(last)
        return jnp.stack(drafts, axis=1)

    @property
    def _heads(self) -> DraftHeads:
        if self.draft is None:
            raise UserError("the model has no draft heads; choose another drafter.")
        return self.draft


def _shifted(values: jax.Array, steps: int, document_ids: jax.Array) -> jax.Array:
    """Each place gets the value so many places later in its document, else UNSCORED."""
    steps = min(steps, values.shape[1])
    width = ((0, 0), (0, steps))
    there = jnp.pad(values[:, steps:], width, constant_values=UNSCORED)
    document = jnp.pad(document_ids[:, steps:], width)
    return jnp.where((document == document_ids) & (document > 0), there, UNSCORED)


def _statistics(nats: jax.Array, agrees: jax.Array | None, counted: jax.Array) -> tuple[Ratio, ...]:
    """Of nats, agreement and counted targets, `[n - 1, B, T]` each."""
    parts = [str(number) for number in range(2, 2 + len(nats))]
    counts = counted.sum(axis=(1, 2))
    bits = DRAFT_BITS(nats.sum(axis=(1, 2)), counts, parts=parts)
    if agrees is None:
        return (bits,)
    right = agrees & counted
    run = jnp.cumprod(right.astype(jnp.int32), axis=0).sum(axis=0)  # [B, T]
    accepted = jnp.where(counted[-1], 1 + run, 0).sum()
    return (
        bits,
        DRAFT_AGREEMENT(right.sum(axis=(1, 2)), counts, parts=parts),
        DRAFT_ACCEPTED(accepted, counted[-1].sum()),
    )
