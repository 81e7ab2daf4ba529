"""The symbols a model reads and predicts: the 256 bytes, then the special symbols.

Ids 0-255 are the bytes themselves, so that any byte string is valid input and no id ever
needs translating. What a model may predict comes first, so that the predicted vocabulary is
a prefix of the input vocabulary: the 256 bytes and the end of the document. A subword model has
a tokenizer's tokens in place of the bytes, followed by the special symbols.
"""

from dataclasses import dataclass

import numpy as np

BYTES = 256
END = 256
"""End of a document: predicted, and counted in "bits per byte with end-of-document"."""
START = 257
"""Start of a document: read, never predicted, never scored."""
PAD = 258
"""Filler after the last document of a row: neither read nor scored (its document id is 0)."""

OUTPUT_SIZE = 257
"""Number of symbols a model predicts: the bytes and END."""
INPUT_SIZE = 259
"""Number of symbols a model reads: the bytes, END, START and PAD."""

UNSCORED = -1
"""Target at positions whose next symbol is not scored: padding, and START after END."""


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a model: `size` bytes or tokens, then END, START and PAD."""

    size: int = BYTES

    @property
    def end(self) -> int:
        """The end of a document; END where text is bytes."""
        return self.size

    @property
    def start(self) -> int:
        """The start of a document; START where text is bytes."""
        return self.size + 1

    @property
    def pad(self) -> int:
        """Filler; PAD where text is bytes."""
        return self.size + 2

    @property
    def outputs(self) -> int:
        """Number of symbols a model predicts."""
        return self.size + 1

    @property
    def inputs(self) -> int:
        """Number of symbols a model reads."""
        return self.size + 3

    def frame(self, text: np.ndarray) -> np.ndarray:
        """A whole document `[N]` between its START and its END: int32 `[N + 2]`."""
        return np.concatenate([[self.start], text, [self.end]], dtype=np.int32)

    def scored(self, following: np.ndarray) -> np.ndarray:
        """The targets at positions followed by these symbols: UNSCORED for START and PAD."""
        return np.where(following > self.end, np.int32(UNSCORED), following)


BYTE_VOCABULARY = Vocabulary()
