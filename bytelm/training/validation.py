"""Validation while training: a figure for all the validation text, and one for each source."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bytelm.core.figure import Figure
from bytelm.core.statistics import BITS_PER_TARGET_BYTE, BPB, added
from bytelm.data.open_data import OpenData
from bytelm.data.validation import ValidationText
from bytelm.models.contract import Batch
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.nn.mesh import batch_shards, place_batch, row_share
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.program import TrainProgram
from bytelm.training.step import Sums


class Validated(NamedTuple):
    """The result of a validation."""

    bits: float
    """Per byte of all the text, without END (`Sums.measure`)."""
    figures: list[Figure]
    """For a record: bits in all and, if there are several sources, of each; statistics."""
    sums: Sums
    """Over all the text."""


class Validation:
    """The validation of a run, on the same rows each time.

    Its `identity` is a hex digest of the rows and the measure: figures of equal identity are
    comparable.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        data: OpenData,
        program: TrainProgram,
        mesh: jax.sharding.Mesh,
    ):
        shards = batch_shards(mesh)
        index, count = row_share(shards, mesh)
        self.text = ValidationText(
            data,
            config.train.validation_rows,
            multiple=shards,
            process_index=index,
            process_count=count,
        )
        self._config, self._program, self._mesh = config, program, mesh
        has_encoder = isinstance(config.model, EncoderDecoderConfig)
        measure = BITS_PER_TARGET_BYTE if has_encoder else BPB
        # Earlier versions counted END, and digested only the name.
        measured = f"{measure.name} without END {self.text.fingerprint}"
        self.identity = hashlib.blake2b(measured.encode(), digest_size=16).hexdigest()

    def __call__(
        self, params: Any, should_stop: Callable[[], bool] = lambda: False
    ) -> Validated | None:
        """Scores all rows; None if `should_stop`, called before each batch, returned True."""
        total: Sums | None = None
        of_sources: list[Figure] = []
        for source in self.text.sources:
            sums: Sums | None = None
            for batch in self.text.batches(source):
                if should_stop():
                    return None
                sums = added(sums, self._evaluate(params, batch))
            assert sums is not None, "a source has rows"
            (figure,) = sums.measure.figures
            of_sources.append(figure.renamed(f"validation_{figure.name}/{source.name}"))
            total = added(total, sums, source.factor)
        assert total is not None, "there is a source"
        bits, with_end, *others = total.statistics
        figures = [
            *(f.renamed(f"validation_{f.name}") for f in bits.figures + with_end.figures),
            *(of_sources if len(of_sources) > 1 else ()),
            *(f.renamed(f"validation/{f.name}") for ratio in others for f in ratio.figures),
        ]
        return Validated(bits.value, figures, total)

    def _evaluate(self, params: Any, batch: Batch) -> Sums:
        found: Sums = jax.device_get(self._program.evaluate(params, place_batch(batch, self._mesh)))
        return found
