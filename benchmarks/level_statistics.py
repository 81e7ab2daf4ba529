"""What the statistics of levels cost in a training step: lengths of patches, and bits at each lag.

    python -m benchmarks.level_statistics

Takes steps with and without them in turns, on rows of words. They differ by less than the noise of
a machine, so the statistics alone, compiled for arrays of the same shapes, take turns too; the last
column is their time over that of a whole step.
"""

from collections.abc import Callable
from unittest.mock import patch

import jax
import numpy as np
import tyro

from benchmarks.tables import show
from bytelm.core.vocabulary import START
from bytelm.models import Batch
from bytelm.models.parameters import roles_of
from bytelm.patching.marks import PatchMarks
from bytelm.training import host_memory, step
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.presets import load_preset
from bytelm.training.program import train_program
from bytelm.training.timing import Timing, in_turns, repeated_step

PRESETS = {"spacebyte_tiny": 1, "aunet_tiny": 2, "hnet_tiny": 2}
"""Presets, and their levels."""


def rows_of_words(rows: int, length: int) -> Batch:
    """Random letters with a space at every fifth byte or so."""
    rng = np.random.default_rng(0)
    symbols = rng.integers(ord("a"), ord("z") + 1, size=(rows, length + 1), dtype=np.int32)
    symbols[rng.random(symbols.shape) < 0.2] = ord(" ")
    symbols[:, 0] = START
    return Batch(symbols[:, :-1], symbols[:, 1:], np.ones((rows, length), np.int32))


def training_step(config: ExperimentConfig, batch: Batch) -> Callable[[], None]:
    """A step of a preset's model, to be called any number of times."""
    mesh, roles = config.mesh.build(), roles_of(config.model)
    program = train_program(config.model, config.optimizer.build(config.train.steps, roles), mesh)
    return repeated_step(program, batch, mesh).run


def measure(preset: str, levels: int, rounds: int) -> dict[str, Timing]:
    """Times of a preset's steps, and of the statistics alone."""
    config = load_preset(preset)
    batch = rows_of_words(config.data.batch_size, config.data.sequence_length)
    starts = np.asarray(batch.ids == ord(" "))
    marks = (PatchMarks(starts, starts, starts & False),) * levels
    nats, counts = np.ones(batch.ids.shape, np.float32), np.ones(batch.ids.shape, np.int32)
    alone = jax.jit(lambda *arrays: step._of_levels(arrays[0], batch, *arrays[1:], ()))
    with patch.object(step, "_of_levels", lambda *_: []):
        without = training_step(config, batch)
    contenders = {
        "with": training_step(config, batch),
        "without": without,
        "alone": lambda: jax.block_until_ready(alone(marks, nats, counts)),
    }
    return in_turns(contenders, rounds=rounds)


def main(rounds: int = 9) -> None:
    """Measures the presets; `rounds` timed calls of each contender."""
    host_memory.keep()
    rows = []
    for preset, levels in PRESETS.items():
        timings = measure(preset, levels, rounds)
        times = [f"{timing.median * 1e3:,.2f}" for timing in timings.values()]
        share = timings["alone"].median / timings["with"].median
        rows.append((preset, str(levels), *times, f"{share:.2%}"))
    columns = ("", "levels", "with, ms", "without, ms", "alone, ms", "share")
    show("Statistics of levels in a training step", columns, rows)


if __name__ == "__main__":
    tyro.cli(main)
