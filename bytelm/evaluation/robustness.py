"""Bits per byte and next-byte accuracy of a model on text with noise.

The noisy text is scored, over its own raw bytes and as its own tokens. A model pays for predicting
noise, which no model can avoid, and for being misled by the noise it has read. All models get the
same noise: it depends on the text, the kind of noise, its rate and the seed alone.

The likeliest next byte of a subword model is guessed along the canonical tokens of the text. Given
the tokens before it and the bytes of the current token so far, the guess is the byte with the most
probability among tokens that continue these bytes. Tokens that end exactly there are ignored,
because what follows them would need another run of the model. So the model knows where canonical
tokens end, which flatters it inside words. The exact next byte is that of
`bytelm.inference.marginal.marginal`, which reads many more tokens.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.vocabulary import BYTES
from bytelm.data.progress import shown_progress
from bytelm.evaluation.perturbations import NOISES, Noise, check_noise, perturb
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.scoring import DocumentSums, in_flight, window_batches
from bytelm.models.contract import Batch, ModelOutput
from bytelm.tokenizers.sorted_tokens import SortedTokens
from bytelm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Robustness(Evaluation):
    """Bits per byte and next-byte accuracy on text with noise, such as typing errors."""

    name: ClassVar[str] = "robustness"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)

    kinds: tuple[Noise, ...] = NOISES
    """Kinds of noise."""
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Shares of the characters that are hit, 0 to 1."""
    seed: int = 0
    """Seed of the noise."""

    def check(self, loaded: LoadedModel) -> None:
        super().check(loaded)
        for kind in self.kinds:
            for rate in self.rates:
                check_noise(kind, rate)

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `perturbed/KIND/RATE/bpb` and `.../accuracy`; `none/0` is the unchanged text.

        Accuracy is the share of bytes that the model finds likeliest; each byte counts once, in
        the window that scores it.
        """
        documents = list(FirstBytes(text.documents(), scoring.max_bytes))
        count_right: CountRight = _bytes_right
        if loaded.tokenizer is not None:
            count_right = NextBytes(loaded.tokenizer).bytes_right
        figures = _score("perturbed/none/0", documents, loaded, scoring, count_right)
        for kind in self.kinds:
            for rate in self.rates:
                noisy = [
                    perturb(document, kind, rate, seed=self.seed, document=number)
                    for number, document in enumerate(documents)
                ]
                if not any(noisy):
                    raise UserError(
                        f"{kind} at rate {rate:g} leaves no bytes; choose a lower rate."
                    )
                name = f"perturbed/{kind}/{rate:g}"
                figures += _score(name, noisy, loaded, scoring, count_right)
        return Result(tuple(figures), details={"documents": len(documents)})


class _Step(NamedTuple):
    """One byte of a token, and the tokens that are still possible there, grouped by their byte."""

    span: slice  # of those tokens, in sorted order
    groups: np.ndarray  # int64 [k], the start of each group in the span
    right: int  # the group of the token's own byte


class NextBytes:
    """Guesses next bytes from logits of tokens; ids from `tokens` on are no tokens."""

    def __init__(self, tokenizer: Tokenizer):
        self._texts = tokenizer.token_bytes
        self._tokens = SortedTokens(tokenizer.token_bytes)
        self.tokens = tokenizer.vocabulary.size
        self._steps: dict[int, list[_Step]] = {}

    def bytes_right(self, loaded: LoadedModel, batch: Batch) -> tuple[jax.Array, int]:
        """Nats of a batch's targets `[B, T]`, and the number of bytes that are the likeliest."""
        nats, logits = loaded.scorer.run(_nats_and_logits, batch)
        host_logits, targets = np.asarray(logits), np.asarray(batch.targets)
        is_token = (targets >= 0) & (targets < self.tokens)  # [B, T]
        places = zip(*np.nonzero(is_token), strict=True)
        return nats, sum(self.right(host_logits[at], int(targets[at])) for at in places)

    def right(self, logits: np.ndarray, token: int) -> int:
        """How many bytes of a token are the likeliest at their places, by logits `[outputs]`."""
        count, ordered = 0, logits[self._tokens.ids]
        steps = self._steps.get(token) or self._steps.setdefault(token, self._find_steps(token))
        for depth, (span, groups, right) in enumerate(steps):
            inside = ordered[span]  # logits of the tokens that are still possible
            highest = inside.max()
            mass = np.add.reduceat(np.exp(inside - highest), groups)  # [groups]
            ends = depth == 0 and logits[self.tokens] > highest + np.log(mass.max())
            count += int(mass.argmax() == right and not ends)
        return count

    def _find_steps(self, token: int) -> list[_Step]:
        text, steps = self._texts[token], []
        span = self._tokens.everything
        for depth, byte in enumerate(text):
            following = self._tokens.bytes_at(depth, span)
            groups = np.flatnonzero(np.diff(following, prepend=-1))
            steps.append(_Step(span, groups, int(np.searchsorted(following[groups], byte))))
            span = self._tokens.starting_with(text[: depth + 1], span)[1]
        return steps


CountRight = Callable[[LoadedModel, Batch], tuple[jax.Array, Any]]
"""Returns nats of a batch's targets `[B, T]`, and the number of right bytes by row or in all."""


def _score(
    name: str,
    documents: Sequence[bytes],
    loaded: LoadedModel,
    scoring: Scoring,
    count_right: CountRight,
) -> list[Figure]:
    sums, right = DocumentSums(loaded.tokenizer), 0
    batches = window_batches(
        documents, loaded.context, scoring.stride, scoring.batch_size, loaded.tokenizer
    )
    run = functools.partial(count_right, loaded)
    with shown_progress(f"scoring {name}", sum(map(len, documents))) as done:
        for windows, batch, (nats, hits) in in_flight(run, batches):
            done(sums.add(windows, batch, nats))
            right += int(np.sum(hits))
    scores = sums.scores()
    bpb = scores.bpb(f"{name}/bpb", bound=loaded.tokenizer is not None)
    return [bpb, Figure(f"{name}/accuracy", right / int(scores.bytes.sum()), "share")]


def _bytes_right(loaded: LoadedModel, batch: Batch) -> tuple[jax.Array, jax.Array]:
    return loaded.scorer.run(_nats_and_right, batch)


def _nats_and_right(output: ModelOutput, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats of targets, float32 `[B, T]`, and how many bytes of a row are right, int32 `[B]`."""
    right = (output.logits.argmax(axis=-1) == targets) & (targets < BYTES)  # [B, T]
    return output.nats(targets), right.sum(axis=1)


def _nats_and_logits(output: ModelOutput, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats of targets, float32 `[B, T]`, and the logits, `[B, T, outputs]`."""
    return output.nats(targets), output.logits
