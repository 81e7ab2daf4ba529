"""MrT5's diagnostic tasks: what a delete gate may delete is known (arXiv 2410.20771, section 4).

A text is random letters of both cases; the target is the text without what its rule takes out.
As in the authors' code, what the contextual rule and the merge look for is planted, because it is
rare among random letters. In 63 letters the rules take out on average

- `vowel_removal`: 12.1 (19.2 %), all the vowels, which are 10 of the 52 letters;
- `contextual_vowel_removal`: the vowels that follow a lower-case consonant, and no others;
- `merge_abc`: 2 letters of every ABC, which becomes D.
"""

import re
import string

import numpy as np

from bytelm.data.config import DataConfig, Split
from bytelm.data.tasks.encoder_decoder import EncoderDecoderRows, Example, random_of, with_end

VOWELS = b"aeiouAEIOU"
LETTERS = string.ascii_letters.encode()
CONSONANTS = bytes(letter for letter in LETTERS if letter not in VOWELS)
AFTER_LOWER_CONSONANT = re.compile(rb"(?<=[b-df-hj-np-tv-z])[aeiouAEIOU]")

PAIRS = 0.5
"""How many of the pieces of a text for the contextual rule are a consonant and a vowel."""
MERGES = 0.1
"""How many of the pieces of a text for the merge are ABC."""
NUM_ROWS = 2**31
"""Rows of a split: more than a run ever reads."""
EVALUATION_ROWS = 1024
"""How many of them an evaluation takes that is not told how many."""


def target(task: str, text: bytes) -> bytes:
    """What a model shall write for a text."""
    if task == "vowel_removal":
        return text.translate(None, VOWELS)
    if task == "contextual_vowel_removal":
        return AFTER_LOWER_CONSONANT.sub(b"", text)
    return text.replace(b"ABC", b"D")


def random_text(task: str, length: int, rng: np.random.RandomState) -> bytes:
    """Random letters, in the share that the task needs in pieces that its rule looks for."""
    letters = _draw(LETTERS, length, rng)
    if task == "vowel_removal":
        return letters.tobytes()
    if task == "contextual_vowel_removal":
        consonants, vowels = _draw(CONSONANTS, length, rng), _draw(VOWELS, length, rng)
        pieces, share = np.stack([consonants, vowels], axis=1), PAIRS
    else:
        pieces, share = np.tile(np.frombuffer(b"ABC", np.uint8), (length, 1)), MERGES
    planted = rng.random_sample(length) < share
    drawn = [
        (piece if is_planted else letter).tobytes()
        for letter, piece, is_planted in zip(letters, pieces, planted, strict=True)
    ]
    return b"".join(drawn)[:length]


def _draw(letters: bytes, count: int, rng: np.random.RandomState) -> np.ndarray:
    return rng.choice(np.frombuffer(letters, np.uint8), count)


class DiagnosticRows(EncoderDecoderRows):
    """Endless rows of a diagnostic task, each drawn from the seed, the split and its number.

    Splits have random numbers of their own. That two strings are equal is as good as impossible at
    the paper's length of 64; strings of very few letters may occur in several splits.
    """

    def __init__(self, config: DataConfig, split: Split, seed: int = 0) -> None:
        super().__init__(config.sequence_length, config.row_length)
        self._key = (config.task, seed, split)
        self._task = config.task

    def __len__(self) -> int:
        return NUM_ROWS

    def texts(self, index: int) -> tuple[bytes, bytes]:
        """The text of a row, S - 1 letters, and its target."""
        text = random_text(self._task, self.input_length - 1, random_of(*self._key, index))
        return text, target(self._task, text)

    def example(self, index: int, place: int | None) -> Example:
        text, wanted = self.texts(index)
        return Example(with_end(text), with_end(wanted))
