"""A model's nats, logits and states for each symbol of a text, and probabilities of continuations.

Symbols are bytes, or the tokens of a text's canonical tokenisation. Texts are read in sliding
windows, as in `bytelm.inference.scoring`.
"""

import abc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.texts import Text, Texts, each_text
from bytelm.inference.by_document import by_document
from bytelm.inference.continuations import COVERS, Pair, Score, score_continuations
from bytelm.inference.generation import ROWS, Generator
from bytelm.inference.marginal.marginal import ByteMarginal
from bytelm.inference.scoring import Scorer, window_batches
from bytelm.models.contract import Batch, ModelOutput
from bytelm.tokenizers.tokenizer import Tokenizer


class PerSymbol(abc.ABC):
    """The methods of a loaded model that return a value for each symbol."""

    context: int
    tokenizer: Tokenizer | None

    @property
    @abc.abstractmethod
    def scorer(self) -> Scorer: ...

    @property
    @abc.abstractmethod
    def generator(self) -> Generator: ...

    @abc.abstractmethod
    def byte_marginal(self, covers: int | None = 32) -> ByteMarginal:
        """Sums the probabilities of all tokenisations of a subword model."""

    def nats(
        self,
        texts: Texts,
        *,
        with_end: bool = False,
        stride: int | None = None,
        batch_size: int = 8,
    ) -> list[np.ndarray]:
        """Nats of each symbol of each text, read as a whole document: float64 `[symbols]`.

        Args:
            texts: one or several.
            with_end: whether the nats of END are appended.
            stride, batch_size: as for `score_documents`, whose results are the sums of these.
        """
        found = self._by_symbol(self.scorer, texts, stride, batch_size)
        return [nats.astype(np.float64)[: None if with_end else -1] for nats in found]

    def logits(
        self, texts: Texts, *, stride: int | None = None, batch_size: int = 8
    ) -> list[np.ndarray]:
        """Logits after START and after each symbol: float32 `[symbols + 1, outputs]` of each text.

        Outputs are the 256 bytes and END, or the tokens and END. In HAT a byte costs more than its
        logits say, because the ends of words are coded too; `nats` includes both.
        """
        return self._by_symbol(
            lambda batch: self.scorer.run(_logits, batch), texts, stride, batch_size
        )

    def hidden_states(
        self, texts: Texts, *, stride: int | None = None, batch_size: int = 8
    ) -> list[np.ndarray]:
        """Normalised inputs of the head: float32 `[symbols + 1, width]` of each text."""
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

        A subword model reads the canonical tokens of both together, and the tokens that end in the
        continuation count. If the first of them begins in the context, it counts in full, with a
        warning. With `covers`, exactly the continuation's bytes count, over all tokenisations.

        Args:
            contexts: the beginning of each text; a single one is used for all continuations.
            continuations: one or several.
            with_end: whether END after the continuation counts.
            covers: histories to keep, for a subword model (`byte_marginal`); None for canonical
                tokens.
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
                f"there are {len(starts)} contexts and {len(ends)} continuations; give the same "
                "number of each, or a single context."
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

    def score_continuations(
        self, pairs: Sequence[Pair], *, covers: int | None = None, rows: int = ROWS
    ) -> Iterator[tuple[int, Score]]:
        """Yields the number and the score of each pair, out of order, as soon as it is known.

        A context that several continuations share is read once (`bytelm.inference.continuations`):
        use it for multiple choice. A context that is too long is cut from the left, with a warning.

        Args:
            pairs: contexts and continuations, either of which may be empty.
            covers: for a subword model: histories to keep (`byte_marginal`), and sum over all
                tokenisations; None for canonical tokens, unless one begins in the context and ends
                in the continuation.
            rows: contexts or continuations read at a time.

        Raises:
            UserError: for a family with an encoder, or one that cannot read step by step.
        """
        generator, marginal = self.generator, None
        if covers is not None or self.tokenizer is not None:
            marginal = self.byte_marginal(covers or COVERS)
        return score_continuations(
            generator,
            pairs,
            context=self.context,
            rows=rows,
            marginal=marginal,
            always=covers is not None,
        )

    def _symbols_within(self, context: bytes, text: bytes) -> int:
        """How many symbols of a text are completely within its context."""
        if self.tokenizer is None:
            return len(context)
        ends = np.cumsum(self.tokenizer.byte_counts[self.tokenizer.encode(text)])
        count = int(np.searchsorted(ends, len(context), side="right"))
        if len(text) > len(context) > (ends[count - 1] if count else 0):
            warnings.warn(
                "a token begins in a context and ends in its continuation, and counts in full; "
                "set covers to count only the bytes of the continuation.",
                stacklevel=3,
            )
        return count

    def _by_symbol(
        self, run: Callable[[Batch], Any], texts: Texts, stride: int | None, batch_size: int
    ) -> list[np.ndarray]:
        """Collects each text's `[symbols + 1, ...]` from arrays `[B, T, ...]` of windows."""
        batches = window_batches(each_text(texts), self.context, stride, batch_size, self.tokenizer)
        found = {
            document.number: document.values.astype(np.float32, copy=False)
            for document in by_document(run, batches)
        }
        return [found[number] for number in sorted(found)]


def _logits(output: ModelOutput, targets: jax.Array) -> jax.Array:
    return output.logits


def _states(output: ModelOutput, targets: jax.Array) -> jax.Array:
    if output.states is None:
        raise UserError("the model's family does not return its hidden states.")
    return output.states
