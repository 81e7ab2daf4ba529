"""Whole next words, as in Thawani et al. 2023 ("Learn Your Tokens").

A word is a run of characters that are not whitespace. It is right if greedy decoding, given all of
the text before the word, writes it and then ends it: each of its bytes, and the whitespace byte or
END that follows them, is the likeliest next symbol. That is the same with teacher forcing, because
greedy decoding stays on the text as long as all its bytes are right. (Where a word is longer than
the stride, its bytes may have different context.)
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.chart import Chart
from bytelm.core.terminal_text import number_of
from bytelm.evaluation.reading import Ratios, in_order, read_documents
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import BYTES, DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText
from bytelm.inference.segmentation import length_classes, whitespace_starts, word_starts
from bytelm.models.contract import ModelOutput
from bytelm.patching.patches import LENGTHS


@dataclass(frozen=True)
class NextWord(Evaluation):
    """Accuracy of whole next words, by greedy decoding from each word's start."""

    name: ClassVar[str] = "next_word"
    needs: ClassVar[tuple[Need, ...]] = (DECODER, BYTES)

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `next_word_accuracy`, and `.../1`, `/2`, `/3-4`, ... by the bytes of the word.

        A word that the end of a cut document may have cut does not count.
        """
        counts: dict[int, np.ndarray] = {}  # of each document, [2, classes]: right words, all words
        for document, cut in read_documents(loaded, text, scoring, _is_best):
            first, last = word_bounds(document.symbols.astype(np.uint8).tobytes())
            if cut:
                first, last = first[last < document.bytes], last[last < document.bytes]
            wrong = np.cumsum(np.append(0, ~document.values))  # before each symbol and END
            right = wrong[last + 1] == wrong[first]
            classes = length_classes(last - first)
            of_both = [np.bincount(c, minlength=len(LENGTHS)) for c in (classes[right], classes)]
            counts[document.number] = np.stack(of_both)
        right_words, words = np.stack(in_order(counts), axis=1)  # [documents, classes] each
        ratios, name = Ratios(), "next_word_accuracy"
        ratios.add(name, right_words.sum(axis=1), words.sum(axis=1), "share")
        by_length = [
            ratios.add(f"{name}/{length}", right_words[:, place], words[:, place], "share")
            for place, length in enumerate(LENGTHS)
            if words[:, place].any()
        ]
        bars = {figure.name.rpartition("/")[2]: figure.value for figure in by_length}
        chart = Chart.histogram("Next words", "bytes of the word", "share right", {"words": bars})
        details = {"words": int(words.sum()), "right": int(right_words.sum())}
        notes = (number_of(details["words"], "word"),)
        return Result(tuple(ratios.figures), notes, details, items=ratios.items, charts=(chart,))


def _is_best(output: ModelOutput, targets: jax.Array) -> jax.Array:
    """Whether each target is the likeliest symbol, bool `[B, T]`."""
    return output.best == targets


def word_bounds(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The first byte of each word, and the byte after it, int64 `[words]` each."""
    starts = np.flatnonzero(word_starts(text))
    spaces = np.append(np.flatnonzero(whitespace_starts(text)), len(text))
    return starts, spaces[np.searchsorted(spaces, starts, side="right")]
