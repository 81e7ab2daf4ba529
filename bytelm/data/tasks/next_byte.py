"""The task of a decoder: the next byte (or token) of packed documents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from bytelm.core.errors import UserError
from bytelm.data.corpus.cache import no_text
from bytelm.data.corpus.packing import Corpus, Rows, RowSource, pack, script_ids
from bytelm.data.corpus.shards import ShardRows
from bytelm.data.corpus.spread import SEED, SpreadRows
from bytelm.data.order import EndlessShuffle
from bytelm.data.sources.source import SingleSource, Source
from bytelm.data.tasks.stochastok import StochasticRows
from bytelm.data.tasks.task import OpenText, Picked, Task
from bytelm.data.text_record import Split

STREAMED = 2
"""Validation of a stream picks from at least this many times the wanted text."""


@dataclass(frozen=True)
class NextByte(Task):
    """Predicts each next byte of packed documents, or each next token."""

    kind: ClassVar[str] = "next_byte"

    tokenizer: str | None = None
    """Tokenizer whose tokens are the symbols of text, from `bytelm tokenizer train` or a Hugging
    Face tokenizer.json; none = symbols are bytes."""
    stochastok: float = 0.0
    """Share of the tokens that training splits in two at random (StochasTok, arXiv 2506.01687)."""
    unigram: str | None = None
    """SentencePiece model, made by `bytelm data unigram`, whose pieces supervise a model's
    boundaries; none = batches carry no boundaries."""
    shard_bytes: int | None = None
    """Cut documents into shards of this many bytes and shuffle the shards, so that models of bytes
    and of tokens read the same text in the same order; none = rows are shuffled."""
    read: Literal["packed", "shards", "stream"] = "packed"
    """`packed`: from a cache that is built before, rows of all text in random order; `shards`: from
    that cache too, but shard after shard in the order of their names, so that training starts when
    the first ones are packed; `stream`: from a stored dataset too large for the cache."""
    shuffled_shards: int = 8
    """With `read shards`: how many shards are shuffled together."""

    @property
    def streamed(self) -> bool:
        return self.read == "stream"

    @property
    def shards_together(self) -> int | None:
        return self.shuffled_shards if self.read == "shards" else None

    def __post_init__(self) -> None:
        self.require_positive("shard_bytes", "shuffled_shards")
        if self.read == "shards" and self.shard_bytes is not None:
            raise UserError(
                f"data.shard_bytes is {self.shard_bytes}, which is an order of all text; use "
                "--data.read packed, or leave it out."
            )
        if not 0 <= self.stochastok <= 1:
            raise UserError(
                f"data.stochastok is {self.stochastok}; choose from 0 to 1, such as 0.1."
            )
        if self.stochastok and self.tokenizer is None:
            raise UserError(
                f"data.stochastok is {self.stochastok}, and there are no tokens to split; name a "
                "tokenizer with --data.tokenizer, or leave it out."
            )
        if self.stochastok and self.shard_bytes is not None:
            raise UserError(
                "data.stochastok makes rows of its own, which data.shard_bytes cannot order; leave "
                "one of them out."
            )
        for name in ("tokenizer", "shard_bytes"):
            if getattr(self, name) is not None and (self.streamed or self.unigram is not None):
                other = "data.read stream" if self.streamed else "data.unigram"
                raise UserError(
                    f"data.{name} is {getattr(self, name)}, which does not go with {other}; leave "
                    "one of them out."
                )

    def check(self, sources: Sequence[SingleSource], length: int, scripts: Sequence[str]) -> None:
        super().check(sources, length, scripts)
        if self.shard_bytes is not None and len(sources) > 1:
            raise UserError(
                f"data.shard_bytes is {self.shard_bytes}, and a mixture has an order of its own; "
                "name all files in data.files, or leave it out."
            )

    def rows(self, data: OpenText, source: Source, split: Split, seed: int) -> RowSource:
        return self.rows_of(data, data.corpus(source, split), seed)

    def rows_of(self, data: OpenText, corpus: Corpus, seed: int) -> RowSource:
        """The rows of a corpus, as in training."""
        length = data.sequence_length
        if self.stochastok:
            assert data.tokenizer is not None
            return StochasticRows(corpus, length, self.stochastok, data.tokenizer, seed)
        if self.shard_bytes is not None:
            return ShardRows(corpus, length, self.shard_bytes, seed)
        return Rows(corpus, length)

    def evaluation_rows(
        self, data: OpenText, split: Split, wanted: Sequence[int | None]
    ) -> list[RowSource]:
        length = data.sequence_length
        rows: list[RowSource] = []
        for source, count in zip(data.sources, wanted, strict=True):
            if self.streamed and count is not None:
                texts = (document.text for document in source.documents(split))
                corpus = _in_memory(data, source, _at_most(texts, count * length + 1))
            else:
                corpus = data.corpus(source, split)
            rows.append(Rows(corpus, length))
        return rows

    def _picked(self, data: OpenText, source: Source, wanted: int) -> Picked:
        length = data.sequence_length
        if self.streamed:
            texts, stored = _random_documents(source, wanted, length)
            corpus = text = _in_memory(data, source, texts)
            origin = f"{len(texts):,} documents at random of a stream of {stored:,}"
        elif self.shards_together and source.stored_split("validation") == "train":
            # The others are packed while the run trains.
            text = data.packed_window(source, "validation", 0)
            corpus = data.window(source, "validation", 0)
            origin = f"{text.num_documents:,} documents of the first shards"
        else:
            corpus, text = data.corpus(source, "validation"), data.packed(source, "validation")
            origin = f"{text.num_documents:,} documents"
        rows = SpreadRows(corpus, length, wanted, shard_bytes=self.shard_bytes, text=text)
        return Picked(rows, origin)


def source_script(source: Source, scripts: Sequence[str]) -> int | None:
    """The index of a source's script in `data.scripts`, None without any; UserError if unknown."""
    if not scripts:
        return None
    return int(script_ids(source.script and [source.script], scripts, source.name)[0])


def _in_memory(data: OpenText, source: Source, texts: Iterable[bytes]) -> Corpus:
    """A corpus in memory, with scripts and boundaries, of a source that is not packed."""
    script = source_script(source, data.scripts)
    corpus = pack(texts)
    if script is not None:
        corpus.scripts = np.full(corpus.num_documents, script, np.int32)
    if data.unigram is not None:
        marks = [data.unigram.boundaries(text) for text in corpus.documents()]
        corpus.boundaries = np.concatenate([np.zeros(0, np.bool_), *marks])
    return corpus


def _at_most(texts: Iterator[bytes], symbols: int) -> Iterator[bytes]:
    """The first documents that have at least so many symbols together."""
    while symbols > 0 and (text := next(texts, None)) is not None:
        yield text
        symbols -= len(text) + 2


def _random_documents(source: Source, wanted: int, length: int) -> tuple[list[bytes], int]:
    """Random documents of a stream's validation split, and how many documents are stored.

    There are at least as many documents as wanted rows, and STREAMED times as much text.
    """
    stored = source.stored_split("validation")
    documents = source.reader.random_access(stored)
    if documents is None or (stored == "train" and not source.held_out):
        raise no_text(source, "validation")
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
