"""A record: sums over several training steps, which are divided once into figures."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from bytelm.core.figure import Figure
from bytelm.core.statistics import Statistic, added
from bytelm.training.score import StepMetrics, Sums

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
            # A checkpoint has only the numbers; the first step has their structure.
            before = map(np.asarray, self._restored)
            self.sums = jax.tree.unflatten(jax.tree.structure(sums), before)
            self._restored = None
        self.sums = added(self.sums, sums)

    def figures(self, step_flops: Callable[[float], float], peak: float) -> list[Figure]:
        """The figures of the added steps.

        Args:
            step_flops: from patches to the FLOPs of a step.
            peak: highest FLOP/s of the devices.
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
