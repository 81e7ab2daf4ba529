"""What a run has done so far: sums over its steps, from its beginning and not its last start."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bytelm.training.score import Sums


@dataclass
class Progress:
    """Sums over all steps of a run, those before it was resumed among them.

    Attributes:
        bytes: of text that was scored, or with an encoder symbols that it read.
        flops: of matrix products, those for patches that no text filled among them.
        seconds: of training up to the last record, without compiling, validating and saving.
        compile_seconds: of compiling the training step, each time that the run began.
    """

    bytes: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0

    @classmethod
    def saved(cls, provenance: Mapping[str, Any]) -> "Progress":
        """As the provenance of a checkpoint has it."""
        return cls(
            provenance["bytes_seen"],
            provenance["flops"],
            provenance.get("training_seconds", 0.0),
            provenance.get("compile_seconds", 0.0),
        )

    def provenance(self) -> dict[str, Any]:
        """What a checkpoint's provenance has of it."""
        return {
            "bytes_seen": self.bytes,
            "flops": self.flops,
            "training_seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
        }

    def metrics(self, seconds: float) -> dict[str, float]:
        """What each line of metrics.jsonl has of it.

        Args:
            seconds: of training after the last record.

        Returns:
            `time`, in seconds since 1970; `seconds` of training, `bytes`, `flops` and
            `compile_seconds` so far.
        """
        return {
            "time": time.time(),
            "seconds": self.seconds + seconds,
            "bytes": self.bytes,
            "flops": self.flops,
            "compile_seconds": self.compile_seconds,
        }

    def add(self, sums: Sums, flops: float) -> None:
        """Counts in a step: its sums and its FLOPs."""
        self.bytes += int(sums.read)
        self.flops += flops
