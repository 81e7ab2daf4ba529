"""Sums over training steps: those of a record, which are divided into figures, and of the run."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from bytelm.core.figure import Figure
from bytelm.core.statistics import Statistic, added
from bytelm.training.step import StepMetrics, Sums

BYTES_PER_SECOND = Statistic("bytes_per_second", "B/s")
FLOPS_PER_SECOND = Statistic("flops_per_second", "FLOP/s")
UTILISATION = Statistic("utilisation", "of peak")
FLOPS_COMPUTED = Statistic("flops_per_byte/computed", "FLOP/byte")
"""FLOPs per byte at capacity, which the devices compute."""
FLOPS_NEEDED = Statistic("flops_per_byte/needed", "FLOP/byte")
"""FLOPs per byte for the actual number of patches."""

SETTLED = 0.1
"""Share of a run after which statistics give warnings: until then they have not settled."""


class Record:
    """Sums over the steps since the last record, and the time they took."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.flops = 0.0
        self.sums: Sums | None = None
        self._restored: list[Any] | None = None
        self._last: StepMetrics | None = None
        self._since: float | None = None

    def resume(self) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops the clock, such as for compiling, validating and saving."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock inside the context."""
        is_running = self._since is not None
        self.pause()
        yield
        if is_running:
            self.resume()

    def saved(self) -> dict[str, Any]:
        """JSON values for a checkpoint, from which `restored` makes an equal record."""
        with self.paused():
            leaves = self._restored
            if self.sums is not None:
                leaves = [leaf.tolist() for leaf in jax.tree.leaves(self.sums)]
            sums = {"steps": self.steps, "seconds": self.seconds, "flops": self.flops}
            return {**sums, "leaves": leaves}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "Record":
        """The saved record; an empty one if an older version saved it in another form."""
        record = cls()
        if "leaves" in saved:
            record.steps, record.seconds = saved["steps"], saved["seconds"]
            record.flops, record._restored = saved["flops"], saved["leaves"]
        return record

    def add(self, metrics: StepMetrics, flops: float) -> None:
        """Adds a finished step and its FLOPs; of a skipped step, only the FLOPs."""
        self.steps += 1
        self.flops += flops
        self._last = metrics
        sums = metrics.sums
        if metrics.skipped_in_row:
            sums = jax.tree.map(np.zeros_like, sums)
        if self._restored is not None:
            # A checkpoint has only the numbers; the first step has their structure. Another version
            # may have had other statistics, and then the record begins with this step.
            before, self._restored = self._restored, None
            leaves, structure = jax.tree.flatten(sums)
            if len(before) == len(leaves):
                self.sums = jax.tree.unflatten(structure, map(np.asarray, before))
            else:
                self.steps, self.flops = 1, flops
        self.sums = added(self.sums, sums)

    def figures(self, step_flops: Callable[[float], float], peak: float) -> list[Figure]:
        """The figures of the added steps, from the FLOPs of a step of so many patches.

        `peak` is the highest FLOP/s of the devices.
        """
        self.pause()
        assert self.sums is not None and self._last is not None
        sums, last = self.sums, self._last
        ratios = [
            *sums.statistics,
            BYTES_PER_SECOND(sums.read, self.seconds),
            FLOPS_PER_SECOND(self.flops, self.seconds),
            UTILISATION(self.flops, self.seconds * peak),
        ]
        if sums.patches:
            needed = self.steps * step_flops(float(sums.patches) / self.steps)
            ratios += [FLOPS_COMPUTED(self.flops, sums.read), FLOPS_NEEDED(needed, sums.read)]
        return [
            *(figure for ratio in ratios for figure in ratio.figures),
            Figure("gradient_norm", float(last.gradient_norm)),
            Figure("skipped_steps", float(last.skipped), "count"),
            *(Figure(f"weight/{name}", float(x)) for name, x in last.weights.items()),
        ]


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
