"""The rows on which a run is validated while it trains, and what they are compared by."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bytelm.core.terminal_text import printable_name
from bytelm.data.config import DIAGNOSTICS, DataConfig
from bytelm.data.corpus.cache import no_text, training_corpus
from bytelm.data.corpus.packing import Corpus
from bytelm.data.corpus.spread import SEED, DrawnRows, SpreadRows, drawn_rows
from bytelm.data.corpus.tokens import token_corpus
from bytelm.data.order import EndlessShuffle
from bytelm.data.rows import corpus_in_memory, corpus_rows, open_tokenizer, open_unigram
from bytelm.data.sources.source import Source, open_sources
from bytelm.data.sources.tfds import TfdsReader
from bytelm.data.tasks.diagnostics import DiagnosticRows
from bytelm.data.tasks.pairs import PairRows
from bytelm.models.contract import Batch

STREAMED = 2
"""Of a stream, at least so many times the wanted text is read, from documents at random."""


@dataclass(frozen=True)
class ValidationSource:
    """What a run is validated on of one of its sources.

    Attributes:
        name: of the source; different ones have different names.
        rows: that are scored.
        origin: in words, what the rows are picked from.
        factor: by which sums over these rows count in those of all sources, so that each source
            has its share of the mixture, however many rows it could give.
    """

    name: str
    rows: SpreadRows | DrawnRows
    origin: str
    factor: float = 1.0


class ValidationText:
    """The rows on which a run is validated, each time the same ones.

    Attributes:
        sources: of which there are rows.
        fingerprint: hex digest of all rows: figures of equal fingerprints can be compared.
    """

    def __init__(
        self,
        config: DataConfig,
        rows: int,
        *,
        multiple: int = 1,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Picks the rows of the validation split.

        Args:
            config: what to read, and the length of rows.
            rows: about how many, over all sources by their weights.
            multiple: batches have a multiple of so many rows, which divides `config.batch_size`.
            process_index: which of the processes this is, from 0.
            process_count: how many processes share each batch; it divides `multiple`.

        Raises:
            UserError: for a bad source, and a split without text.
        """
        self.sources = _sources(config, rows)
        most = max(len(source.rows) for source in self.sources)
        # As few batches as hold the rows, and no larger than they must be.
        count = -(-most // config.batch_size)
        self._batch_size = -(-most // (count * multiple)) * multiple
        self._local_size = self._batch_size // process_count
        self._offset = process_index * self._local_size
        self.fingerprint = self._digest()

    def batches(self, source: ValidationSource) -> Iterator[Batch]:
        """This process's rows of each batch of a source, numpy arrays `[B / processes, T]`.

        The last batch is filled up with rows of padding, whose targets are UNSCORED.
        """
        for begin in range(self._offset, self._offset + len(source.rows), self._batch_size):
            yield Batch(**source.rows.batch(range(begin, begin + self._local_size)))

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for source in self.sources:
            digest.update(f"{source.factor:.6g} {len(source.rows)}".encode())
            for index in range(len(source.rows)):
                for name, values in sorted(source.rows.batch([index]).items()):
                    digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def _sources(config: DataConfig, rows: int) -> list[ValidationSource]:
    if config.task in DIAGNOSTICS:
        # Their rows are independent random text: the first are as good as any.
        first = DrawnRows(DiagnosticRows(config, "validation"), np.arange(rows))
        return [ValidationSource(config.task, first, "random text")]
    opened, weights = open_sources(config), [each.weight for each in config.source_configs]
    shares = [weight / sum(weights) for weight in weights]
    picked = [
        _picked_rows(config, source, max(1, round(rows * share)))
        for source, share in zip(opened, shares, strict=True)
    ]
    size = sum(rows.size for rows, _ in picked)
    names: list[str] = []
    for source in opened:
        name = printable_name(source.name)
        number = sum(other.partition(" #")[0] == name for other in names)
        names.append(f"{name} #{number + 1}" if number else name)
    return [
        ValidationSource(name, rows, origin, share * size / rows.size)
        for name, (rows, origin), share in zip(names, picked, shares, strict=True)
    ]


def _picked_rows(
    config: DataConfig, source: Source, wanted: int
) -> tuple[SpreadRows | DrawnRows, str]:
    """Rows of the validation split of a source, and what they are picked from."""
    if config.task == "pairs":
        pairs = PairRows(source, "validation", config)
        return drawn_rows(pairs, wanted), f"{len(pairs):,} pairs"
    corpus, text, origin = _corpora(config, source, wanted)
    if config.task == "span_corruption":
        return drawn_rows(corpus_rows(corpus, config), wanted), origin
    rows = SpreadRows(
        corpus, config.sequence_length, wanted, piece_bytes=config.piece_bytes, text=text
    )
    return rows, origin


def _corpora(config: DataConfig, source: Source, wanted: int) -> tuple[Corpus, Corpus, str]:
    """The documents of the validation split, also as bytes, and what they are in words.

    Of a stream, they are only some.
    """
    unigram, tokenizer = open_unigram(config), open_tokenizer(config)
    if config.read == "stream":
        texts, stored = _random_documents(source, wanted, config.sequence_length)
        corpus = corpus_in_memory(config, source, unigram, texts)
        return corpus, corpus, f"{len(texts):,} documents at random of a stream of {stored:,}"
    packed = training_corpus(source, "validation", config, unigram)
    origin = f"{packed.num_documents:,} documents"
    if tokenizer is None:
        return packed, packed, origin
    return token_corpus(packed, tokenizer, config.cache_path), packed, origin


def _random_documents(source: Source, wanted: int, length: int) -> tuple[list[bytes], int]:
    """Documents of a stream's validation split, and how many documents are stored.

    They are as many as the wanted rows at least, and have STREAMED times as much text.
    """
    stored = source.stored_split("validation")
    if not isinstance(source.reader, TfdsReader) or (stored == "train" and not source.held_out):
        raise no_text(source, "validation")
    documents = source.reader.random_access(stored)
    placement = source.placement if stored == "train" else None
    order = EndlessShuffle(0, len(documents), SEED)
    found: list[bytes] = []
    symbols = 0
    for place in range(len(documents)):
        text = documents[order[place]]
        part = text if placement is None else placement.part_in("validation", text)
        if part is not None:
            found.append(part)
            symbols += len(part) + 2
        if len(found) >= wanted and symbols >= STREAMED * wanted * length:
            break
    if not any(found):
        raise no_text(source, "validation")
    return found, len(documents)
