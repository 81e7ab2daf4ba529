"""Span corruption, the task of T5 and ByT5 (arXiv 1910.10683, 2105.13626).

Random spans of the text ("noise") are removed from the input and expected in the target. A
sentinel replaces each span in the input, and each stretch of kept text in the target: 255, then
254, and so on down. Sentinels are ids of bytes, as in the published checkpoints. The bytes
0xF5-0xFF never occur in valid UTF-8, so the first 11 sentinels are unambiguous in text. Later
sentinels can be confused with bytes, except by their order (the n-th sentinel is 256 - n).
`SpanCorruption` rejects options that make more than 256 spans.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END
from bytelm.data.corpus.packing import Corpus, CorpusRows
from bytelm.data.sources.source import SingleSource, Source
from bytelm.data.tasks.task import (
    EncoderDecoderTask,
    Example,
    ExampleRows,
    OpenText,
    Pair,
    random_of,
)
from bytelm.data.text_record import Split

SENTINELS = BYTES
"""Most spans of a row."""


@dataclass(frozen=True)
class SpanCorruption(EncoderDecoderTask):
    """Writes the random spans that were removed from a text, as ByT5 does."""

    kind: ClassVar[str] = "span_corruption"
    least_length: ClassVar[int] = 3

    noise_density: float = 0.15
    """Share of the text that is removed."""
    mean_span: float = 20.0
    """Mean bytes of a removed span."""

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1:
            raise UserError(
                f"data.noise_density is {self.noise_density}; choose between 0 and 1, such as 0.15."
            )
        if not 1 <= self.mean_span < float("inf"):
            raise UserError(f"data.mean_span is {self.mean_span}; choose 1 or more.")

    def check(self, sources: Sequence[SingleSource], length: int, scripts: Sequence[str]) -> None:
        super().check(sources, length, scripts)
        _, spans = self.span_counts(self.text_length(length))
        if spans > SENTINELS:
            raise UserError(
                f"data.sequence_length {length} and data.mean_span "
                f"{self.mean_span} make {spans} spans in a row, and there are {SENTINELS} "
                "sentinels to stand for them; choose shorter rows or longer spans."
            )

    def own_row_length(self, length: int) -> int:
        return self.corrupted_lengths(self.text_length(length))[1]

    def rows(self, data: OpenText, source: Source, split: Split, seed: int) -> "SpanCorruptionRows":
        return SpanCorruptionRows(data.corpus(source, split), self, data.sequence_length, seed)

    def describe(self, corpus: Corpus, length: int) -> tuple[str, Iterator[Pair]]:
        rows = SpanCorruptionRows(corpus, self, length, seed=0)
        _, spans = self.span_counts(rows.chunk_length)
        words = (
            f"span corruption: {rows.chunk_length:,} symbols of text become {length:,} inputs and "
            f"{rows.target_length:,} targets (spans: {spans})"
        )
        examples = (rows.example(index, None) for index in range(len(rows)))
        return words, (Pair(_text(each.inputs), _text(each.targets)) for each in examples)

    def span_counts(self, length: int) -> tuple[int, int]:
        """How many of `length` symbols, 1 or more, are noise, and in how many spans.

        At least one symbol is noise and one is kept; a single symbol counts as two.
        """
        length = max(length, 2)
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        return noise, max(1, round(min(noise, length - noise) / self.mean_span))

    def corrupted_lengths(self, length: int) -> tuple[int, int]:
        """Most inputs and targets, END included, that `length` symbols of text give."""
        noise, spans = self.span_counts(length)
        return max(length, 2) - noise + spans + 1, noise + spans + 1

    def text_length(self, input_length: int) -> int:
        """The most text whose corrupted input fits in S, 3 or more: 1193 for S = 1024.

        As T5's `compute_input_and_target_lengths`. Shorter text needs no more inputs or targets.
        """
        longest = int(input_length / (1 - self.noise_density)) + 1
        found = bisect.bisect_right(
            range(1, longest + 1),
            input_length,
            key=lambda length: self.corrupted_lengths(length)[0],
        )
        if self.noise_density == 0.5 and self.corrupted_lengths(found)[1] > input_length:
            found -= 1  # T5 would have as many targets as inputs here
        return found

    def noise_mask(self, length: int, rng: np.random.RandomState) -> np.ndarray:
        """Draws which symbols are noise, bool `[length]`: T5's `random_spans_noise_mask`.

        Kept and noise spans alternate, beginning with a kept one; all ways to divide the symbols
        among them are equally likely. A single symbol is kept.
        """
        noise, spans = self.span_counts(length)
        noise_lengths = _divide(noise, spans, rng)
        kept_lengths = _divide(max(length, 2) - noise, spans, rng)
        is_noise = np.tile([False, True], spans)
        return np.repeat(is_noise, np.stack([kept_lengths, noise_lengths], axis=1).ravel())[:length]


def _text(symbols: np.ndarray) -> bytes:
    return bytes(symbols[symbols < END].tolist())


def _divide(count: int, parts: int, rng: np.random.RandomState) -> np.ndarray:
    """Divides `count` into random sizes of 1 or more, int64 `[parts]`."""
    cuts = np.sort(rng.choice(count - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=count)


def corrupt(symbols: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Removes the noise, bool `[L]`, from a text of bytes and END, int32 `[L]`.

    Returns:
        inputs: int32, the kept symbols with a sentinel for each run of noise, and END.
        targets: int32, the noise with a sentinel for each run of kept symbols, and END; no sentinel
            follows the last noise.

    Raises:
        ValueError: for more than 256 runs of either.
    """
    return _with_sentinels(symbols, mask), _with_sentinels(symbols, ~mask)


