"""What the training loop remembers of a run from one start to the next: an item of checkpoints."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bytelm.training.metrics.record import Record
from bytelm.training.score import Sums


@dataclass
class LoopState:
    """Sums over all steps of a run, what its validations found, and the record that is open.

    Attributes:
        bytes: of text that was scored; with an encoder, symbols that it read.
        flops: of matrix products, at the capacity of patches.
        seconds: of training up to the last record, without compiling, validating and saving.
        compile_seconds: of compiling the training step, at every start.
        hooks_step: the last step whose hooks have run; on the way to a stop they do not.
        validated_step: the step of the last validation.
        last_validation: its bits per byte.
        best_validation: the least bits per byte of all validations with this identity.
        best_step: the step that has them.
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
        """Adds a step: its sums and its FLOPs."""
        self.bytes += int(sums.read)
        self.flops += flops

    def validated(self, step: int, bits: float) -> None:
        """Notes the result of a validation."""
        self.validated_step, self.last_validation = step, bits
        if bits < (math.inf if self.best_validation is None else self.best_validation):
            self.best_step, self.best_validation = step, bits

    def metrics(self) -> dict[str, float]:
        """What every line of metrics.jsonl has of the run so far.

        Returns:
            `time`, in seconds since 1970; `seconds` of training, `bytes`, `flops` and
            `compile_seconds`.
        """
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
        """The state in the provenance of a checkpoint of before it was an item of its own.

        None for a model that was not trained by bytelm. The record that was open starts again:
        earlier versions summed other things.
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
