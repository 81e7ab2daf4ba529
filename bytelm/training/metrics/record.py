"""What happened over several training steps: sums, divided once into the metrics of a record."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bytelm.patching.patches import LENGTHS

_LATEST = ("gradient_norm", "skipped", "skipped_in_row")
"""Metrics of a step that are not summed."""
_WEIGHT = "weight/"
"""Begins the names of others: the weights of losses that a controller sets."""

MOST_REFUSED = 0.01
"""Share of patches without room above which a user is told."""
COLLAPSED = (0.005, 0.9)
"""Below and above these shares of symbols, learned boundaries have collapsed."""
SETTLED = 0.1
"""Share of a run after which learned boundaries are expected to have settled."""


def bits_per_byte(nats: float, count: float) -> float:
    """Nats over all the bytes they were spent on, in bits; NaN where there are none."""
    return nats / (math.log(2) * count) if count else math.nan


def measure(sums: Mapping[str, Any], has_encoder: bool) -> tuple[str, float]:
    """The name and value of what is made small: bits per byte, END counted, or, of a model with an
    encoder, bits per target byte: over its targets alone, END and sentinels among them.
    """
    name, counted = ("bits_per_target_byte", "symbols") if has_encoder else ("bpb", "bytes")
    return name, bits_per_byte(float(sums.get("nats", 0.0)), float(sums.get(counted, 0.0)))


class Record:
    """Sums over the steps since the last record, and the time they took."""

    def __init__(
        self,
        steps: int = 0,
        seconds: float = 0.0,
        sums: Mapping[str, Any] | None = None,
        flops: float = 0.0,
    ):
        self.steps = steps
        self.seconds = seconds
        self.flops = flops
        self.sums = {name: np.asarray(value, np.float64) for name, value in (sums or {}).items()}
        self.last: Mapping[str, Any] = {}
        self._since: float | None = None

    def resume(self) -> None:
        """Lets the clock run."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops the clock: compiling, validating and saving are no training time."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the clock from running while the context is entered."""
        is_running = self._since is not None
        self.pause()
        yield
        if is_running:
            self.resume()

    def saved(self) -> dict[str, Any]:
        """The arguments that make an equal record, for a checkpoint."""
        with self.paused():
            sums = {name: value.tolist() for name, value in self.sums.items()}
            return {"steps": self.steps, "seconds": self.seconds, "sums": sums, "flops": self.flops}

    def add(self, values: Mapping[str, Any], flops: float) -> None:
        """Counts in the metrics of one step, whose work is done, and its FLOPs."""
        self.steps += 1
        self.flops += flops
        self.last = values
        if values["skipped_in_row"]:
            return
        for name, value in values.items():
            if name not in _LATEST and not name.startswith(_WEIGHT):
                self.sums[name] = self.sums.get(name, 0.0) + np.asarray(value, np.float64)

    def scalars(
        self,
        step_flops: Callable[[float], float],
        peak: float,
        scripts: Sequence[str] = (),
        has_encoder: bool = False,
    ) -> dict[str, float]:
        """The metrics of the steps added: sums are divided here, once.

        Args:
            step_flops: FLOPs of a step that has so many patches.
            peak: FLOP/s that the devices could reach.
            scripts: names of the scripts that the sums by script are of.
            has_encoder: whether the model has one, as in `measure`.
        """
        self.pause()
        flops = self.flops / self.seconds
        total = self._total("inputs") or self._total("bytes")
        name, bits = measure(self.sums, has_encoder)
        scalars = {
            name: bits,
            "bytes_per_second": total / self.seconds,
            "flops_per_second": flops,
            "utilisation": flops / peak,
            "gradient_norm": float(self.last["gradient_norm"]),
            "skipped_steps": float(self.last["skipped"]),
        }
        if patches := self._total("patches") or self._total("inputs") - self._total("deleted"):
            needed = step_flops(patches / self.steps)
            scalars["flops_per_byte/computed"] = _share(self.flops, total)
            scalars["flops_per_byte/needed"] = _share(self.steps * needed, total)
        weights = {name: float(x) for name, x in self.last.items() if name.startswith(_WEIGHT)}
        return scalars | weights | segmentation_metrics(self.sums, scripts)

    def _total(self, name: str) -> float:
        return float(self.sums.get(name, 0.0))


def segmentation_metrics(sums: Mapping[str, Any], scripts: Sequence[str] = ()) -> dict[str, float]:
    """What became of patches and learned boundaries, from the sums of `bytelm.training.step.score`.

    The share of inputs deleted and bytes per patch, in all and by script; the share of patches
    without room; patches by length; auxiliary losses per scored symbol; of learned boundaries,
    their share of the symbols beside the one that is wanted, and how they meet whitespace:
    precision is the share of boundaries that are whitespace, recall the share of whitespace that is
    a boundary.

    Args:
        sums: by name.
        scripts: names of the scripts that the sums by script are of.
    """
    metrics = {}
    if "patches" in sums:
        patches, refused = sums["patches"], sums["overflow"]
        metrics["bytes_per_patch"] = _share(sums["bytes"], patches)
        metrics["overflow"] = _share(refused, patches + refused)
        counts = sums["patch_lengths"]
        for name, count in zip(LENGTHS, counts, strict=True):
            metrics[f"patch_length/{name}"] = _share(count, counts.sum())
    if "deleted" in sums:
        metrics["deleted"] = _share(sums["deleted"], sums["inputs"])
    if "script_deleted" in sums:
        deletions = zip(scripts, sums["script_deleted"], sums["script_inputs"], strict=True)
        metrics |= {f"deleted/{name}": _share(*counts) for name, *counts in deletions if counts[1]}
    if "script_patches" in sums:
        of_script = zip(scripts, sums["script_bytes"], sums["script_patches"], strict=True)
        for script, count, number in of_script:
            if number:
                metrics[f"bytes_per_patch/{script}"] = _share(count, number)
    for name in sums:
        if name.startswith("auxiliary/"):
            metrics[name] = _share(sums[name], sums["symbols"])
    if "boundaries" in sums:
        made, hits = sums["boundaries"], sums["whitespace_boundaries"]
        metrics["boundaries/rate"] = _share(made, sums["counted"])
        metrics["boundaries/precision"] = _share(hits, made)
        metrics["boundaries/recall"] = _share(hits, sums["whitespace"])
        metrics["boundaries/f1"] = _share(2 * hits, made + sums["whitespace"])
    if "wanted" in sums:
        metrics["boundaries/target"] = _share(sums["wanted"], sums["counted"])
    return metrics


def _share(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0


def warnings(
    scalars: Mapping[str, float], progress: float, room: float | None = None
) -> dict[str, str]:
    """What a user should be told of a record, by subject.

    Args:
        scalars: as `segmentation_metrics` gives them.
        progress: share of the run that is done.
        room: symbols for each patch that a row has room for; None in a flat model.
    """
    found: dict[str, str] = {}
    if progress <= SETTLED:
        return found
    refused = scalars.get("overflow", 0.0)
    if refused > MOST_REFUSED and "bytes_per_patch" in scalars and room is not None:
        # Enough for the mean row, with a tenth to spare; or, where rows differ, more than now.
        enough = min(scalars["bytes_per_patch"] * (1 - refused) / 1.1, 0.8 * room)
        found["overflow"] = (
            f"{refused:.1%} of the patches found no room in their row, and their bytes stayed with "
            f"the patch before; set model.bytes_per_slot to {max(1.0, enough):.2f} or less."
        )
    rate = scalars.get("boundaries/rate")
    if rate is not None and not COLLAPSED[0] < rate < COLLAPSED[1]:
        found["collapse"] = (
            f"{rate:.1%} of the symbols are boundaries: the segmentation has collapsed; raise "
            "model.boundary.weight, or lower the learning rate."
        )
    return found
