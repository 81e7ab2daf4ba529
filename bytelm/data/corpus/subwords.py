"""Packed text as tokens, or with the boundaries of pieces: computed once, document by document."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bytelm.core.files import write_whole
from bytelm.data.corpus.cache import BOUNDARIES, START_BYTES, STARTS, PackedCorpus
from bytelm.data.corpus.entries import (
    DIGEST_BYTES,
    PROGRESS,
    Entry,
    block_digests,
    build_once,
    open_or_build,
)
from bytelm.data.corpus.packing import Corpus
from bytelm.data.progress import TextProgress
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.tokenizers.unigram import Unigram

TOKENS = "tokens.bin"
"""Token ids; START and END are 0."""
SAVE_SECONDS = 10.0

logger = logging.getLogger(__name__)


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
    kind = _id_type(tokenizer)

    def write(text: bytes, files: dict[str, BinaryIO]) -> None:
        start = files[TOKENS].tell() // kind.itemsize
        files[STARTS].write(start.to_bytes(START_BYTES, "little"))
        files[TOKENS].write(np.pad(tokenizer.encode(text), 1).astype(kind).tobytes())

    def tokenize(partial: Path) -> dict[str, Any]:
        write_documents(corpus, partial, "tokens", [TOKENS, STARTS], write)
        position = (partial / TOKENS).stat().st_size // kind.itemsize
        with (partial / STARTS).open("ab") as starts:
            starts.write(position.to_bytes(START_BYTES, "little"))
        count = position - 2 * corpus.num_documents
        return {"name": corpus.name, "tokenizer": tokenizer.digest, "tokens": count}

    size = corpus.num_symbols * kind.itemsize
    return open_or_build(
        lambda: TokenCorpus(directory, corpus, tokenizer),
        lambda: build_once(directory, f"the tokens of {corpus.name}", size, tokenize),
    )


def _id_type(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.size <= 2**16 else "<u4")


def with_pieces(corpus: PackedCorpus, unigram: Unigram, cache_path: Path) -> PackedCorpus:
    """The corpus with the boundaries of a Unigram model's pieces, computed once."""
    directory = cache_path / "boundaries" / f"{corpus.fingerprint}-{unigram.digest}"

    def write(text: bytes, files: dict[str, BinaryIO]) -> None:
        files[BOUNDARIES].write(unigram.boundaries(text).tobytes())

    def mark(partial: Path) -> dict[str, Any]:
        write_documents(corpus, partial, "pieces", [BOUNDARIES], write)
        return {"name": corpus.name, "model": unigram.digest}

    return open_or_build(
        lambda: corpus.with_boundaries(directory),
        lambda: build_once(directory, f"the pieces of {corpus.name}", corpus.num_symbols, mark),
    )


def write_documents(
    corpus: PackedCorpus,
    directory: Path,
    parts: str,
    names: Sequence[str],
    write: Callable[[bytes, dict[str, BinaryIO]], None],
) -> None:
    """Writes files with these names document by document, after what a stopped process has saved.

    `write` writes one document into the open files; `parts` says what documents are cut into.
    """

    def write_one(index: int, files: dict[str, BinaryIO]) -> None:
        write(corpus.document(index), files)

    places = corpus.starts - 2 * np.arange(len(corpus.starts))  # bytes of text before each document
    content, action = f"the {parts} of {corpus.name}", f"cutting {corpus.name} into {parts}"
    what = (content, action, "documents")
    write_in_order(directory, what, names, places, write_one)


def write_in_order(
    directory: Path,
    what: tuple[str, str, str],
    names: Sequence[str],
    places: np.ndarray,
    write: Callable[[int, dict[str, BinaryIO]], None],
) -> None:
    """Writes files with these names part by part, after what a stopped process has saved.

    Args:
        what: the content in words, what is done to the text, and what the parts are.
        places: int `[parts + 1]`, the bytes of text before each part, and last all of them.
        write: writes the part with this index into the open files.
    """
    content, action, parts = what
    saved = _saved(directory, names)
    done, digests = saved or (0, dict.fromkeys(names, b""))
    if saved:
        logger.warning("continuing %s after %d %s", content, done, parts)
    elif (directory / PROGRESS).exists():
        logger.warning("the unfinished part of %s is damaged; it starts over", content)
    files: dict[str, BinaryIO] = {
        name: (directory / name).open("ab" if saved else "wb") for name in names
    }
    try:
        save_at = time.monotonic() + SAVE_SECONDS
        with TextProgress(action, int(places[-1]), done=int(places[done])) as progress:
            for index in range(done, len(places) - 1):
                write(index, files)
                progress.advance(int(places[index + 1] - places[index]))
                if time.monotonic() >= save_at:
                    _save(directory, files, index + 1, digests)
                    save_at = time.monotonic() + SAVE_SECONDS
        for file in files.values():
            file.close()
    finally:
        for file in files.values():
            with contextlib.suppress(OSError):  # only the last save counts
                file.close()


def _saved(directory: Path, names: Sequence[str]) -> tuple[int, dict[str, bytes]] | None:
    """The number of saved parts, and the digests of their files, cut to what was saved.

    None if nothing was saved, or it is damaged.
    """
    digests = {}
    try:
        saved = json.loads((directory / PROGRESS).read_text())
        for name in names:
            path, size = directory / name, saved["sizes"][name]
            if path.stat().st_size < size:
                return None
            os.truncate(path, size)
            digests[name] = block_digests(path)
            if digests[name].hex() != saved["digests"][name]:
                return None
        return saved["done"], digests
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(
    directory: Path, files: dict[str, BinaryIO], done: int, digests: dict[str, bytes]
) -> None:
    """Saves that `done` parts are written; updates the digests of the last save."""
    for name, file in files.items():
        file.flush()
        os.fsync(file.fileno())
        whole = max(len(digests[name]) // DIGEST_BYTES - 1, 0)  # the last may have grown
        kept = digests[name][: whole * DIGEST_BYTES]
        digests[name] = kept + block_digests(directory / name, whole)
    saved = {
        "done": done,
        "sizes": {name: file.tell() for name, file in files.items()},
        "digests": {name: each.hex() for name, each in digests.items()},
    }
    write_whole(directory / PROGRESS, json.dumps(saved))
