"""Trains the SentencePiece Unigram model of `data.unigram` on the train split."""

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from sentencepiece import SentencePieceTrainer

from bytelm.data.cache import packed_corpus
from bytelm.data.config import DataConfig
from bytelm.data.documents import Documents
from bytelm.data.order import EndlessShuffle, source_seed
from bytelm.data.sources import Source, open_sources
from bytelm.data.tfds_source import TfdsReader
from bytelm.data.unigram import Unigram
from bytelm.errors import UserError
from bytelm.whole_file import write_whole

SENTENCE = re.compile("\n{0,2}[^\n\t\0\u2585\udc80-\udcff]{1,1000}")
"""A line, or part of a long one, with the line breaks before it: those behind it SentencePiece
drops. It has no use for tabs, NUL and its own mark U+2585, nor for bytes that are not UTF-8."""
CHARACTER_COVERAGE = 0.9995
"""Share of the characters that pieces are made of; a run of rarer ones is one piece."""
THREADS = 8
"""A fixed number, because the model depends on it."""
MEASURED_BYTES = 4 * 10**6
"""Most bytes of the validation split that are cut into pieces."""


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
    if output.exists():
        raise UserError(f"{output} exists already; choose another --output.")
    if not output.parent.is_dir():
        raise UserError(f"--output: there is no directory {output.parent}; make it first.")
    validation = Documents(config, "validation")
    model = train_unigram(config, pieces, max_bytes)
    write_whole(output, model)
    unigram, size, count = Unigram(str(output)), 0, 0
    for text in validation:
        size += len(text)
        count += int(unigram.boundaries(text).sum()) - 1  # START is no piece of text
        if size >= MEASURED_BYTES:
            break
    Console(file=file, highlight=False).print(
        f"{output}: {unigram.vocabulary_size:,} pieces, {size / max(count, 1):.2f} bytes per piece "
        "on the validation split",
        markup=False,
        soft_wrap=True,
    )


def train_unigram(config: DataConfig, pieces: int, max_bytes: int) -> bytes:
    """A Unigram model of the train split, as SentencePiece serializes it.

    Text is taken as it is, and the same text gives the same model. Where there is more text than
    `max_bytes`, each source gives as much as its weight in the mixture says.

    Args:
        config: the text.
        pieces: most pieces of the model; a small text gives fewer.
        max_bytes: most bytes of text to train on.

    Raises:
        UserError: for a bad source, and pieces fewer than the characters of the text.
    """
    total_weight = sum(source.weight for source in config.source_configs)
    sentences: list[str] = []
    for number, source in enumerate(open_sources(config)):
        share = max_bytes * config.source_configs[number].weight / total_weight
        for text in _first_bytes(_shuffled(source, config, source_seed(0, number)), int(share)):
            sentences += SENTENCE.findall(text.decode(errors="surrogateescape"))
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces,
            hard_vocab_limit=False,
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
        raise UserError(
            f"SentencePiece cannot make {pieces} pieces of this text ({reason}); choose another "
            "number with --pieces."
        ) from error
    return model.getvalue()


def _shuffled(source: Source, config: DataConfig, seed: int) -> Iterator[bytes]:
    """The texts of the train split in random order, read as training reads them."""
    if config.read == "stream" and isinstance(source.reader, TfdsReader):
        stored = source.reader.random_access(source.stored_split("train"))
        order = EndlessShuffle(0, len(stored), seed)
        texts = (stored[order[place]] for place in range(len(stored)))
        return filter(source.membership("train"), texts)
    corpus = packed_corpus(source, "train", config.cache_path)
    order = EndlessShuffle(0, corpus.num_documents, seed)
    return (corpus.document(order[place]) for place in range(corpus.num_documents))


def _first_bytes(texts: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The first texts, the last of them cut, that have `count` bytes together."""
    for text in texts:
        yield text[:count]
        count -= len(text)
        if count <= 0:
            return
