"""Documents as tokens of `data.tokenizer`, stored next to their packed bytes."""

from pathlib import Path
from typing import Any

import numpy as np

from bytelm.data.corpus.build_once import Entry, build_once, open_or_build
from bytelm.data.corpus.cache import START_BYTES, STARTS, PackedCorpus, document_progress
from bytelm.data.corpus.packing import Corpus
from bytelm.data.corpus.resumable import ResumableFiles
from bytelm.tokenizers.tokenizer import Tokenizer

TOKENS = "tokens.bin"
"""Token ids; START and END are 0."""


class TokenCorpus(Corpus):
    """The documents of a packed corpus as tokens, memory-mapped."""

    def __init__(self, directory: Path, corpus: PackedCorpus, tokenizer: Tokenizer) -> None:
        self._entry = Entry(directory)  # kept, so that no other process removes it
        super().__init__(
            symbols=self._entry.array(TOKENS, _id_type(tokenizer)),
            starts=self._entry.checked(STARTS, "<i8"),
            scripts=corpus.scripts,
            vocabulary=tokenizer.vocabulary,
            byte_counts=tokenizer.byte_counts,
            fingerprint=corpus.fingerprint,
        )
        self._origin = (directory, corpus, tokenizer)

    @property
    def num_bytes(self) -> int:
        return self._origin[1].num_bytes

    def __reduce__(self) -> tuple[type["TokenCorpus"], tuple[object, ...]]:
        """Worker processes map the files themselves."""
        return TokenCorpus, self._origin


def token_corpus(corpus: PackedCorpus, tokenizer: Tokenizer, cache_path: Path) -> TokenCorpus:
    """Opens the tokens of a corpus, and computes them if they are not stored.

    Raises:
        UserError: for text that the tokenizer cannot write back, or a full disk.
    """
    directory = cache_path / "tokens" / f"{corpus.fingerprint}-{tokenizer.digest}"

    def build() -> None:
        content = f"the tokens of {corpus.name}"
        size = corpus.num_symbols * _id_type(tokenizer).itemsize
        build_once(
            directory,
            content,
            size,
            lambda partial: _tokenize(corpus, tokenizer, partial),
            resumes=True,
        )

    return open_or_build(lambda: TokenCorpus(directory, corpus, tokenizer), build)


def _id_type(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.size <= 2**16 else "<u4")


def _tokenize(corpus: PackedCorpus, tokenizer: Tokenizer, directory: Path) -> dict[str, Any]:
    """Writes the tokens and the starts; returns the summary."""
    kind = _id_type(tokenizer)
    with (
        ResumableFiles(directory, [TOKENS, STARTS], f"the tokens of {corpus.name}") as written,
        document_progress(f"cutting {corpus.name} into tokens", corpus, written.done) as progress,
    ):
        tokens, starts = written.files[TOKENS], written.files[STARTS]
        position = tokens.tell() // kind.itemsize
        for index in range(written.done, corpus.num_documents):
            text = corpus.document(index)
            starts.write(position.to_bytes(START_BYTES, "little"))
            ids = np.pad(tokenizer.encode(text), 1)
            tokens.write(ids.astype(kind).tobytes())
            position += len(ids)
            written.advance()
            progress.advance(len(text))
        starts.write(position.to_bytes(START_BYTES, "little"))
    count = position - 2 * corpus.num_documents
    return {"name": corpus.name, "tokenizer": tokenizer.digest, "tokens": count}
