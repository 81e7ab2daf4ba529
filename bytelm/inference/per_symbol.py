"""What a model makes of each symbol of texts: nats, logits, states, and what follows a context.

Symbols are bytes, or the tokens of a text's canonical tokenisation. Texts are read as
`bytelm.inference.scoring` reads them, in windows that slide over them.
"""

import abc
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.texts import Text, Texts, each_text
from bytelm.inference.marginal.marginal import ByteMarginal
from bytelm.inference.scoring import Scorer, place_by_document, window_batches
from bytelm.models.contract import Batch, ModelOutput
from bytelm.tokenizers.tokenizer import Tokenizer


class PerSymbol(abc.ABC):
    """The part of a loaded model that tells of each symbol."""

    context: int
    tokenizer: Tokenizer | None

    @property
    @abc.abstractmethod
    def scorer(self) -> Scorer:
        """What scores batches."""

    @abc.abstractmethod
    def byte_marginal(self, covers: int | None = 32) -> ByteMarginal:
        """What adds up the probabilities of all tokenisations."""

    def nats(
        self,
        texts: Texts,
        *,
        with_end: bool = False,
        stride: int | None = None,
        batch_size: int = 8,
    ) -> list[np.ndarray]:
        """Nats of each symbol of each text, taken as a whole document: float64 `[symbols]`.

        Args:
            texts: several, or one alone.
            with_end: whether those of END follow.
            stride, batch_size: as for `score_documents`; the nats add up to the same as there.
        """
        found = self._by_symbol(self.scorer, texts, stride, batch_size)
        return [nats.astype(np.float64)[: None if with_end else -1] for nats in found]

    def logits(
        self, texts: Texts, *, stride: int | None = None, batch_size: int = 8
    ) -> list[np.ndarray]:
        """Logits after START and after each symbol: float32 `[symbols + 1, outputs]` of each text.

        Outputs are the 256 bytes and END, or the tokens and END. In HAT what a byte costs is more
        than its logits say: whether a word ends is coded too (`nats` has both).
        """
        return self._by_symbol(
            lambda batch: self.scorer.run(_logits, batch), texts, stride, batch_size
        )

    def hidden_states(
        self, texts: Texts, *, stride: int | None = None, batch_size: int = 8
    ) -> list[np.ndarray]:
        """States from which the head makes logits: float32 `[symbols + 1, width]` of each text.

        They are those after START and after each symbol, after the last normalisation.
        """
        return self._by_symbol(
            lambda batch: self.scorer.run(_states, batch), texts, stride, batch_size
        )

    def log_probability(
        self,
        contexts: Texts,
        continuations: Texts,
        *,
        with_end: bool = False,
        covers: int | None = None,
        batch_size: int = 8,
    ) -> np.ndarray:
        """Natural logarithm of the probability of each continuation after its context.

        Of a subword model the canonical tokens of both together are read, and those count that end
        within the continuation. A token that begins before it counts whole, context and all: then
        there is a warning. With `covers` the bytes alone count, over all tokenisations.

        Args:
            contexts: what each text starts with; one alone goes with every continuation.
            continuations: what follows, several or one alone.
            with_end: whether the text ends after the continuation, at what that costs.
            covers: of a subword model, histories kept (`byte_marginal`); None for canonical tokens.
            batch_size: windows scored at a time.

        Returns:
            float64 `[continuations]`.

        Raises:
            UserError: if there are not as many contexts as continuations.
        """
        ends = list(each_text(continuations))
        starts = list(each_text(contexts))
        starts = starts * len(ends) if isinstance(contexts, Text) else starts
        if len(starts) != len(ends):
            raise UserError(
                f"there are {len(starts)} contexts and {len(ends)} continuations; give as many of "
                "each, or one context alone."
            )
        texts = [start + end for start, end in zip(starts, ends, strict=True)]
        if covers is not None:
            marginal = self.byte_marginal(covers)
            whole = marginal.score(texts).marginal
            nats = whole.byte_nats - marginal.score(starts).marginal.byte_nats
            return -(nats + whole.end_nats) if with_end else -nats
        read = [self._symbols_within(*pair) for pair in zip(starts, texts, strict=True)]
        found = self.nats(texts, with_end=True, batch_size=batch_size)
        stop = None if with_end else -1
        sums = [nats[first:stop].sum() for first, nats in zip(read, found, strict=True)]
        return -np.array(sums, np.float64)

    def _symbols_within(self, context: bytes, text: bytes) -> int:
        """How many symbols of a text lie wholly within its context."""
        if self.tokenizer is None:
            return len(context)
        ends = np.cumsum(self.tokenizer.byte_counts[self.tokenizer.encode(text)])
        count = int(np.searchsorted(ends, len(context), side="right"))
        if len(text) > len(context) > (ends[count - 1] if count else 0):
            warnings.warn(
                "a token begins in a context and ends in its continuation, and counts whole; give "
                "covers to count the bytes of the continuation alone.",
                stacklevel=3,
            )
        return count

    def _by_symbol(
        self, run: Callable[[Batch], Any], texts: Texts, stride: int | None, batch_size: int
    ) -> list[np.ndarray]:
        """Of arrays `[B, T, ...]` what belongs to each text's inputs, `[symbols + 1, ...]`."""
        found: dict[int, np.ndarray] = {}
        batches = window_batches(each_text(texts), self.context, stride, batch_size, self.tokenizer)
        for windows, batch in batches:
            place_by_document(found, windows, batch, np.asarray(run(batch), np.float32))
        return [found[number] for number in sorted(found)]


def _logits(output: ModelOutput, targets: jax.Array) -> jax.Array:
    return output.logits


def _states(output: ModelOutput, targets: jax.Array) -> jax.Array:
    if output.states is None:
        raise UserError("the model's family does not tell its hidden states.")
    return output.states
