"""Trains SentencePiece Unigram models on texts."""

import io
import re
from collections.abc import Iterable

from sentencepiece import SentencePieceTrainer

from bytelm.core.errors import UserError

SENTENCE = re.compile("\n{0,2}[^\n\t\0\u2585\udc80-\udcff]{1,1000}")
"""A line, or part of a long one, with the line breaks before it: SentencePiece drops those after
it. It has no use for tabs, NUL and its own mark U+2585, nor for bytes that are not UTF-8."""
CHARACTER_COVERAGE = 0.9995
"""Share of the characters that pieces are made of; a run of rarer ones is one piece."""
THREADS = 8
"""A fixed number, because the model depends on it."""


def train_unigram(texts: Iterable[bytes], pieces: int, *, any_bytes: bool = False) -> bytes:
    """A Unigram model of texts, as SentencePiece serializes it.

    Text is taken as it is, and the same text gives the same model.

    Args:
        texts: to train on.
        pieces: most pieces of the model; a small text gives fewer.
        any_bytes: whether each of the 256 bytes is a piece too, so that any text can be written;
            then the model has exactly so many pieces.

    Raises:
        UserError: for fewer pieces than the text has characters, or, with `any_bytes`, more than it
            gives.
    """
    sentences: list[str] = []
    for text in texts:
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
        # After that it advises an option of its own.
        reason = str(error).rpartition("] ")[2].partition(" Increase")[0].rstrip(".")
        reason = reason.replace(". Please set", ": set")
        option = "--size" if any_bytes else "--pieces"
        raise UserError(
            f"SentencePiece cannot make {pieces} pieces of this text ({reason}); choose another "
            f"number with {option}."
        ) from error
    return model.getvalue()
