"""The state of the training loop: an item of checkpoints."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bytelm.training.metrics.record import Record
from bytelm.training.score import Sums


@dataclass
class LoopState:
    """Sums over all steps of a run, results of its validations, and the open record.

    Attributes:
        bytes: of scored text; with an encoder, symbols that it read.
        flops: of matrix products, at the capacity of patches.
        seconds: of training up to the last record, without compiling, validating and saving.
        compile_seconds: of compiling the training step, at every start.
        hooks_step: the last step whose hooks have run; a run that stops leaves them out.
        validated_step: of the last validation.
        last_validation: its bits per byte.
        best_validation: the fewest bits per byte with this identity.
        best_step: its step.
        validation_identity: digest of the validation's rows and measure.
        record: of the steps since the last line of metrics.
    """

    bytes: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    hooks_step: int = 0
    validated_step: int = 0
    last_validation: float | None = None
    best_validation: float | None = None
    best_step: int = 0
    validation_identity: str | None = None
    record: Record = field(default_factory=Record)

    def add(self, sums: Sums, flops: float) -> None:
        """Adds a step."""
        self.bytes += int(sums.read)
        self.flops += flops

    def validated(self, step: int, bits: float) -> None:
        """Notes the result of a validation."""
        self.validated_step, self.last_validation = step, bits
        if bits < (math.inf if self.best_validation is None else self.best_validation):
            self.best_step, self.best_validation = step, bits

    def metrics(self) -> dict[str, float]:
        """The sums in every line of metrics.jsonl; `time` is in seconds since 1970."""
        return {
            "time": time.time(),
            "seconds": self.seconds + self.record.seconds,
            "bytes": self.bytes,
            "flops": self.flops,
            "compile_seconds": self.compile_seconds,
        }

    def saved(self) -> dict[str, Any]:
        """JSON values from which `restored` makes an equal state."""
        return {**vars(self), "record": self.record.saved()}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "LoopState":
        """The state that was saved."""
        return cls(**{**saved, "record": Record.restored(saved["record"])})

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> "LoopState | None":
        """The state in the provenance of an old checkpoint, before it was an item of its own.

        None for a model that was not trained by bytelm. The open record starts again, because old
        versions summed other things.
        """
        if "bytes_seen" not in provenance:
            return None
        return cls(
            bytes=provenance["bytes_seen"],
            flops=provenance["flops"],
            seconds=provenance.get("training_seconds", 0.0),
            compile_seconds=provenance.get("compile_seconds", 0.0),
            hooks_step=provenance.get("validated_step", 0),
            validated_step=provenance.get("validated_step", 0),
            last_validation=provenance.get("last_validation_bits"),
            best_validation=provenance.get("best_validation_bits"),
            validation_identity=provenance.get("validation_identity"),
        )