def _with_sentinels(symbols: np.ndarray, replaced: np.ndarray) -> np.ndarray:
    first = replaced & ~np.pad(replaced[:-1], (1, 0))
    count = np.count_nonzero(first)
    if count > SENTINELS:
        raise ValueError(f"{count} spans in a row, and there are {SENTINELS} sentinels")
    found = symbols.astype(np.int32)
    found[first] = SENTINELS - 1 - np.arange(count)
    return np.append(found[first | ~replaced], np.int32(END))


class SpanCorruptionRows(ExampleRows, CorpusRows):
    """A corpus in corrupted chunks of as many symbols as fit a row; the last chunk is shorter.

    The symbols are each document's bytes and END, without START. Training corrupts a chunk
    differently each time, evaluation always in the same way.
    """

    def __init__(self, corpus: Corpus, task: SpanCorruption, length: int, seed: int) -> None:
        """Defines the rows of S = `length` inputs; `seed` is that of the noise in training."""
        ExampleRows.__init__(self, length, task.row_length(length), corpus.scripts is not None)
        CorpusRows.__init__(self, corpus)
        self.chunk_length = task.text_length(length)
        self._task = task
        self._seed = seed

    @property
    def num_symbols(self) -> int:
        """Bytes of text, and an END for each document."""
        return self.corpus.num_symbols - self.corpus.num_documents

    def __len__(self) -> int:
        return -(-self.num_symbols // self.chunk_length)

    def example(self, index: int, place: int | None) -> Example:
        """One chunk; the noise depends on `place` in training, on `index` in evaluation."""
        key = ("evaluation", index) if place is None else ("training", self._seed, place)
        symbols, document = self.chunk(index)
        mask = self._task.noise_mask(len(symbols), random_of("span corruption", *key))
        scripts = self.corpus.scripts
        return Example(*corrupt(symbols, mask), -1 if scripts is None else int(scripts[document]))

    def chunk(self, index: int) -> tuple[np.ndarray, int]:
        """The symbols of a chunk, int32 `[at most chunk_length]`, and its first document."""
        first = index * self.chunk_length
        last = min(first + self.chunk_length, self.num_symbols) - 1
        low, high = self._document_at(first), self._document_at(last)
        # The corpus also has a START before each document.
        begin = first + low + 1
        symbols = self.corpus.symbols[begin : last + high + 2].astype(np.int32)
        starts = self.corpus.starts[low + 1 : high + 2] - begin
        ends = starts - 1
        symbols[ends[ends < len(symbols)]] = END
        return np.delete(symbols, starts[:-1]), low

    def _document_at(self, position: int) -> int:
        """The document at a position in the text without START."""
        documents, starts = range(self.corpus.num_documents), self.corpus.starts
        return bisect.bisect_right(documents, position, key=lambda d: int(starts[d]) - d) - 1
