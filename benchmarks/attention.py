"""Attention forward and backward, ours against the plain ways of writing it.

    python -m benchmarks.attention

"of goal" is the least time against 1.3 times what blocked look-back attention took where it was
first measured, 117 ms at 450 GFLOP/s of matrix products, at this machine's own rate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import tyro

from benchmarks.tables import show
from bytelm.core.xla import training_options
from bytelm.nn.attention.attention import AttentionMask, attention
from bytelm.training import host_memory
from bytelm.training.timing import in_turns

MATRIX = 2048
GOAL_FLOPS = 1.3 * 0.117 * 450e9
"""Time for a window of 512 at T = 8192 with 4 heads of 64, times the matrix product's rate."""


@dataclass(frozen=True)
class Shape:
    """Rows, positions and window of one measurement, with 4 heads of 64 channels."""

    rows: int
    length: int
    window: int | None

    def __str__(self) -> str:
        return f"B {self.rows}, T {self.length}" + (f", W {self.window}" if self.window else "")


SHAPES = (Shape(8, 256, None), Shape(8, 1024, None), Shape(1, 8192, 512))
HEADS, SIZE = 4, 64

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def contenders(shape: Shape) -> dict[str, Attend]:
    """Attention of `(q, k, v, group_ids)` by name; only ours and the reference see documents."""
    mask = AttentionMask(window=shape.window)
    look_back = None if shape.window is None else (shape.window - 1, 0)
    return {
        "bytelm": lambda q, k, v, _: attention(q, k, v, mask),
        "bytelm, documents": lambda q, k, v, ids: attention(q, k, v, mask, ids),
        "reference": lambda q, k, v, _: attention(q, k, v, mask, implementation="reference"),
        "jax.nn": lambda q, k, v, _: jax.nn.dot_product_attention(
            q, k, v, is_causal=True, local_window_size=look_back
        ),
    }


def compile_step(attend: Attend, shape: Shape) -> tuple[Callable[[], object], int]:
    """A function that runs forward and backward, and its temporary memory in bytes."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    arrays = (shape.rows, shape.length, HEADS, SIZE)
    q, k, v, weights = jax.random.normal(jax.random.key(0), (4, *arrays), dtype)
    ids = jnp.broadcast_to(1 + 4 * jnp.arange(shape.length) // shape.length, arrays[:2])

    def loss(
        q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, weights: jax.Array
    ) -> jax.Array:
        return (attend(q, k, v, ids) * weights).astype(jnp.float32).sum()

    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v, ids, weights)
    step = lowered.compile(training_options(q.dtype) if jax.default_backend() == "cpu" else None)
    memory = step.memory_analysis()
    assert memory is not None
    return lambda: jax.block_until_ready(step(q, k, v, ids, weights)), memory.temp_size_in_bytes


def main(shapes: tuple[int, ...] = tuple(range(len(SHAPES))), rounds: int = 5) -> None:
    """Measures attention.

    Args:
        shapes: positions in the list of shapes.
        rounds: timed calls of each contender.
    """
    host_memory.keep()
    matrix = jnp.ones((MATRIX, MATRIX))
    multiply = jax.jit(jnp.matmul)
    table = []
    for shape in (SHAPES[index] for index in shapes):
        steps = {name: compile_step(attend, shape) for name, attend in contenders(shape).items()}
        runs: dict[str, Callable[[], object]] = {name: step for name, (step, _) in steps.items()}
        runs["matmul"] = lambda: jax.block_until_ready(multiply(matrix, matrix))
        timings = in_turns(runs, rounds=rounds)
        rate = 2 * MATRIX**3 / timings["matmul"].least
        for name, (_, temporary) in steps.items():
            table.append(
                (
                    str(shape) if name == "bytelm" else "",
                    name,
                    f"{timings[name].median * 1e3:.0f}",
                    f"{timings[name].least * 1e3:.0f}",
                    f"{temporary / 1e6:.0f}",
                    f"{rate / 1e9:.0f}",
                    f"{timings[name].least * rate / GOAL_FLOPS:.2f}" if shape.window else "",
                )
            )
    columns = ("shape", "", "median ms", "least ms", "temporary MB", "matmul GFLOP/s", "of goal")
    show("Attention, forward and backward", columns, table)


if __name__ == "__main__":
    tyro.cli(main)
