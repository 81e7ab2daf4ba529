"""Bits per byte and next-byte accuracy of a model on text with noise.

What is scored is the text with its noise, over its own raw bytes and as its own tokens. A model
then pays for predicting noise, which no model can spare itself, and for being thrown off by what
it has read. All models meet the same noise: it depends on text, kind, rate and seed alone.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.evaluation.first_bytes import FirstBytes
from bytelm.evaluation.next_bytes import NextBytes
from bytelm.evaluation.perturbations import KINDS, Kind, perturb
from bytelm.inference.scoring import Scorer, score_documents
from bytelm.models.contract import Batch, ModelOutput

if TYPE_CHECKING:
    from bytelm.api import LoadedModel

RATES = (0.05, 0.1, 0.2)


def robustness(
    loaded: "LoadedModel",
    documents: Iterable[bytes],
    *,
    kinds: Sequence[Kind] = KINDS,
    rates: Sequence[float] = RATES,
    seed: int = 0,
    max_bytes: int | None = None,
    batch_size: int = 8,
    stride: int | None = None,
) -> dict[str, float]:
    """Scores documents as they are and with each kind of noise at each rate.

    Figures are named `perturbed/KIND/RATE/bpb` and `.../accuracy`; those of the documents as they
    are have the kind `none` and the rate 0. Bits per byte are those of `bytelm eval`, without END.
    Accuracy is the share of bytes that are what the model thought likeliest there; each counts
    once, in the window that scores it. What a subword model thinks likeliest is told by
    `bytelm.evaluation.next_bytes`, from the logits of all tokens at all positions of a batch.

    Args:
        loaded: the model.
        documents: held in memory.
        kinds: of noise.
        rates: shares of the characters that are hit, 0 to 1.
        seed: of the noise.
        max_bytes: only so many bytes are scored, and the last document is cut; None for all.
        batch_size: windows scored at a time.
        stride: symbols scored by each window after a document's first; None for half the context.

    Returns:
        figures by name.

    Raises:
        UserError: if there are no bytes to score, an unknown kind, or a rate out of range.
    """
    texts = list(FirstBytes(documents, max_bytes))
    next_bytes = None if loaded.tokenizer is None else NextBytes(loaded.tokenizer)
    measure = functools.partial(_measure, loaded, next_bytes, stride=stride, batch_size=batch_size)
    figures = measure("perturbed/none/0", texts)
    for kind in kinds:
        for rate in rates:
            noisy = [
                perturb(text, kind, rate, seed=seed, document=number)
                for number, text in enumerate(texts)
            ]
            if not any(noisy):
                raise UserError(f"{kind} at rate {rate:g} leaves no bytes; choose a lower rate.")
            figures |= measure(f"perturbed/{kind}/{rate:g}", noisy)
    return figures


def _measure(
    loaded: "LoadedModel",
    next_bytes: NextBytes | None,
    name: str,
    documents: Sequence[bytes],
    *,
    stride: int | None,
    batch_size: int,
) -> dict[str, float]:
    scorer = (
        _CountBytes(loaded.scorer)
        if next_bytes is None
        else _CountTokens(loaded.scorer, next_bytes)
    )
    scores = score_documents(
        scorer,
        documents,
        sequence_length=loaded.context,
        stride=stride,
        batch_size=batch_size,
        tokenizer=loaded.tokenizer,
    )
    return {
        f"{name}/bpb": scores.bits_per_byte(),
        f"{name}/accuracy": scorer.right / int(scores.bytes.sum()),
    }


class _CountBytes:
    """Gives the nats of targets, and counts the bytes among these that are the likeliest."""

    def __init__(self, scorer: Scorer):
        self._scorer = scorer
        self._right: list[jax.Array] = []

    def __call__(self, batch: Batch) -> jax.Array:
        nats, right = self._scorer.run(_nats_and_right, batch)
        self._right.append(right)
        return nats

    @property
    def right(self) -> int:
        """How many bytes of all batches so far."""
        return sum(int(np.sum(rows)) for rows in self._right)


def _nats_and_right(output: ModelOutput, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats of targets, float32 `[B, T]`, and how many bytes of a row are right, int32 `[B]`."""
    right = (output.logits.argmax(axis=-1) == targets) & (targets < BYTES)
    return output.nats(targets), right.sum(axis=1)


class _CountTokens:
    """The same of a subword model, whose targets are tokens of bytes."""

    def __init__(self, scorer: Scorer, next_bytes: NextBytes):
        self._scorer = scorer
        self._next_bytes = next_bytes
        self.right = 0

    def __call__(self, batch: Batch) -> jax.Array:
        nats, logits = self._scorer.run(_nats_and_logits, batch)
        of_places, targets = np.asarray(logits), np.asarray(batch.targets)
        for place in zip(
            *np.nonzero((targets >= 0) & (targets < self._next_bytes.tokens)), strict=True
        ):
            self.right += self._next_bytes.right(of_places[place], int(targets[place]))
        return nats


def _nats_and_logits(output: ModelOutput, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats of targets, float32 `[B, T]`, and the logits, `[B, T, outputs]`."""
    return output.nats(targets), output.logits
