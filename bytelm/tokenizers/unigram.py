"""The pieces of a SentencePiece Unigram model, as boundaries in bytes (arXiv 1804.10959)."""

import hashlib
import re
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor

from bytelm.core.errors import UserError

INVALID_BYTE = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of a byte that is not UTF-8."""


class Unigram:
    """A SentencePiece model that cuts any byte string into pieces; can be pickled.

    Attributes:
        path: where the model was read from.
        content: of its file.
        digest: hex digest of the content.
        vocabulary_size: how many pieces it knows.
    """

    def __init__(self, path: str) -> None:
        """Reads a model file.

        Raises:
            UserError: for a file that is not there, or is no SentencePiece model.
        """
        how = "make one with `bytelm data unigram PRESET --output"
        try:
            content = Path(path).expanduser().read_bytes()
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
        """Where pieces end in a document.

        Each byte that is not UTF-8 is a piece of its own, as is START; END has no mark.

        Args:
            document: any bytes.

        Returns:
            bool `[len(document) + 2]`, with the START before and the END after the bytes.
        """
        marks = np.zeros(len(document) + 2, np.bool_)
        marks[0] = True
        position = 1
        for stretch in _valid_stretches(document):
            if stretch:
                offsets = self._processor.encode(stretch, return_type="offset_mapping")["offsets"]
                # An end of 0 marks the symbol before the stretch, which has its mark anyway.
                ends = np.array([end for _, end in offsets], np.int64)
                marks[position + ends - 1] = True
                # The model may drop characters in the end, such as spaces.
                marks[position + len(stretch) - 1] = True
            position += len(stretch) + 1
            marks[position - 1] = True
        marks[-1] = False
        return marks


def _valid_stretches(document: bytes) -> list[bytes]:
    """The text before, between and after the bytes that are not UTF-8."""
    text = document.decode(errors="surrogateescape")
    return [stretch.encode() for stretch in INVALID_BYTE.split(text)]
