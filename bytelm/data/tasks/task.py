"""The base of all tasks, which define what a model learns from text."""

import abc
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.data.corpus.cache import PackedCorpus
from bytelm.data.corpus.packing import Corpus, RowSource
from bytelm.data.corpus.spread import DrawnRows, SpreadRows, drawn_rows
from bytelm.data.sources.source import SingleSource, Source
from bytelm.data.text_record import Split
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.tokenizers.unigram import Unigram

T = TypeVar("T")


class OpenText(Protocol):
    """The part of `bytelm.data.open_data.OpenData` that tasks use."""

    sequence_length: int
    scripts: tuple[str, ...]

    @property
    def sources(self) -> tuple[Source, ...]: ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    @property
    def unigram(self) -> Unigram | None: ...

    def packed(self, source: Source, split: Split) -> PackedCorpus: ...

    def corpus(self, source: Source, split: Split) -> Corpus: ...

    def kept(self, key: Hashable, make: Callable[[], T]) -> T: ...


class Pair(NamedTuple):
    """An input and its expected output; `script` names its script or language, if known."""

    input: bytes
    target: bytes
    script: str | None = None


class Picked(NamedTuple):
    """Rows that represent a split of a source, and in words what they were picked from."""

    rows: SpreadRows | DrawnRows
    origin: str


@dataclass(frozen=True)
class Task(Variant, name="data", small=True, key="kind"):
    """What a model learns. Naming its `kind` registers a subclass.

    Tasks of a decoder predict text; tasks of an encoder and a decoder predict a target.
    """

    kind: ClassVar[str]
    has_encoder: ClassVar[bool] = False
    """Whether rows have inputs for an encoder."""
    needs_targets: ClassVar[bool] = False
    """Whether each document of the source needs a target."""
    makes_text: ClassVar[bool] = False
    """Whether it makes up its own text, without a source."""
    evaluated_rows: ClassVar[int | None] = None
    """Rows of an evaluation by default; None for all."""
    least_length: ClassVar[int] = 1
    """The shortest `data.sequence_length`."""

    @property
    def tokenizer(self) -> str | None:
        """File of the tokenizer whose tokens are the symbols of text; None for bytes."""
        return None

    @property
    def unigram(self) -> str | None:
        """File of the Unigram model whose pieces batches carry as boundaries; None for none."""
        return None

    @property
    def streamed(self) -> bool:
        """Whether training reads documents as a stream, not from packed text."""
        return False

    def row_length(self, length: int) -> int:
        """T, the most targets of a row, if `data.sequence_length` is `length`."""
        return length

    def check(self, sources: Sequence[SingleSource], length: int, scripts: Sequence[str]) -> None:
        """Raises UserError if the task does not fit the sources, length or scripts of the data."""
        if length < self.least_length:
            raise UserError(
                f"data.sequence_length is {length}; choose {self.least_length} or "
                f"more for the task {self.kind}."
            )
        for source in sources:
            if self.needs_targets and not source.has_targets:
                raise UserError(
                    f"the task {self.kind} reads an input and a target from each JSON line; name "
                    "their keys with --data.text-key and --data.target-key, and the --data.files."
                )
            if source.has_targets and not self.needs_targets:
                raise UserError(
                    f"data.target_key is given, and the task {self.kind} reads no targets; add "
                    "--data.task pairs, or remove the key."
                )

    @abc.abstractmethod
    def rows(self, data: OpenText, source: Source, split: Split, seed: int) -> RowSource:
        """The rows of a split of one source, as in training; UserError for no text.

        `seed` is that of everything random in training.
        """

    def rows_of_sources(self, data: OpenText, split: Split, seed: int) -> list[RowSource]:
        """The `rows` of each source; one for a task that makes up its own text."""
        return [self.rows(data, source, split, seed) for source in data.sources]

    def evaluation_rows(
        self, data: OpenText, split: Split, wanted: Sequence[int | None]
    ) -> list[RowSource]:
        """The rows of a split of each source, of which `wanted` will be read (None = all)."""
        return self.rows_of_sources(data, split, 0)

    def validation_rows(self, data: OpenText, wanted: Sequence[int]) -> list[Picked]:
        """About `wanted` rows of each source that represent its validation split."""
        return [
            self._picked(data, source, count)
            for source, count in zip(data.sources, wanted, strict=True)
        ]

    def _picked(self, data: OpenText, source: Source, wanted: int) -> Picked:
        rows = drawn_rows(self.rows(data, source, "validation", 0), wanted)
        return Picked(rows, f"{data.packed(source, 'validation').num_documents:,} documents")

    def passages(self, data: OpenText, source: Source, split: Split) -> np.ndarray:
        """The passages of a stored split, as `text_record.PLACED`."""
        return data.packed(source, split).passages

    def pairs(self, data: OpenText, split: Split) -> Iterator[Pair] | None:
        """The inputs and targets of a split; None if targets are made from the text."""
        return None

    def describe(self, corpus: Corpus, length: int) -> tuple[str, Iterator[Pair]] | None:
        """A description and examples of the rows that the task makes; None if they are the text."""
        return None
