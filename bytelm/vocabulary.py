"""The symbols a byte-level model reads and predicts: the 256 bytes, then the special symbols.

Ids 0-255 are the bytes themselves, so that any byte string is valid input and no id ever
needs translating. What a model may predict comes first, so that the predicted vocabulary is
a prefix of the input vocabulary: the 256 bytes and the end of the document.
"""

BYTES = 256
END = 256
"""End of a document: predicted, and counted in "bits per byte with end-of-document"."""
START = 257
"""Start of a document: read, never predicted, never scored."""
PAD = 258
"""Filler after the last document of a row: neither read nor scored (its segment id is 0)."""

OUTPUT_SIZE = 257
"""Number of symbols a model predicts: the bytes and END."""
INPUT_SIZE = 259
"""Number of symbols a model reads: the bytes, END, START and PAD."""

UNSCORED = -1
"""Target at positions whose next symbol is not scored: padding, and START after END."""
