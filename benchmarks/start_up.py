"""Time until training starts: `python -m benchmarks.start_up`.

Seconds from the command to the end of the first step: with nothing prepared, with the text packed
by an earlier run, and with the programs that an earlier run compiled too; and seconds to compile a
training step of few and of many layers.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.tables import show
from bytelm.models import Batch
from bytelm.models.parameters import roles_of
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import BATCH_AXES, MeshConfig
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program

WAIT = 0.02
"""Seconds between two checks for the first step."""


def seconds_to_first_step(preset: str, cache: Path, programs: Path) -> float:
    """Starts a run of `preset`, and stops it after a step.

    Args:
        preset: what to train.
        cache: where packed text is.
        programs: where compiled programs are.
    """
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "run", "metrics.jsonl")
        command = [
            sys.executable,
            "-m",
            "bytelm",
            "train",
            preset,
            "--run-dir",
            str(metrics.parent),
        ]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--train.log-every", "1"],
            env={
                **os.environ,
                "BYTELM_CACHE": str(cache),
                "JAX_COMPILATION_CACHE_DIR": str(programs),
            },
            stdout=subprocess.DEVNULL,
        )
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise SystemExit(f"training ended with code {process.returncode}")
                time.sleep(WAIT)
            return time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()


def seconds_to_compile(depth: int) -> tuple[float, float]:
    """Seconds to trace and to compile a scanned training step of `depth` layers."""
    mesh = MeshConfig().build()
    model = TransformerConfig(width=256, depth=depth, scan=True)
    program = train_program(model, AdamW().build(1000, roles_of(model)), mesh)
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        program.abstract_state,
        program.shardings,
    )
    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    rows = jax.ShapeDtypeStruct((8 * mesh.size, 1024), jnp.int32, sharding=by_row)
    with jax.set_mesh(mesh):
        start = time.perf_counter()
        lowered = program.lower_train(state, Batch(rows, rows, rows))
        traced = time.perf_counter()
        lowered.compile()
    return traced - start, time.perf_counter() - traced


def main(
    preset: str = "transformer_tiny", depths: tuple[int, ...] = (4, 24), rounds: int = 3
) -> None:
    """Measures start-up.

    Args:
        preset: what to train.
        depths: numbers of layers to compile.
        rounds: repetitions, in turns; the least time counts.
    """
    programs_of = {"nothing prepared": "a", "packed text": "b", "packed text and programs": "b"}
    starts: dict[str, list[float]] = {name: [] for name in programs_of}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, programs in programs_of.items():
                seconds = seconds_to_first_step(preset, Path(folder), Path(folder, programs))
                starts[name].append(seconds)
    rows = [(name, f"{min(times):.1f}") for name, times in starts.items()]
    show(f"From command to first step, {preset}", ("", "seconds"), rows)
    compiles: dict[int, list[tuple[float, float]]] = {depth: [] for depth in depths}
    for _ in range(rounds):
        for depth, times in compiles.items():
            times.append(seconds_to_compile(depth))
    table = []
    for depth, times in compiles.items():
        trace, compile_ = (min(column) for column in zip(*times, strict=True))
        table.append((str(depth), f"{trace:.2f}", f"{compile_:.2f}"))
    show("Compiling a training step", ("layers", "trace s", "compile s"), table)


if __name__ == "__main__":
    tyro.cli(main)
