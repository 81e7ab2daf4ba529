"""The rows of a split, of every source, as `data.task` makes them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bytelm.data.config import DIAGNOSTICS, DataConfig, Split
from bytelm.data.corpus.cache import training_corpus
from bytelm.data.corpus.packing import ConcatenatedRows, Corpus, Rows, RowSource, pack
from bytelm.data.corpus.shards import PieceRows
from bytelm.data.corpus.tokens import token_corpus
from bytelm.data.sources.source import Source, open_sources
from bytelm.data.stream import stream_script
from bytelm.data.tasks.diagnostics import DiagnosticRows
from bytelm.data.tasks.pairs import PairRows
from bytelm.data.tasks.span_corruption import SpanCorruptionRows
from bytelm.data.tasks.stochastok import StochasticRows
from bytelm.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bytelm.tokenizers.unigram import Unigram


def training_rows(config: DataConfig, seed: int) -> tuple[ConcatenatedRows, str]:
    """The rows to train on, and their fingerprint as `TrainLoader` has it.

    Args:
        config: what to read, and the length of the rows.
        seed: of what is drawn anew in each epoch.

    Raises:
        UserError: for a bad source.
    """
    if config.task in DIAGNOSTICS:
        return ConcatenatedRows([DiagnosticRows(config, "train", seed)]), config.task
    if config.task == "pairs":
        pairs = [PairRows(source, "train", config) for source in open_sources(config)]
        return ConcatenatedRows(pairs), "-".join(rows.fingerprint for rows in pairs)
    unigram, tokenizer = open_unigram(config), open_tokenizer(config)
    corpora = [training_corpus(source, "train", config, unigram) for source in open_sources(config)]
    fingerprint = join_fingerprints([corpus.fingerprint for corpus in corpora], unigram, tokenizer)
    if tokenizer is None:
        of_bytes = [_text_rows(corpus, config, seed) for corpus in corpora]
        return ConcatenatedRows(of_bytes), fingerprint
    tokens = [token_corpus(corpus, tokenizer, config.cache_path) for corpus in corpora]
    if config.stochastok:
        rows = [StochasticRows(corpus, config, tokenizer, seed) for corpus in tokens]
        return ConcatenatedRows(rows), fingerprint
    return ConcatenatedRows([_text_rows(corpus, config, seed) for corpus in tokens]), fingerprint


def evaluation_rows(
    config: DataConfig,
    split: Split,
    wanted: Sequence[int | None],
    sources: Sequence[Source] | None = None,
) -> ConcatenatedRows:
    """The rows of a split.

    Args:
        config: what to read, and the length of the rows.
        split: which split.
        wanted: how many rows of each source will be read; None for all.
        sources: of the config, where they are open already.

    Raises:
        UserError: for a bad source, and a split without text.
    """
    if config.task in DIAGNOSTICS:
        return ConcatenatedRows([DiagnosticRows(config, split)])
    if sources is None:
        sources = open_sources(config)
    if config.task == "pairs":
        return ConcatenatedRows([PairRows(source, split, config) for source in sources])
    unigram, tokenizer = open_unigram(config), open_tokenizer(config)
    if tokenizer is not None:
        packed = [training_corpus(source, split, config, None) for source in sources]
        tokens = [token_corpus(corpus, tokenizer, config.cache_path) for corpus in packed]
        return ConcatenatedRows([Rows(corpus, config.sequence_length) for corpus in tokens])
    corpora = [
        _corpus(config, source, unigram, split, rows)
        for source, rows in zip(sources, wanted, strict=True)
    ]
    return ConcatenatedRows([corpus_rows(corpus, config) for corpus in corpora])


def open_unigram(config: DataConfig) -> Unigram | None:
    """The model of `data.unigram`."""
    return None if config.unigram is None else Unigram(config.unigram)


def open_tokenizer(config: DataConfig) -> Tokenizer | None:
    """The tokenizer of `data.tokenizer`."""
    return None if config.tokenizer is None else load_tokenizer(config.tokenizer)


def join_fingerprints(
    sources: Sequence[str], unigram: Unigram | None, tokenizer: Tokenizer | None = None
) -> str:
    """The fingerprint of all that a run reads."""
    return "-".join([*sources, *(model.digest for model in (unigram, tokenizer) if model)])


def _text_rows(corpus: Corpus, config: DataConfig, seed: int) -> RowSource:
    if config.piece_bytes is not None:
        return PieceRows(corpus, config.sequence_length, config.piece_bytes, seed)
    return corpus_rows(corpus, config, seed)


def corpus_rows(corpus: Corpus, config: DataConfig, seed: int = 0) -> RowSource:
    """The rows of a corpus that `data.task` makes; `seed` is of what training draws."""
    if config.task == "span_corruption":
        lengths = (config.sequence_length, config.row_length)
        return SpanCorruptionRows(corpus, *lengths, config.noise_density, config.mean_span, seed)
    return Rows(corpus, config.sequence_length)


def _corpus(
    config: DataConfig, source: Source, unigram: Unigram | None, split: Split, rows: int | None
) -> Corpus:
    """The documents of a split; of a source that is streamed, only those of the first rows."""
    if config.read == "packed" or rows is None:
        return training_corpus(source, split, config, unigram)
    texts = (document.text for document in source.documents(split))
    few = _at_most(texts, rows * config.sequence_length + 1)
    return corpus_in_memory(config, source, unigram, few)


def corpus_in_memory(
    config: DataConfig, source: Source, unigram: Unigram | None, texts: Iterable[bytes]
) -> Corpus:
    """Documents of a source that is not packed, with what rows carry of them besides.

    Raises:
        UserError: for a source of a script that `data.scripts` lacks.
    """
    script = stream_script(source, config.scripts)
    corpus = pack(texts)
    scripts = boundaries = None
    if script is not None:
        scripts = np.full(corpus.num_documents, script, np.int32)
    if unigram is not None:
        marks = [unigram.boundaries(text) for text in corpus.documents()]
        boundaries = np.concatenate([np.zeros(0, np.bool_), *marks])
    return Corpus(corpus.symbols, corpus.starts, scripts, boundaries)


def _at_most(texts: Iterator[bytes], symbols: int) -> Iterator[bytes]:
    """The first documents until they have so many symbols."""
    while symbols > 0 and (text := next(texts, None)) is not None:
        yield text
        symbols -= len(text) + 2
