"""Pieces of a SentencePiece Unigram model as boundaries in bytes (arXiv 1804.10959)."""

import hashlib
import re

import numpy as np
from sentencepiece import SentencePieceProcessor

from bytelm.core.errors import UserError
from bytelm.core.places import place

INVALID_BYTE = re.compile("[\udc80-\udcff]")
"""A byte that is not UTF-8, as `surrogateescape` decodes it."""


class Unigram:
    """A SentencePiece model that cuts any byte string into pieces; can be pickled.

    Attributes:
        path: of the file.
        content: of the file.
        digest: hex digest of the content.
        vocabulary_size: number of pieces.
    """

    def __init__(self, path: str) -> None:
        """Reads a file; UserError if it is missing, or no SentencePiece model."""
        how = "make one with `bytelm data unigram PRESET --output"
        try:
            content = place(path).expanduser().read_bytes()
        except OSError as error:
            raise UserError(
                f"data.unigram: cannot read the model {path} ({error.strerror}); {how} {path}`."
            ) from error
        try:
            self._processor = SentencePieceProcessor.from_proto(content)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"data.unigram: {path} is damaged, or no SentencePiece model; {how} NEW.model`."
            ) from error
        self.path = path
        self.content = content
        self.digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        self.vocabulary_size = len(self._processor)

    def boundaries(self, document: bytes) -> np.ndarray:
        """Where pieces end in a document of any bytes, bool `[len(document) + 2]`.

        The array includes START and END. START and each byte that is not UTF-8 are pieces of their
        own; END has no boundary.
        """
        marks = np.zeros(len(document) + 2, np.bool_)
        marks[0] = True
        position = 1
        for text in INVALID_BYTE.split(document.decode(errors="surrogateescape")):
            stretch = text.encode()
            if stretch:
                offsets = self._processor.encode(stretch, return_type="offset_mapping")["offsets"]
                # An end of 0 marks the symbol before the stretch, which is a boundary anyway.
                ends = np.array([end for _, end in offsets], np.int64)
                marks[position + ends - 1] = True
                # The model may drop characters at the end, such as spaces.
                marks[position + len(stretch) - 1] = True
            position += len(stretch) + 1
            marks[position - 1] = True
        marks[-1] = False
        return marks
