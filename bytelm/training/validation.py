"""Validation while training: one figure for all of the validation text, and one for each source."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bytelm.data.validation import ValidationText
from bytelm.models.contract import Batch
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.nn.mesh import batch_shards, place_batch, row_share
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.metrics.record import measure, segmentation_metrics
from bytelm.training.step import TrainProgram


@dataclass(frozen=True)
class Validated:
    """What a validation found.

    Attributes:
        bits: of all the text, as `measure` gives them.
        metrics: by name, for a record: `bits`, those of each source where there are several, and
            what became of patches.
        details: of the patches, as `segmentation_metrics` names them.
    """

    bits: float
    metrics: dict[str, float]
    details: dict[str, float]


class Validation:
    """The validation of a run, on the same rows each time.

    Attributes:
        text: that is scored.
        identity: hex digest of the rows and of what is measured: figures of equal identity can be
            compared.
    """

    def __init__(self, config: ExperimentConfig, program: TrainProgram, mesh: jax.sharding.Mesh):
        shards = batch_shards(mesh)
        index, count = row_share(shards, mesh)
        self.text = ValidationText(
            config.data,
            config.train.validation_rows,
            multiple=shards,
            process_index=index,
            process_count=count,
        )
        self._config, self._program, self._mesh = config, program, mesh
        self._has_encoder = isinstance(config.model, EncoderDecoderConfig)
        measured = f"{measure({}, self._has_encoder)[0]} {self.text.fingerprint}"
        self.identity = hashlib.blake2b(measured.encode(), digest_size=16).hexdigest()

    def batches(self) -> Iterator[Batch]:
        """This process's rows of all batches, source after source."""
        for source in self.text.sources:
            yield from self.text.batches(source)

    def __call__(self, params: Any, leave: Callable[[], bool] = lambda: False) -> Validated | None:
        """Scores all rows; None where `leave`, which is asked before each batch, said so."""
        total: dict[str, Any] = {}
        bits_of_sources: dict[str, float] = {}
        for source in self.text.sources:
            sums: dict[str, Any] = {}
            for batch in self.text.batches(source):
                if leave():
                    return None
                _add(sums, self._evaluate(params, batch), 1.0)
            bits_of_sources[source.name] = measure(sums, self._has_encoder)[1]
            _add(total, sums, source.factor)
        name, bits = measure(total, self._has_encoder)
        metrics = {f"validation_{name}": bits}
        if len(bits_of_sources) > 1:
            for source_name, of_source in bits_of_sources.items():
                metrics[f"validation_{name}/{source_name}"] = of_source
        details = segmentation_metrics(total, self._config.data.scripts)
        metrics |= {f"validation/{name}": value for name, value in details.items()}
        return Validated(bits, metrics, details)

    def _evaluate(self, params: Any, batch: Batch) -> dict[str, Any]:
        found: dict[str, Any] = jax.device_get(
            self._program.evaluate(params, place_batch(batch, self._mesh))
        )
        return found


def _add(total: dict[str, Any], sums: dict[str, Any], factor: float) -> None:
    for name, value in sums.items():
        total[name] = total.get(name, 0.0) + factor * np.asarray(value, np.float64)
