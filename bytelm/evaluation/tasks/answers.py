"""A model's answers to items: written greedily, or chosen by their probabilities.

A choice is ranked by its log probability after the context, normalised in one of three ways:

- "sum": as it is, which favours short choices;
- "per_byte": divided by its length in bytes;
- "unconditional": minus its log probability at the start of a text, which favours no choice for
  being likely anywhere (Brown et al. 2020, section 2.4, with an empty context).

Choices that tie share the credit, so that a model which cannot tell them apart gets chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bytelm.api import LoadedModel
from bytelm.evaluation.tasks.item import Item
from bytelm.inference.batching import Prompt
from bytelm.inference.continuations import Pair

NORMALISATIONS = ("sum", "per_byte", "unconditional")
MULTIPLE = 8
"""The most bytes of a written answer are rounded up to a multiple of this: few lengths."""


class Answered(NamedTuple):
    """A model's answer to an item.

    Attributes:
        credit: 0 to 1, for each figure.
        said: for reports: what was written, or what was chosen with the scores of all choices.
    """

    item: Item
    credit: Mapping[str, float]
    said: Mapping[str, object]


def answer(
    loaded: LoadedModel,
    items: Sequence[Item],
    contexts: Sequence[bytes],
    rows: int,
    covers: int | None = None,
) -> Iterator[tuple[str, list[Answered]]]:
    """The answers to items of one task, under "written" and "chosen", in the items' order.

    Args:
        loaded: the model; with an encoder it writes all answers and chooses none.
        items: all with choices, or all without.
        contexts: what is read before each answer; an encoder's inputs.
        rows: texts that are read or written at a time.
        covers: for a subword model: histories to keep, with bytes summed over tokenisations; None
            for tokens.
    """
    if items[0].writes or loaded.has_encoder:
        yield "written", list(_written(loaded, items, contexts, rows, covers))
    if items[0].choices and not loaded.has_encoder:
        yield "chosen", list(_chosen(loaded, items, contexts, rows, covers))


def _written(
    loaded: LoadedModel,
    items: Sequence[Item],
    contexts: Sequence[bytes],
    rows: int,
    covers: int | None,
) -> Iterator[Answered]:
    """The greedily written answers, up to a stop or to more bytes than any right one has."""
    most = list(map(_most, items))
    stops: list[tuple[bytes, ...]] = [item.stop for item in items]
    if loaded.has_encoder:
        # A target ends with END alone. Full batches of one length need the fewest programs.
        most = [max(most)] * len(items)
        stops = [()] * len(items)
    texts: dict[int, bytes] = {}
    for stop in dict.fromkeys(stops):
        places = [place for place in range(len(items)) if stops[place] == stop]
        places.sort(key=lambda place: (most[place], len(contexts[place])))
        prompts = [Prompt(contexts[place], most[place], place) for place in places]
        if loaded.has_encoder:
            prompts += [Prompt(b"", most[0], 0)] * (-len(prompts) % rows)
        options = {} if covers is None else {"covers": covers}
        found = loaded.complete(prompts, rows=rows, temperature=0.0, stop=stop, **options)
        texts.update(zip(places, found, strict=False))
    for place, item in enumerate(items):
        right = float(item.is_right(texts[place]))
        yield Answered(item, {"exact_match": right}, {"written": shown(texts[place])})


def _most(item: Item) -> int:
    longest = max(map(len, item.answers)) + max(map(len, item.stop))
    return MULTIPLE * -(-longest // MULTIPLE)


def _chosen(
    loaded: LoadedModel,
    items: Sequence[Item],
    contexts: Sequence[bytes],
    rows: int,
    covers: int | None,
) -> Iterator[Answered]:
    """The chosen answers of items with choices, with a credit for each normalisation."""
    pairs: dict[Pair, int] = {}
    for item, context in zip(items, contexts, strict=True):
        for choice in item.choices:
            pairs.setdefault((context, choice), len(pairs))
            pairs.setdefault((b"", choice), len(pairs))
    found = np.empty(len(pairs))
    for number, score in loaded.score_continuations(list(pairs), covers=covers, rows=rows):
        found[number] = -score.nats
    for item, context in zip(items, contexts, strict=True):
        after = found[[pairs[context, choice] for choice in item.choices]]
        alone = found[[pairs[b"", choice] for choice in item.choices]]
        lengths = np.array(list(map(len, item.choices)))
        ranked = dict(zip(NORMALISATIONS, (after, after / lengths, after - alone), strict=True))
        right = np.array([choice in item.answers for choice in item.choices])
        yield Answered(
            item,
            {f"accuracy_{name}": _credit(scores, right) for name, scores in ranked.items()},
            {
                "chosen": shown(item.choices[int(after.argmax())]),
                "choices": list(map(shown, item.choices)),
                "log_probabilities": after.tolist(),
                "unconditional": alone.tolist(),
            },
        )


def _credit(scores: np.ndarray, right: np.ndarray) -> float:
    """The share of right choices among those of the highest score."""
    return float(right[scores == scores.max()].mean())


def shown(text: bytes) -> str:
    r"""A text for a report, with `\xNN` for bytes that are not UTF-8."""
    return text.decode(errors="backslashreplace")
