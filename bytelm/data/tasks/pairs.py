"""Pairs of an input and a target: those of JSON lines, and those of the diagnostic tasks."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bytelm.core.errors import UserError
from bytelm.data.config import DIAGNOSTICS, DataConfig, Split
from bytelm.data.corpus.cache import no_text
from bytelm.data.corpus.packing import pack
from bytelm.data.sources.source import Source, open_sources
from bytelm.data.tasks.diagnostics import EVALUATION_ROWS, DiagnosticRows
from bytelm.data.tasks.encoder_decoder import EncoderDecoderRows, Example, with_end
from bytelm.data.writing_systems import script_ids

logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    """What a model reads and what it shall write.

    Attributes:
        input: bytes.
        target: bytes.
        script: name of the script or language; None where nothing tells it.
    """

    input: bytes
    target: bytes
    script: str | None = None


def pairs(
    config: DataConfig, split: Split, sources: Sequence[Source] | None = None
) -> Iterator[Pair]:
    """The pairs of a split of every source in order, of a diagnostic task the first 1024.

    Args:
        config: of the sources.
        split: which split.
        sources: of the config, where they are open already.

    Raises:
        UserError: for a task without pairs, or a bad source.
    """
    if config.task in DIAGNOSTICS:
        rows = DiagnosticRows(config, split)
        return (Pair(*rows.texts(index)) for index in range(EVALUATION_ROWS))
    if config.task != "pairs":
        raise UserError(
            f"data.task is {config.task}, which has no inputs with targets of their own; choose "
            f"pairs or one of {', '.join(DIAGNOSTICS)}."
        )
    opened = open_sources(config) if sources is None else sources
    return (pair for source in opened for pair in _pairs(source, split))


def _pairs(source: Source, split: Split) -> Iterator[Pair]:
    for document in source.documents(split):
        assert document.target is not None, "data.target_key is given"
        yield Pair(document.text, document.target, document.script)


class PairRows(EncoderDecoderRows):
    """The pairs of a split of one source, one in each row; they are held in memory.

    Attributes:
        fingerprint: hex digest of the pairs and their order.
    """

    def __init__(self, source: Source, split: Split, config: DataConfig) -> None:
        """Reads all pairs.

        Raises:
            UserError: for a bad source, a split without pairs, a pair that is too long for its
                row, and a script that `data.scripts` does not have.
        """
        super().__init__(config.sequence_length, config.row_length, bool(config.scripts))
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
        # Few large arrays, which are sent to worker processes much faster than many strings.
        self._inputs = pack(pair.input for pair in found)
        self._targets = pack(pair.target for pair in found)
        self._check_lengths(f"{source.name} ({split})")
        self._scripts = np.full(len(found), -1, np.int32)
        if config.scripts:
            self._scripts = _scripts(found, config, source)
        digest = hashlib.blake2b(digest_size=16)
        for corpus in (self._inputs, self._targets):
            digest.update(corpus.starts.astype("<i8").tobytes() + corpus.symbols.tobytes())
        self.fingerprint = digest.hexdigest()

    def _check_lengths(self, name: str) -> None:
        # A packed document has START and END, a row of these END alone.
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
        """Bytes of all inputs."""
        return self._inputs.num_bytes

    def example(self, index: int, place: int | None) -> Example:
        return Example(
            with_end(self._inputs.document(index)),
            with_end(self._targets.document(index)),
            int(self._scripts[index]),
        )


def _scripts(found: list[Pair], config: DataConfig, source: Source) -> np.ndarray:
    """The number of each pair's script in `data.scripts`, int32."""
    names = list(dict.fromkeys(pair.script for pair in found))
    known = [name for name in names if name is not None]
    ids = script_ids(known if len(known) == len(names) else None, config.scripts, source.name)
    return ids[[names.index(pair.script) for pair in found]]
