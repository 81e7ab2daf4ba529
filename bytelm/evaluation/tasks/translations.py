"""Parallel text as a task: which of four sentences is the translation of this one?

The wrong choices are the sentences of the same language whose lengths in bytes are nearest to the
right one's, so that lengths tell little. A context is `eng: SENTENCE`, a newline and `deu:`, with
the codes of the file's languages; each language is translated from and into a reference language.
"""

from collections.abc import Sequence
from pathlib import Path

from bytelm.core.errors import UserError
from bytelm.data.sources.json_objects import json_objects
from bytelm.evaluation.languages import read_parallel
from bytelm.evaluation.tasks.item import Item, ItemSet

KEYS = ("id", "lang", "text")
WRONG = 3
"""Wrong choices of an item."""


def read_translations(path: Path, name: str, reference: str) -> ItemSet:
    """The items of all pairs of languages with the reference; tasks are named as in `eng-deu`.

    Raises:
        UserError: for text that is not parallel or lacks the reference language, and fewer than
            four different sentences.
    """
    parallel = read_parallel([str(path)])
    others = [language for language in parallel if language != reference]
    if reference not in parallel or not others:
        raise UserError(
            f"{path} has {', '.join(parallel)}; translations need {reference} "
            "(tasks.reference) and one more language."
        )
    pairs = [pair for other in others for pair in ((reference, other), (other, reference))]
    found: list[Item] = []
    for source, target in pairs:
        sentences = parallel[target]
        for place, wrong in enumerate(_nearest(sentences, f"{path} in {target}")):
            found.append(
                Item(
                    task=f"{source}-{target}",
                    name=str(place),
                    number=len(found),
                    question=f"{source}: ".encode() + parallel[source][place] + b"\n",
                    answers=(b" " + sentences[place],),
                    lead=f"{target}:".encode(),
                    choices=tuple(b" " + text for text in (sentences[place], *wrong)),
                    writes=False,
                )
            )
    texts = [line.text("text").encode() for line in json_objects(path)]
    return ItemSet(name, "parallel", found, texts)


def _nearest(sentences: Sequence[bytes], where: str) -> list[list[bytes]]:
    """For each sentence, the `WRONG` others of the most similar length."""
    different = sorted(set(sentences), key=lambda text: (len(text), text))
    if len(different) <= WRONG:
        raise UserError(
            f"{where} has {len(different)} different sentences; a choice needs {WRONG + 1}."
        )
    places = {text: place for place, text in enumerate(different)}
    nearest = []
    for text in sentences:
        place = places[text]
        around = different[max(0, place - WRONG) : place + WRONG + 1]
        around.sort(key=lambda other: abs(len(other) - len(text)))
        nearest.append([other for other in around if other != text][:WRONG])
    return nearest
