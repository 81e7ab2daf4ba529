"""Trains the SentencePiece Unigram model of `data.unigram` on the train split."""

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from sentencepiece import SentencePieceTrainer

from bytelm.core.atomic_write import write_whole
from bytelm.core.console import TerminalConsole
from bytelm.core.errors import UserError
from bytelm.core.output_files import check_new_file
from bytelm.data.config import DataConfig
from bytelm.data.corpus.documents import Documents
from bytelm.data.corpus.training_text import training_text
from bytelm.tokenizers.unigram import Unigram

SENTENCE = re.compile("\n{0,2}[^\n\t\0\u2585\udc80-\udcff]{1,1000}")
"""A line, or part of a long one, with the line breaks before it: those behind it SentencePiece
drops. It has no use for tabs, NUL and its own mark U+2585, nor for bytes that are not UTF-8."""
CHARACTER_COVERAGE = 0.9995
"""Share of the characters that pieces are made of; a run of rarer ones is one piece."""
THREADS = 8
"""A fixed number, because the model depends on it."""
MEASURED_BYTES = 4 * 10**6
"""Most bytes of the validation split that a mean length is measured on."""


def write_unigram(
    config: DataConfig, pieces: int, max_bytes: int, output: Path, file: TextIO | None = None
) -> None:
    """Trains a model, writes it, and prints its pieces and their mean length.

    Args:
        config: the text.
        pieces: most pieces of the model.
        max_bytes: most bytes of text to train on, of documents in random order.
        output: the file of the model, which must not exist.
        file: where to print; none = standard output.

    Raises:
        UserError: for a bad source, a split without text, an output that exists, and pieces fewer
            than the characters of the text.
    """
    check_new_file(output)
    validation = Documents(config, "validation")
    write_whole(output, train_unigram(config, pieces, max_bytes))
    unigram = Unigram(str(output))
    # START is no piece of text.
    mean = mean_bytes(validation, lambda text: int(unigram.boundaries(text).sum()) - 1)
    TerminalConsole(file).print(
        f"{output}: {unigram.vocabulary_size:,} pieces, {mean:.2f} bytes per piece on the "
        "validation split",
        markup=False,
        soft_wrap=True,
    )


def mean_bytes(texts: Iterable[bytes], count: Callable[[bytes], int]) -> float:
    """Mean length in bytes of the pieces of the first `MEASURED_BYTES` of texts.

    Args:
        texts: documents.
        count: how many pieces a document has.
    """
    size = pieces = 0
    for text in texts:
        size += len(text)
        pieces += count(text)
        if size >= MEASURED_BYTES:
            break
    return size / max(pieces, 1)


def train_unigram(
    config: DataConfig, pieces: int, max_bytes: int, *, any_bytes: bool = False
) -> bytes:
    """A Unigram model of the train split, as SentencePiece serializes it.

    Text is taken as it is, and the same text gives the same model.

    Args:
        config: the text.
        pieces: most pieces of the model; a small text gives fewer.
        max_bytes: most bytes of `training_text`.
        any_bytes: whether each of the 256 bytes is a piece too, so that any text can be written;
            then the model has exactly so many pieces.

    Raises:
        UserError: for a bad source, and pieces fewer than the characters of the text, or more
            than it gives where their number is to be exact.
    """
    sentences: list[str] = []
    for text in training_text(config, max_bytes):
        sentences += SENTENCE.findall(text.decode(errors="surrogateescape"))
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces,
            hard_vocab_limit=any_bytes,
            byte_fallback=any_bytes,
            character_coverage=CHARACTER_COVERAGE,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            bos_id=-1,
            eos_id=-1,
            num_threads=THREADS,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        # It advises an option of its own behind that.
        reason = str(error).rpartition("] ")[2].partition(" Increase")[0].rstrip(".")
        reason = reason.replace(". Please set", ": set")
        option = "--size" if any_bytes else "--pieces"
        raise UserError(
            f"SentencePiece cannot make {pieces} pieces of this text ({reason}); choose another "
            f"number with {option}."
        ) from error
    return model.getvalue()
