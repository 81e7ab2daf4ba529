"""A model of ours as a model of lm-evaluation-harness (`lm_eval`), which importing this registers.

Requests are `str`; the model reads and scores exactly their UTF-8 bytes (lone surrogates: the bytes
they escape). So `acc_bytes` divides by what was scored, and no text is tokenised again at the seam
of context and continuation (`bytelm.inference.continuations`). `max_gen_toks` counts bytes.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from bytelm.api import LoadedModel, load
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.texts import text_bytes
from bytelm.data.progress import shown_progress
from bytelm.evaluation.harness.answers import Answers
from bytelm.inference.batching import Prompt
from bytelm.inference.generation import ROWS, Weights

DOCUMENTS = 64
"""Documents that are scored, and kept as answers, at a time."""
MAX_BYTES = 256
"""Longest continuation where a task names none, as in `lm_eval`."""
LENGTHS = "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"
SAMPLING = "temperature", "top_k", "top_p", "min_p"

Request = tuple[Any, ...]
Run = Callable[[Sequence[tuple[int, Request]]], Iterator[tuple[int, Any]]]
"""Answers numbered requests: yields the place of each in the sequence, and its answer."""


@register_model("bytelm")
class BytelmLM(LM):
    """A decoder for `lm_eval`.

    Args:
        checkpoint: a run directory, a folder that `LoadedModel.save` wrote, or a loaded model.
        step: which checkpoint, "best" for the best in validation; None for the last one.
        weights: dtype of the parameters in memory, as for `bytelm.load`.
        context: most symbols that the model reads; None for the length of rows in training.
        covers: for a subword model: sum over all tokenisations with this many histories; None for
            canonical tokens.
        batch_size: texts read at a time; 1, which is what `lm_eval` asks for by default, and "auto"
            stand for 16, since it changes no figure.
        answers: where finished requests are kept.
        unused: options that `lm_eval` gives to every model.

    Raises:
        UserError: if the checkpoint cannot be read or has an encoder, or for an unknown option.
    """

    def __init__(
        self,
        checkpoint: str | LoadedModel | None = None,
        *,
        step: int | str | None = None,
        weights: Weights = "float32",
        context: int | None = None,
        covers: int | None = None,
        batch_size: int | str | None = None,
        answers: Answers | None = None,
        **unused: Any,
    ):
        super().__init__()
        known = ("checkpoint", "step", "weights", "context", "covers")
        for name in unused.keys() - {"max_batch_size", "device"}:
            raise UserError(
                f"a bytelm model has no option {name!r}{did_you_mean(name, known)}; there are "
                f"{', '.join(known)}."
            )
        if checkpoint is None:
            raise UserError("name the run to evaluate: --model_args checkpoint=RUN.")
        if weights not in get_args(Weights):
            raise UserError(f"weights is {weights!r}; it must be float32 or bfloat16.")
        if not isinstance(checkpoint, LoadedModel):
            checkpoint = load(checkpoint, step, weights)  # type: ignore[arg-type]
        self.loaded = checkpoint if context is None else checkpoint.with_context(int(context))
        self.generator = self.loaded.generator  # raises for a family with an encoder
        self.covers = covers
        rows = int(batch_size or ROWS) if str(batch_size) != "auto" else ROWS
        self.rows = rows if rows > 1 else ROWS
        self.answers = answers or Answers()
        self.by_bytes = 0
        """Continuations of a subword model whose probability was summed over tokenisations."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        answers = self._answer("loglikelihood", requests, self._score)
        self.by_bytes += sum(by_bytes for _, _, by_bytes in answers)
        return [(log_likelihood, greedy) for log_likelihood, greedy, _ in answers]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Each document from its START, without its END."""
        return self._answer("loglikelihood_rolling", requests, self._score_documents)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._answer("generate_until", requests, self._write, repeat=True)

    def _answer(
        self, kind: str, requests: list[Instance], run: Run, *, repeat: bool = False
    ) -> list[Any]:
        """The answers of all requests; equal ones are run once, unless with `repeat`."""
        arguments = [request.args for request in requests]
        keys = self.answers.keys(kind, arguments, repeat=repeat)
        first: dict[str, int] = {}  # the first request with each key
        for number, key in enumerate(keys):
            first.setdefault(key, number)
        todo = [number for key, number in first.items() if key not in self.answers]
        for place, answer in run([(number, arguments[number]) for number in todo]):
            number = todo[place]
            self.answers[keys[number]] = answer
            kept = tuple(answer[:2]) if kind == "loglikelihood" else answer
            self.cache_hook.add_partial(kind, arguments[number], kept)
        return [self.answers[key] for key in keys]

    def _score(self, todo: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, Any]]:
        pairs = [(before, after) for _, (before, after) in todo]
        with shown_progress("scoring continuations", len(pairs), counts=True) as done:
            scores = self.loaded.score_continuations(pairs, covers=self.covers, rows=self.rows)
            for place, score in scores:
                yield place, (-score.nats, score.is_greedy, score.by_bytes)
                done(1)

    def _score_documents(self, todo: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, Any]]:
        texts = [text_bytes(text) for _, (text,) in todo]
        with shown_progress("scoring documents", sum(map(len, texts))) as done:
            for first in range(0, len(texts), DOCUMENTS):
                some = texts[first : first + DOCUMENTS]
                if self.covers is None:
                    scores = self.loaded.score_documents(some, batch_size=self.rows, done=done)
                else:
                    scores = self.loaded.byte_marginal(self.covers).score(some).marginal
                for place, nats in enumerate(scores.byte_nats, start=first):
                    yield place, -float(nats)

    def _write(self, todo: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, Any]]:
        groups: dict[str, list[int]] = {}
        for place, (_, (_, options)) in enumerate(todo):
            groups.setdefault(json.dumps(options, sort_keys=True, default=str), []).append(place)
        with shown_progress("writing answers", len(todo), counts=True) as done:
            for places in groups.values():
                max_bytes, options = _generation(todo[places[0]][1][1])
                prompts = []
                for number, (text, _) in (todo[place] for place in places):
                    start = self._fitting(text_bytes(text), max_bytes)
                    prompts.append(Prompt(start, max_bytes, number))
                texts = self.loaded.complete(prompts, rows=self.rows, covers=self.covers, **options)
                for place, text in zip(places, texts, strict=True):
                    yield place, text.decode(errors="replace")
                    done(1)

    def _fitting(self, text: bytes, max_bytes: int) -> bytes:
        """The end of a prompt that leaves room for its continuation, or at least for half of it."""
        context = self.loaded.context
        symbols = self.generator.symbols_of(text)[1:]
        most = max(context - 1 - max_bytes, context // 2)
        if len(symbols) <= most or not self.generator.remembers_all(context):
            return text
        warnings.warn(
            f"prompts do not fit into the model's {context} symbols with up to {max_bytes} bytes "
            "after them, and were cut from the left.",
            stacklevel=2,
        )
        kept = symbols[len(symbols) - most :]
        tokenizer = self.loaded.tokenizer
        return text[-most:] if tokenizer is None else tokenizer.decode(kept)


def _generation(options: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The most bytes to write, and arguments of `LoadedModel.complete`, from a task's options."""
    unknown = options.keys() - {"until", "do_sample", *LENGTHS, *SAMPLING}
    if unknown:
        warnings.warn(f"options of generation that we lack: {sorted(unknown)}.", stacklevel=2)
    lengths = [options[name] for name in LENGTHS if options.get(name) is not None]
    max_bytes = int(lengths[0]) if lengths else MAX_BYTES
    until = options.get("until") or []
    stop = [text for text in ([until] if isinstance(until, str) else until) if text]
    temperature = float(options.get("temperature") or 0.0)
    samples = options.get("do_sample", temperature > 0)
    if not samples:
        return max_bytes, {"stop": stop, "temperature": 0.0}
    chosen = {name: options[name] for name in SAMPLING if options.get(name)}  # 0 is none
    return max_bytes, {"stop": stop, **chosen}
