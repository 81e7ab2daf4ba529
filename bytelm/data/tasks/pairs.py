"""The task of pairs: an input and a target in each JSON line."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.data.corpus.cache import no_text
from bytelm.data.corpus.entries import digest_of
from bytelm.data.corpus.packing import pack, script_ids
from bytelm.data.corpus.spread import drawn_rows
from bytelm.data.sources.source import Source
from bytelm.data.tasks.task import (
    EncoderDecoderTask,
    Example,
    ExampleRows,
    OpenText,
    Pair,
    Picked,
    with_end,
)
from bytelm.data.text_record import Split, placed_passages

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs(EncoderDecoderTask):
    """Writes the target of an input; both come from a JSON line."""

    kind: ClassVar[str] = "pairs"
    needs_targets: ClassVar[bool] = True

    def least_target_length(self, length: int) -> int:
        return 1

    def rows(self, data: OpenText, source: Source, split: Split, seed: int) -> "PairRows":
        return data.kept(
            (source, split),
            lambda: PairRows(self, source, split, data.sequence_length, data.scripts),
        )

    def _picked(self, data: OpenText, source: Source, wanted: int) -> Picked:
        rows = self.rows(data, source, "validation", 0)
        return Picked(drawn_rows(rows, wanted), f"{len(rows):,} pairs")

    def passages(self, data: OpenText, source: Source, split: Split) -> Iterator[np.ndarray]:
        return (placed_passages([p.document.text], p.split) for p in source.placed(split))

    def pairs(self, data: OpenText, split: Split) -> Iterator[Pair]:
        return (pair for source in data.sources for pair in _pairs(source, split))


def _pairs(source: Source, split: Split) -> Iterator[Pair]:
    for document in source.documents(split):
        assert document.target is not None, "data.target_key is given"
        yield Pair(document.text, document.target, document.script)


class PairRows(ExampleRows):
    """The pairs of a split of one source, one in each row, in memory."""

    def __init__(
        self, task: Pairs, source: Source, split: Split, length: int, scripts: Sequence[str] = ()
    ) -> None:
        """Reads all pairs into rows of S = `length` inputs; without `scripts`, rows have none.

        Raises:
            UserError: for a bad source, a split without pairs, a pair that is longer than a row,
                and a script that is not in `data.scripts`.
        """
        super().__init__(length, task.row_length(length), bool(scripts))
        found = list(_pairs(source, split))
        if not found:
            raise no_text(source, split)
        if source.reader.skipped:
            logger.warning(
                "%s (%s): %d bad lines or files were skipped",
                source.name,
                split,
                source.reader.skipped,
            )
        # Few large arrays are sent to worker processes much faster than many strings.
        self._inputs = pack(pair.input for pair in found)
        self._targets = pack(pair.target for pair in found)
        self._check_lengths(f"{source.name} ({split})")
        self._scripts = np.full(len(found), -1, np.int32)
        if scripts:
            names = [pair.script for pair in found if pair.script is not None]
            known = names if len(names) == len(found) else None
            self._scripts = script_ids(known, scripts, source.name)
        content = [
            corpus.starts.astype("<i8").tobytes() + corpus.symbols.tobytes()
            for corpus in (self._inputs, self._targets)
        ]
        self.fingerprint = digest_of(b"".join(content)).hex()

    def _check_lengths(self, name: str) -> None:
        # A packed document has START and END, an input or target only END.
        inputs = np.diff(self._inputs.starts) - 1
        targets = np.diff(self._targets.starts) - 1
        too_long = (inputs > self.input_length) | (targets > self.target_length)
        if too_long.any():
            raise UserError(
                f"{np.count_nonzero(too_long):,} of the {len(too_long):,} pairs of {name} are "
                f"longer than a row: set data.sequence_length ({self.input_length}) to "
                f"{max(inputs.max(), self.input_length)} and data.target_length "
                f"({self.target_length}) to {max(targets.max(), self.target_length)}, or leave "
                "these pairs out."
            )

    def __len__(self) -> int:
        return self._inputs.num_documents

    @property
    def num_bytes(self) -> int:
        return self._inputs.num_bytes

    def example(self, index: int, place: int | None) -> Example:
        return Example(
            with_end(self._inputs.document(index)),
            with_end(self._targets.document(index)),
            int(self._scripts[index]),
        )
