"""Documents as the tokens of `data.tokenizer`, kept on disk beside their packed bytes."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.data.build_once import build_once, is_complete
from bytelm.data.cache import START_BYTES, STARTS, PackedCorpus, mapped
from bytelm.data.packing import Corpus
from bytelm.subword.tokenizer import Tokenizer

TOKENS = "tokens.bin"
"""Token ids; START and END are 0."""

logger = logging.getLogger(__name__)


class TokenCorpus(Corpus):
    """The documents of a packed corpus as tokens, memory-mapped.

    Attributes:
        fingerprint: of the documents' bytes and order.
    """

    def __init__(self, directory: Path, corpus: PackedCorpus, tokenizer: Tokenizer) -> None:
        super().__init__(
            symbols=mapped(directory / TOKENS, _id_type(tokenizer)),
            starts=mapped(directory / STARTS, "<i8"),
            scripts=corpus.scripts,
            vocabulary=tokenizer.vocabulary,
            byte_counts=tokenizer.byte_counts,
        )
        self.fingerprint = corpus.fingerprint
        self._origin = (directory, corpus, tokenizer)

    def __reduce__(self) -> tuple[type["TokenCorpus"], tuple[object, ...]]:
        """Worker processes map the files themselves."""
        return TokenCorpus, self._origin


def token_corpus(corpus: PackedCorpus, tokenizer: Tokenizer, cache_path: Path) -> TokenCorpus:
    """Opens the tokens of a corpus, and makes them first if there are none yet.

    Raises:
        UserError: for text that the tokenizer cannot write back, or too little room on the disk.
    """
    directory = cache_path / "tokens" / f"{corpus.fingerprint}-{tokenizer.digest}"
    if not is_complete(directory):
        content = f"the tokens of {corpus.name}"
        size = corpus.num_symbols * _id_type(tokenizer).itemsize
        build_once(directory, content, size, lambda partial: _tokenize(corpus, tokenizer, partial))
    return TokenCorpus(directory, corpus, tokenizer)


def _id_type(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.size <= 2**16 else "<u4")


def _tokenize(corpus: PackedCorpus, tokenizer: Tokenizer, directory: Path) -> dict[str, Any]:
    """Writes the tokens and the starts; returns the summary."""
    begin, position, kind = time.monotonic(), 0, _id_type(tokenizer)
    with open(directory / TOKENS, "wb") as tokens, open(directory / STARTS, "wb") as starts:
        for text in corpus.documents():
            starts.write(position.to_bytes(START_BYTES, "little"))
            ids = np.pad(tokenizer.encode(text), 1)
            tokens.write(ids.astype(kind).tobytes())
            position += len(ids)
        starts.write(position.to_bytes(START_BYTES, "little"))
    seconds = max(time.monotonic() - begin, 1e-9)
    count = position - 2 * corpus.num_documents
    logger.info(
        "cut %s into %d tokens of %.2f bytes at %.1f MB/s",
        corpus.name,
        count,
        corpus.num_bytes / max(count, 1),
        corpus.num_bytes / 1e6 / seconds,
    )
    return {"name": corpus.name, "tokenizer": tokenizer.digest, "tokens": count}
