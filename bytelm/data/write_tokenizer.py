"""Trains a tokenizer or a Unigram model on the train split, and writes its file."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from bytelm.core.console import TerminalConsole
from bytelm.core.files import check_new_file, write_whole
from bytelm.data.open_data import Documents, OpenData, training_text
from bytelm.tokenizers import Kind
from bytelm.tokenizers.tokenizer import load_tokenizer
from bytelm.tokenizers.training import train_tokenizer, train_unigram
from bytelm.tokenizers.unigram import Unigram

MEASURED_BYTES = 4 * 10**6
"""Bytes of the validation split on which mean lengths are measured."""


def write_tokenizer(
    data: OpenData,
    kind: Kind,
    size: int,
    max_bytes: int,
    output: Path,
    *,
    transition: float = 0.8,
    file: TextIO | None = None,
) -> None:
    """Trains a tokenizer, writes it, and prints its tokens and their mean length.

    Args:
        data: the text.
        kind: see `train_tokenizer`, also for `size` and `transition`.
        size: number of tokens.
        max_bytes: most bytes of text to train on, from documents in random order.
        output: the file, which must not exist.
        transition: of SuperBPE.
        file: where to print; None = standard output.

    Raises:
        UserError: for a split without text, an output that exists, and as `train_tokenizer`.
    """
    check_new_file(output)
    validation = Documents(data, "validation")
    texts = training_text(data, max_bytes)
    write_whole(output, train_tokenizer(texts, kind, size, transition=transition))
    tokenizer = load_tokenizer(output)
    mean = mean_bytes(validation, lambda text: len(tokenizer.encode(text)))
    _say(output, f"{tokenizer.size:,} tokens, {mean:.2f} bytes per token", file)


def write_unigram(
    data: OpenData, pieces: int, max_bytes: int, output: Path, file: TextIO | None = None
) -> None:
    """Trains a Unigram model of at most `pieces`, as `write_tokenizer`.

    Raises:
        UserError: for a split without text, an output that exists, and as `train_unigram`.
    """
    check_new_file(output)
    validation = Documents(data, "validation")
    write_whole(output, train_unigram(training_text(data, max_bytes), pieces))
    unigram = Unigram(str(output))
    # START is no piece of text.
    mean = mean_bytes(validation, lambda text: int(unigram.boundaries(text).sum()) - 1)
    _say(output, f"{unigram.vocabulary_size:,} pieces, {mean:.2f} bytes per piece", file)


def mean_bytes(texts: Iterable[bytes], count: Callable[[bytes], int]) -> float:
    """Mean bytes per piece in the first `MEASURED_BYTES`; `count` gives the pieces of a text."""
    size = pieces = 0
    for text in texts:
        size += len(text)
        pieces += count(text)
        if size >= MEASURED_BYTES:
            break
    return size / max(pieces, 1)


def _say(output: Path, found: str, file: TextIO | None) -> None:
    console = TerminalConsole(file)
    console.print(f"{output}: {found} on the validation split", markup=False, soft_wrap=True)
