"""Tasks of models with an encoder and a decoder: each row holds one example."""

import abc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD, START, UNSCORED
from bytelm.data.corpus.packing import Arrays, Indices
from bytelm.data.sources.source import SingleSource
from bytelm.data.tasks.task import Task


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
    """The example of one row.

    Attributes:
        inputs: int32 `[at most S]`, read by the encoder; ends with END.
        targets: int32 `[at most T]`, written by the decoder; ends with END.
        script: index of its script in `data.scripts`; -1 for none.
    """

    inputs: np.ndarray
    targets: np.ndarray
    script: int = -1


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
