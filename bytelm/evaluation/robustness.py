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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.chart import Chart, Point
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import bootstrap
from bytelm.core.vocabulary import BYTES
from bytelm.data.progress import shown_progress
from bytelm.evaluation.perturbations import NOISES, Noise, check_noise, perturb
from bytelm.evaluation.reading import Ratios
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.scoring import DocumentScores, DocumentSums, in_flight, window_batches
from bytelm.models.contract import Batch, ModelOutput
from bytelm.tokenizers.sorted_tokens import SortedTokens
from bytelm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Robustness(Evaluation):
    """Bits per byte and next-byte accuracy on text with noise, such as typing errors."""

    name: ClassVar[str] = "robustness"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)
    choosing: ClassVar[tuple[str, ...]] = ("kinds",)

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
        the window that scores it. `perturbed/KIND/mean_bpb` and `.../mean_accuracy` are the areas
        under the curves over the rates, from 0 to the highest, in trapezoids, divided by that rate:
        the means over all rates between.
        """
        documents = list(FirstBytes(text.documents(), scoring.max_bytes))
        count_right: CountRight = _bytes_right
        if loaded.tokenizer is not None:
            count_right = NextBytes(loaded.tokenizer).bytes_right
        plain = _score("perturbed/none/0", documents, loaded, scoring, count_right)
        ratios, bound = Ratios(), loaded.tokenizer is not None
        plain.add_to(ratios, "perturbed/none/0", bound=bound)
        curves: dict[str, list[Point]] = {}
        for kind in self.kinds:
            curve = {0.0: plain}
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
                curve[rate] = _score(name, noisy, loaded, scoring, count_right)
                curve[rate].add_to(ratios, name, bound=bound)
            if max(curve) > 0:
                ratios.figures += _means(f"perturbed/{kind}", curve, bound=bound)
            found = {rate: scored.scores.bpb() for rate, scored in sorted(curve.items())}
            curves[kind] = [Point(rate, bpb.value, bpb.interval) for rate, bpb in found.items()]
        axes = ("share of the characters hit", "bits per byte")
        charts = (Chart.of("Robustness: bits per byte", *axes, curves),) if curves else ()
        details = {"documents": len(documents)}
        return Result(tuple(ratios.figures), details=details, items=ratios.items, charts=charts)


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

    def bytes_right(self, loaded: LoadedModel, batch: Batch) -> tuple[jax.Array, np.ndarray]:
        """Nats of a batch's targets `[B, T]`, and how many bytes of a row are right, `[B]`."""
        nats, logits = loaded.scorer.run(_nats_and_logits, batch)
        host_logits, targets = np.asarray(logits), np.asarray(batch.targets)
        is_token = (targets >= 0) & (targets < self.tokens)  # [B, T]
        right = np.zeros(len(targets), np.int64)
        for at in zip(*np.nonzero(is_token), strict=True):
            right[at[0]] += self.right(host_logits[at], int(targets[at]))
        return nats, right

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


class _Scored(NamedTuple):
    """Scores of documents, and how many bytes of each are the likeliest, int64 `[documents]`."""

    scores: DocumentScores
    right: np.ndarray

    def add_to(self, ratios: Ratios, name: str, *, bound: bool) -> None:
        """Adds bits per byte and accuracy."""
        bytes_read = self.scores.bytes
        ratios.add(f"{name}/bpb", self.scores.bits(), bytes_read, "bpb", bound=bound)
        ratios.add(f"{name}/accuracy", self.right, bytes_read, "share")


CountRight = Callable[[LoadedModel, Batch], tuple[jax.Array, Any]]
"""Returns nats of a batch's targets `[B, T]`, and the number of right bytes of each row, `[B]`."""


def _score(
    name: str,
    documents: Sequence[bytes],
    loaded: LoadedModel,
    scoring: Scoring,
    count_right: CountRight,
) -> _Scored:
    sums, right = DocumentSums(loaded.tokenizer), np.zeros(len(documents), np.int64)
    batches = window_batches(
        documents, loaded.context, scoring.stride, scoring.batch_size, loaded.tokenizer
    )
    run = functools.partial(count_right, loaded)
    with shown_progress(f"scoring {name}", sum(map(len, documents))) as done:
        for windows, batch, (nats, hits) in in_flight(run, batches):
            done(sums.add(windows, batch, nats))
            of_rows = np.asarray(hits)[: len(windows)]
            np.add.at(right, [window.document for window in windows], of_rows)
    return _Scored(sums.scores(), right)


def _means(name: str, curve: Mapping[float, _Scored], *, bound: bool) -> Iterator[Figure]:
    """The means of bits per byte and accuracy over all rates, from a curve with rate 0."""
    rates = sorted(curve)
    # The area of trapezoids is a weighted sum of the points.
    widths = np.diff(rates, prepend=rates[0], append=rates[-1])
    weights = (widths[:-1] + widths[1:]) / 2 / rates[-1]  # [rates]

    def mean(sums: np.ndarray) -> np.ndarray:
        return weights @ (sums[0::2] / sums[1::2])

    scored = [curve[rate] for rate in rates]
    for measure, unit, values in (
        ("mean_bpb", "bpb", [each.scores.bits() for each in scored]),
        ("mean_accuracy", "share", [each.right for each in scored]),
    ):
        sizes = [each.scores.bytes for each in scored]
        columns = [column for pair in zip(values, sizes, strict=True) for column in pair]
        low, high = bootstrap(mean, *columns) or (None, None)
        value = float(mean(np.array(columns, np.float64).sum(axis=1)))
        is_bound = bound and unit == "bpb"
        yield Figure(f"{name}/{measure}", value, unit, low, high, is_bound)


def _bytes_right(loaded: LoadedModel, batch: Batch) -> tuple[jax.Array, jax.Array]:
    return loaded.scorer.run(_nats_and_right, batch)


def _nats_and_right(output: ModelOutput, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats of targets, float32 `[B, T]`, and how many bytes of a row are right, int32 `[B]`."""
    right = (output.logits.argmax(axis=-1) == targets) & (targets < BYTES)  # [B, T]
    return output.nats(targets), right.sum(axis=1)


def _nats_and_logits(output: ModelOutput, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats of targets, float32 `[B, T]`, and the logits, `[B, T, outputs]`."""
    return output.nats(targets), output.logits
