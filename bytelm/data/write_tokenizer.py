"""Trains a tokenizer or a Unigram model on the train split, and writes its file."""

from collections.abc import Callable, Iterable
from pathlib import Path

from bytelm.core.files import check_new_file, write_whole
from bytelm.core.terminal_text import say
from bytelm.data.open_data import Documents, OpenData, training_text
from bytelm.tokenizers import Kind
from bytelm.tokenizers.tokenizer import load_tokenizer
from bytelm.tokenizers.training import train_tokenizer, train_unigram
from bytelm.tokenizers.unigram import Unigram

MEASURED_BYTES = 4 * 10**6
"""Bytes of the validation split on which mean lengths are measured."""


def write_tokenizer(
    data: OpenData, kind: Kind, size: int, max_bytes: int, output: Path, *, transition: float = 0.8
) -> None:
    """Trains a tokenizer, writes it, and prints its tokens and their mean length.

    Args:
        data: the text.
        kind: see `train_tokenizer`, also for `size` and `transition`.
        size: number of tokens.
        max_bytes: most bytes of text to train on, from documents in random order.
        output: the file, which must not exist.
        transition: of SuperBPE.

    Raises:
        UserError: for a split without text, an output that exists, and as `train_tokenizer`.
    """
    check_new_file(output)
    validation = Documents(data, "validation")
    texts = training_text(data, max_bytes)
    write_whole(output, train_tokenizer(texts, kind, size, transition=transition))
    tokenizer = load_tokenizer(output)
    _report(output, tokenizer.size, "token", validation, lambda text: len(tokenizer.encode(text)))


def write_unigram(data: OpenData, pieces: int, max_bytes: int, output: Path) -> None:
    """As `write_tokenizer`, for a Unigram model of at most `pieces` (`train_unigram`)."""
    check_new_file(output)
    validation = Documents(data, "validation")
    write_whole(output, train_unigram(training_text(data, max_bytes), pieces))
    unigram = Unigram(str(output))

    def count(text: bytes) -> int:
        return int(unigram.boundaries(text).sum()) - 1  # START is no piece of text

    _report(output, unigram.vocabulary_size, "piece", validation, count)


def _report(
    output: Path, known: int, unit: str, texts: Iterable[bytes], count: Callable[[bytes], int]
) -> None:
    """Prints how many units a file knows, and their mean bytes in the first `MEASURED_BYTES`."""
    size = units = 0
    for text in texts:
        size += len(text)
        units += count(text)
        if size >= MEASURED_BYTES:
            break
    mean = size / max(units, 1)
    say(f"{output}: {known:,} {unit}s, {mean:.2f} bytes per {unit} on the validation split")
