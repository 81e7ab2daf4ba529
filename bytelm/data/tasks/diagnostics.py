"""MrT5's diagnostic tasks, in which the deletable bytes are known (arXiv 2410.20771, section 4).

A text is random letters of both cases; the target is the text after a rule has deleted some. As in
the authors' code, the strings of the contextual rule and of the merge are planted, because they are
rare among random letters. In 63 letters the rules delete on average

- `vowel_removal`: 12.1 (19.2 %), all the vowels, which are 10 of the 52 letters;
- `contextual_vowel_removal`: the vowels that follow a lower-case consonant, and no others;
- `merge_abc`: 2 letters of every ABC, which becomes D.
"""

import abc
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.data.corpus.packing import RowSource
from bytelm.data.corpus.spread import DrawnRows
from bytelm.data.sources.python_library import PythonLibrary
from bytelm.data.sources.source import SingleSource, Source
from bytelm.data.tasks.task import (
    EncoderDecoderTask,
    Example,
    ExampleRows,
    OpenText,
    Pair,
    Picked,
    random_of,
    with_end,
)
from bytelm.data.text_record import Split

VOWELS = b"aeiouAEIOU"
LETTERS = string.ascii_letters.encode()
CONSONANTS = bytes(letter for letter in LETTERS if letter not in VOWELS)
AFTER_LOWER_CONSONANT = re.compile(rb"(?<=[b-df-hj-np-tv-z])[aeiouAEIOU]")

PAIRS = 0.5
"""Probability of a consonant and a vowel in place of a letter, for the contextual rule."""
MERGES = 0.1
"""Probability of ABC in place of a letter, for the merge."""
NUM_ROWS = 2**31
"""Rows of a split, more than a run ever reads."""
EVALUATED_ROWS = 1024
"""Rows of an evaluation by default."""


@dataclass(frozen=True)
class Diagnostic(EncoderDecoderTask):
    """A task on random letters."""

    makes_text: ClassVar[bool] = True
    evaluated_rows: ClassVar[int | None] = EVALUATED_ROWS
    least_length: ClassVar[int] = 2

    @abc.abstractmethod
    def text(self, length: int, rng: np.random.RandomState) -> bytes:
        """Random letters with planted strings of the rule."""

    @abc.abstractmethod
    def target(self, text: bytes) -> bytes:
        """The expected output for a text."""

    def check(self, sources: Sequence[SingleSource], length: int, scripts: Sequence[str]) -> None:
        super().check(sources, length, scripts)
        if scripts or not all(isinstance(source, PythonLibrary) for source in sources):
            raise UserError(
                f"the task {self.kind} makes up its own text; leave out data.dataset, data.files, "
                "other sources and data.scripts."
            )

    def rows(
        self, data: OpenText, source: Source | None, split: Split, seed: int
    ) -> "DiagnosticRows":
        return DiagnosticRows(self, data.sequence_length, split, seed)

    def rows_of_sources(self, data: OpenText, split: Split, seed: int) -> list[RowSource]:
        return [self.rows(data, None, split, seed)]

    def validation_rows(self, data: OpenText, wanted: Sequence[int]) -> list[Picked]:
        # Rows are independent random text, so the first ones will do.
        rows = self.rows(data, None, "validation", 0)
        return [Picked(DrawnRows(rows, np.arange(wanted[0])), "random text")]

    def pairs(self, data: OpenText, split: Split) -> Iterator[Pair]:
        rows = self.rows(data, None, split, 0)
        return (Pair(*rows.texts(index)) for index in range(EVALUATED_ROWS))


class VowelRemoval(Diagnostic):
    """Deletes all vowels."""

    kind: ClassVar[str] = "vowel_removal"

    def text(self, length: int, rng: np.random.RandomState) -> bytes:
        return _draw(LETTERS, length, rng).tobytes()

    def target(self, text: bytes) -> bytes:
        return text.translate(None, VOWELS)


class ContextualVowelRemoval(Diagnostic):
    """Deletes the vowels that follow a lower-case consonant."""

    kind: ClassVar[str] = "contextual_vowel_removal"

    def text(self, length: int, rng: np.random.RandomState) -> bytes:
        letters = _draw(LETTERS, length, rng)
        consonants, vowels = _draw(CONSONANTS, length, rng), _draw(VOWELS, length, rng)
        return _planted(letters, np.stack([consonants, vowels], axis=1), PAIRS, rng)

    def target(self, text: bytes) -> bytes:
        return AFTER_LOWER_CONSONANT.sub(b"", text)


class MergeAbc(Diagnostic):
    """Writes D in place of ABC."""

    kind: ClassVar[str] = "merge_abc"

    def text(self, length: int, rng: np.random.RandomState) -> bytes:
        abc_letters = np.tile(np.frombuffer(b"ABC", np.uint8), (length, 1))
        return _planted(_draw(LETTERS, length, rng), abc_letters, MERGES, rng)

    def target(self, text: bytes) -> bytes:
        return text.replace(b"ABC", b"D")


def _draw(letters: bytes, count: int, rng: np.random.RandomState) -> np.ndarray:
    return rng.choice(np.frombuffer(letters, np.uint8), count)


def _planted(
    letters: np.ndarray, strings: np.ndarray, probability: float, rng: np.random.RandomState
) -> bytes:
    """N letters, uint8 `[N]`, each replaced by its string, `[N, bytes]`, with a probability."""
    chosen = rng.random_sample(len(letters)) < probability
    drawn = [
        (string if is_chosen else letter).tobytes()
        for letter, string, is_chosen in zip(letters, strings, chosen, strict=True)
    ]
    return b"".join(drawn)[: len(letters)]


class DiagnosticRows(ExampleRows):
    """Endless rows of a diagnostic task, each drawn from the seed, the split and its index.

    At the paper's length of 64, splits practically never share a string; strings of very few
    letters may occur in several splits.
    """

    num_bytes = None

    def __init__(self, task: Diagnostic, length: int, split: Split, seed: int) -> None:
        super().__init__(length, task.row_length(length))
        self.fingerprint = task.kind
        self._key = (task.kind, seed, split)
        self._task = task

    def __len__(self) -> int:
        return NUM_ROWS

    def texts(self, index: int) -> tuple[bytes, bytes]:
        """The text of a row, S - 1 letters, and its target."""
        text = self._task.text(self.input_length - 1, random_of(*self._key, index))
        return text, self._task.target(text)

    def example(self, index: int, place: int | None) -> Example:
        text, target = self.texts(index)
        return Example(with_end(text), with_end(target))
