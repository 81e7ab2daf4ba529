"""Rows that devices share (`mesh.sequence`): memory of each device, what they exchange, training.

    python -m benchmarks.long_rows
    python -m benchmarks.long_rows --tables train

On 8 virtual devices of the CPU. The first table compiles a training step of one long row for axes
of several sizes, and reads off XLA's analysis of the program the memory of one device: its share of
the state, and the temporary arrays. What the devices exchange in a step is the sum of the results
of all collective operations of a device, by kind. The second table trains on rows of 131,072 bytes.
"""

import collections
import os
import time
import typing
from dataclasses import dataclass
from typing import Literal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
import tyro

from benchmarks.tables import show
from bytelm.core.hlo import parse
from bytelm.data.config import DataConfig
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.models import Batch, ModelConfig
from bytelm.models.aunet import AUNetConfig
from bytelm.models.blt import BLTConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.hat import HATConfig
from bytelm.models.hat2 import HAT2Config
from bytelm.models.hnet import HNetConfig
from bytelm.models.mamba import MambaConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.parameters import roles_of
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig, place_batch, row_share
from bytelm.training.optimizer import AdamW
from bytelm.training.program import TrainProgram, train_program

Table = Literal["memory", "train"]
WINDOW = 128
LOCAL = {"local_width": 64, "global_width": 128, "global_depth": 2, "head_width": 16}
HALVES = {**LOCAL, "encoder_depth": 1, "decoder_depth": 1}
WIDTH = {"head_width": 16, "width": 64}
MODELS: dict[str, ModelConfig] = {
    "transformer": TransformerConfig(**WIDTH, depth=2),
    "transformer, window": TransformerConfig(**WIDTH, depth=2, window=WINDOW),
    "mamba": MambaConfig(**WIDTH, layout="m2", state_width=16),
    "spacebyte": SpaceByteConfig(**LOCAL, local_depth=2, window=WINDOW),
    "megabyte": MegaByteConfig(**LOCAL, local_depth=2),
    "hat": HATConfig(**HALVES),
    "hat2": HAT2Config(**HALVES, window=WINDOW),
    "dynamic_pooling": DynamicPoolingConfig(
        head_width=8, width=64, pre_depth=1, backbone_depth=2, post_depth=1
    ),
    "hnet": HNetConfig(
        layout="m1 [T2] m1", widths=(64, 128), head_width=16, state_width=16, bytes_per_slot=4.0
    ),
    "aunet": AUNetConfig(widths=(64, 128), depths=(1, 2), windows=(WINDOW, None), head_width=16),
    "blt": BLTConfig(**HALVES, window=WINDOW, ngram_rows=1009),
}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
QUICKLY: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
"""Options of the compiler with the same arrays in memory, and machine code that is slow."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = tuple(MODELS)
    """Names of models."""
    length: int = 8192
    """Positions of the row, in the table of memory."""
    axes: tuple[int, ...] = (1, 2, 4, 8)
    """Sizes of `mesh.sequence`, in the table of memory."""
    trained_length: int = 131_072
    """Positions of a row, in training."""
    steps: int = 3
    """Steps of training."""
    tables: tuple[Table, ...] = typing.get_args(Table)
    """Which tables to make."""


def program_of(config: ModelConfig, shards: int) -> tuple[TrainProgram, jax.sharding.Mesh]:
    """The training program of a model whose rows so many devices share."""
    mesh = MeshConfig(data=1, sequence=shards).build()
    return train_program(config, AdamW(warmup=0.0).build(100, roles_of(config)), mesh), mesh


def exchanged(text: str) -> dict[str, float]:
    """Bytes of the results of collective operations in a compiled program, by kind."""
    program = parse(text)
    found: dict[str, float] = collections.defaultdict(float)
    for run in program.runs():
        kind = run.instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES and len(program.group(run.instruction)) > 1:
            found[kind] += run.times * run.instruction.bytes
    return found


def memory_table(arguments: Arguments) -> None:
    """Memory of one device, and what it exchanges, by the size of the axis."""
    rows = []
    for name in arguments.models:
        for shards in arguments.axes:
            program, mesh = program_of(MODELS[name], shards)
            ids = np.zeros((1, arguments.length), np.int32)
            batch = Batch(ids, ids, ids + 1)
            with jax.set_mesh(mesh):
                state = jax.tree.map(
                    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                    program.abstract_state,
                    program.shardings,
                )
                step = program.lower_train(state, place_batch(batch, mesh)).compile(QUICKLY)
            memory, sizes = step.memory_analysis(), exchanged(step.as_text())
            figures = [memory.argument_size_in_bytes, memory.temp_size_in_bytes]
            figures += [sizes.get(kind, 0) for kind in COLLECTIVES]
            rows.append((name, str(shards), *(f"{x / 2**20:,.1f}" for x in figures)))
            print(*rows[-1], flush=True)
    columns = ("", "axis", "state MiB", "temporary MiB", *COLLECTIVES)
    show(f"A training step of one row of {arguments.length:,} positions", columns, rows)


def train_table(arguments: Arguments) -> None:
    """Training on long rows of this machine's Python standard library."""
    data = DataConfig(sequence_length=arguments.trained_length, batch_size=1)
    rows = []
    for name in arguments.models:
        program, mesh = program_of(MODELS[name], 8)
        with jax.set_mesh(mesh):
            state, bits, seconds = program.init(0), [], []
            batches = train_loader(OpenData(data), 0, *row_share(1, mesh))
            for _ in range(arguments.steps):
                start = time.perf_counter()
                state, metrics = program.train(state, place_batch(next(batches), mesh))
                bits.append(float(metrics.sums.measure.value))
                seconds.append(time.perf_counter() - start)
            batches.close()
        rows.append((name, *(f"{x:.3f}" for x in (bits[0], bits[-1])), f"{seconds[-1]:,.1f}"))
        print(*rows[-1], flush=True)
    columns = ("", "bits per byte, step 1", f"step {arguments.steps}", "seconds of a step")
    show(f"Rows of {arguments.trained_length:,} bytes on 8 virtual devices", columns, rows)


if __name__ == "__main__":
    chosen = tyro.cli(Arguments)
    for table in chosen.tables:
        {"memory": memory_table, "train": train_table}[table](chosen)
