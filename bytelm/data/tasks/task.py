"""The bases of all tasks, which define what a model learns from text."""

import abc
import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.core.vocabulary import END, PAD, START, UNSCORED
from bytelm.data.corpus.cache import PackedCorpus
from bytelm.data.corpus.packing import Arrays, Corpus, Indices, RowSource
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

    def packed_window(self, source: Source, split: Split, index: int) -> PackedCorpus: ...

    def window(self, source: Source, split: Split, index: int) -> Corpus: ...

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

    @property
    def shards_together(self) -> int | None:
        """How many shards are shuffled together, if training reads shard by shard; None if not."""
        return None

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

    def passages(self, data: OpenText, source: Source, split: Split) -> Iterator[np.ndarray]:
        """The passages of a stored split, as arrays of `text_record.PLACED`."""
        return data.packed(source, split).passages()

    def pairs(self, data: OpenText, split: Split) -> Iterator[Pair] | None:
        """The inputs and targets of a split; None if targets are made from the text."""
        return None

    def describe(self, corpus: Corpus, length: int) -> tuple[str, Iterator[Pair]] | None:
        """A description and examples of the rows that the task makes; None if they are the text."""
        return None


@dataclass(frozen=True)
class EncoderDecoderTask(Task):
    """A task with inputs for an encoder and targets for a decoder."""

    has_encoder: ClassVar[bool] = True

    target_length: int | None = None
    """Most symbols of a target (T), the end included; none = as the task derives from
    `sequence_length`."""

    def row_length(self, length: int) -> int:
        return self.own_row_length(length) if self.target_length is None else self.target_length

    def own_row_length(self, length: int) -> int:
        """T if no `target_length` is given."""
        return length

    def least_target_length(self, length: int) -> int:
        """The shortest T."""
        return self.own_row_length(length)

    def check(self, sources: Sequence[SingleSource], length: int, scripts: Sequence[str]) -> None:
        super().check(sources, length, scripts)
        least = self.least_target_length(length)
        if self.target_length is not None and self.target_length < least:
            raise UserError(
                f"data.target_length is {self.target_length}; choose {least} or more for the task "
                f"{self.kind} of this data.sequence_length, or leave it out."
            )


class Example(NamedTuple):
    """The example of one row."""

    inputs: np.ndarray
    """Read by the encoder, int32 `[at most S]`; ends with END."""
    targets: np.ndarray
    """Written by the decoder, int32 `[at most T]`; ends with END."""
    script: int = -1
    """Index of its script in `data.scripts`; -1 for none."""


PADDING = Example(np.zeros(0, np.int32), np.zeros(0, np.int32))


class ExampleRows(abc.ABC):
    """Rows of one example each, padded to S inputs and T targets."""

    def __init__(self, input_length: int, target_length: int, has_scripts: bool = False) -> None:
        self.input_length = input_length
        self.target_length = target_length
        self.has_scripts = has_scripts

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def example(self, index: int, place: int | None) -> Example:
        """The example of row `index`; `place` as in `RowSource.batch`."""

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        """Several rows at once; arguments as for `RowSource.batch`.

        Returns:
            int32 each: `inputs` `[B, S]`, padded with PAD; `targets` `[B, T]`, padded with
            UNSCORED; `ids` `[B, T]`, START and then all targets but the last, padded with PAD;
            `document_ids` `[B, T]`, 1 at targets, else 0; with scripts also `scripts` `[B, T]`, of
            the row, -1 in rows of padding.
        """
        inputs = np.full((len(indices), self.input_length), PAD, np.int32)
        targets = np.full((len(indices), self.target_length), UNSCORED, np.int32)
        scripts = np.full(len(indices), -1, np.int32)
        for row, index in enumerate(np.asarray(indices).tolist()):
            place = None if places is None else int(places[row])
            example = self.example(index, place) if index < len(self) else PADDING
            inputs[row, : len(example.inputs)] = example.inputs
            targets[row, : len(example.targets)] = example.targets
            scripts[row] = example.script
        scored = targets != UNSCORED
        ids = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        ids[~scored] = PAD
        batch = {
            "inputs": inputs,
            "ids": ids,
            "targets": targets,
            "document_ids": scored.astype(np.int32),
        }
        if self.has_scripts:
            batch["scripts"] = np.repeat(scripts[:, None], self.target_length, axis=1)
        return batch


def with_end(text: bytes) -> np.ndarray:
    """The symbols of a text and END, int32."""
    return np.append(np.frombuffer(text, np.uint8).astype(np.int32), np.int32(END))


def random_of(*key: object) -> np.random.RandomState:
    """A random generator that depends only on `key`, such as a seed and an index."""
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=16).digest()
    # RandomState, because numpy promises never to change its streams; Philox starts fastest.
    return np.random.RandomState(np.random.Philox(key=np.frombuffer(digest, "<u8")))
