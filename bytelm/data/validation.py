"""The validation rows of a run, and the rows of an evaluation."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bytelm.core.terminal_text import printable_name
from bytelm.data.corpus.packing import ConcatenatedRows
from bytelm.data.corpus.spread import DrawnRows, SpreadRows
from bytelm.data.open_data import OpenData
from bytelm.data.text_record import Split
from bytelm.models.contract import Batch


@dataclass(frozen=True)
class ValidationSource:
    """The validation rows of one source."""

    name: str
    """Unique."""
    rows: SpreadRows | DrawnRows
    origin: str
    """What they are picked from, in words."""
    factor: float = 1.0
    """Weight of sums over these rows in sums over all sources, so that each source counts with its
    share of the mixture, however many rows it has."""


class ValidationText:
    """The validation rows of a run, the same ones each time.

    Attributes:
        sources: the rows of each source.
        fingerprint: hex digest of all rows; figures with equal fingerprints can be compared.
    """

    def __init__(
        self,
        data: OpenData,
        rows: int,
        *,
        multiple: int = 1,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Picks the rows of the validation split.

        Args:
            data: text, and the length of rows.
            rows: about how many, shared among the sources by their weights.
            multiple: the batch size is a multiple of this, which divides that of training.
            process_index: of this process.
            process_count: processes that share each batch; divides `multiple`.

        Raises:
            UserError: for a bad source, and a split without text.
        """
        self.sources = _sources(data, rows)
        most = max(len(source.rows) for source in self.sources)
        # The fewest batches that hold the rows, and the smallest of such batches.
        count = -(-most // data.config.batch_size)
        self._batch_size = -(-most // (count * multiple)) * multiple
        self._local_size = self._batch_size // process_count
        self._offset = process_index * self._local_size
        self.fingerprint = self._digest()

    def batches(self, source: ValidationSource) -> Iterator[Batch]:
        """This process's rows of each batch of a source, numpy arrays `[B / processes, T]`.

        Rows of padding, whose targets are UNSCORED, fill the last batch.
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


def _sources(data: OpenData, rows: int) -> list[ValidationSource]:
    shares = [weight / sum(data.weights) for weight in data.weights]
    wanted = [max(1, round(rows * share)) for share in shares]
    picked = data.config.task.validation_rows(data, wanted)
    size = sum(each.rows.size for each in picked)
    names: list[str] = []
    for name in map(printable_name, data.names):
        before = sum(other.partition(" #")[0] == name for other in names)
        names.append(f"{name} #{before + 1}" if before else name)
    return [
        ValidationSource(name, each.rows, each.origin, share * size / each.rows.size)
        for name, each, share in zip(names, picked, shares, strict=True)
    ]


class ValidationBatches:
    """Batches of the first rows of a split, in a fixed order; can be iterated repeatedly.

    Sources give rows in proportion to their weights. Rows of padding, whose targets are UNSCORED,
    fill the last batch.
    """

    def __init__(
        self,
        data: OpenData,
        rows: int | None = None,
        split: Split = "validation",
        *,
        batch_size: int | None = None,
    ) -> None:
        """Opens the split.

        Args:
            data: the text.
            rows: how many rows; None = all, or 1024 of a diagnostic task.
            split: which split.
            batch_size: rows of a batch; None = as in training.

        Raises:
            UserError: for a bad source, or a split without text.
        """
        task = data.config.task
        self._batch_size = batch_size or data.config.batch_size
        rows = task.evaluated_rows if rows is None else rows
        total = sum(data.weights)
        wanted = [rows and max(1, round(rows * weight / total)) for weight in data.weights]
        self._rows = ConcatenatedRows(task.evaluation_rows(data, split, wanted))
        sources = zip(self._rows.sources, self._rows.ends.tolist(), wanted, strict=True)
        self._indices = np.concatenate(
            [range(end - len(source), end)[:count] for source, end, count in sources]
        )

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, numpy arrays `[batch_size, T]`."""
        padding = len(self) * self._batch_size - len(self._indices)
        indices = np.pad(self._indices, (0, padding), constant_values=len(self._rows))
        for batch in np.split(indices, len(self)):
            yield Batch(**self._rows.batch(batch))
