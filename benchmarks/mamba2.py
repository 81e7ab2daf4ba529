"""A Mamba-2 block forward and backward: in chunks, and by a plain scan over its positions.

    python -m benchmarks.mamba2

The scan is the recurrence as it is written, differentiated by JAX, which stores the state of every
position. An attention block of the same width with an MLP stands next to them, for the time of a
FLOP.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax import lax

from benchmarks.tables import show
from bytelm.core.xla import training_options
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.mamba2 import Mamba2Config
from bytelm.training import host_memory
from bytelm.training.timing import in_turns


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    width: int = 256
    """Channels of the blocks."""
    state_width: int = 128
    """Channels of keys and queries."""
    rows: int = 1
    """Rows of a batch."""
    lengths: tuple[int, ...] = (512, 2048, 4096)
    """Positions of a row."""
    chunks: tuple[int, ...] = (32, 64, 128, 256)
    """Positions of a chunk."""
    rounds: int = 5
    """Timed calls of each contender."""
    scan: bool = True
    """Whether to run the scan, whose memory is the state times the length."""


def plain_scan(
    x: jax.Array,
    dt: jax.Array,
    rates: jax.Array,
    keys: jax.Array,
    queries: jax.Array,
    runs: jax.Array,
    state: None = None,
    **_: Any,
) -> tuple[jax.Array, None]:
    """`ssd` over whole rows, one position after another."""
    begins = jnp.diff(runs, axis=1, prepend=-1) != 0

    def step(state: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x, dt, key, query, begins = at
        kept = jnp.where(begins[:, None], 0.0, jnp.exp(dt * rates[None, :]))  # [B, H]
        added = key[:, :, None, None] * (x * dt[:, :, None])[:, None]  # [B, n, H, P]
        state = kept[:, None, :, None] * state + added
        return state, jnp.einsum("bn,bnhp->bhp", query, state)

    start = jnp.zeros((len(x), keys.shape[2], *x.shape[2:]), jnp.float32)
    positions = [array.swapaxes(0, 1) for array in (x, dt, keys, queries, begins)]
    return lax.scan(step, start, tuple(positions))[1].swapaxes(0, 1).astype(x.dtype), None


def compile_step(
    config: Mamba2Config | BlockConfig, rows: int, length: int, *, scan: bool = False
) -> tuple[Callable[[], object], int]:
    """A function that runs a block forward and backward, and its temporary memory in bytes."""
    dtype = jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
    graphdef, parameters = nnx.split(config.build(nnx.Rngs(0)))
    x, weights = jax.random.normal(jax.random.key(0), (2, rows, length, config.width), dtype)
    ids = jnp.broadcast_to(1 + 4 * jnp.arange(length) // length, (rows, length))

    def loss(parameters: nnx.State, x: jax.Array) -> jax.Array:
        return (nnx.merge(graphdef, parameters)(x, ids) * weights).astype(jnp.float32).sum()

    with mock.patch("bytelm.nn.mamba2.ssd", plain_scan) if scan else mock.MagicMock():
        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(parameters, x)
    step = lowered.compile(training_options(dtype) if jax.default_backend() == "cpu" else None)
    memory = step.memory_analysis()
    assert memory is not None
    return lambda: jax.block_until_ready(step(parameters, x)), memory.temp_size_in_bytes


def main(arguments: Arguments) -> None:
    """Measures the block, and shows a table for each length."""
    host_memory.keep()
    width, head_width = arguments.width, 64
    mamba = Mamba2Config(
        width=width,
        depth=1,
        mlp=None,
        mlp_width=None,
        inner=2 * width,
        head_width=head_width,
        state_width=arguments.state_width,
    )
    attention = BlockConfig(
        width=width,
        depth=1,
        heads=width // head_width,
        key_value_heads=width // head_width,
        head_width=head_width,
        mlp="swiglu",
        mlp_width=None,
        qk_norm=False,
        rope_theta=10_000.0,
        mask=AttentionMask(),
        implementation="auto",
    )
    configs: dict[str, Mamba2Config | BlockConfig] = {
        **{f"chunks of {chunk}": replace(mamba, chunk=chunk) for chunk in arguments.chunks},
        **({"scan": mamba} if arguments.scan else {}),
        "attention and MLP": attention,
    }
    for length in arguments.lengths:
        steps = {
            name: compile_step(config, arguments.rows, length, scan=name == "scan")
            for name, config in configs.items()
        }
        timings = in_turns({name: run for name, (run, _) in steps.items()}, rounds=arguments.rounds)
        table = []
        for name, (_, temporary) in steps.items():
            least = timings[name].least
            flops = 3.0 * arguments.rows * configs[name].forward_flops(length)
            speed = f"{timings['scan'].least / least:.1f}" if arguments.scan else ""
            table.append(
                (
                    name,
                    f"{timings[name].median * 1e3:.0f}",
                    f"{least * 1e3:.0f}",
                    speed,
                    "" if name == "scan" else f"{flops / least / 1e9:.0f}",
                    f"{temporary / 1e6:.0f}",
                )
            )
        columns = ("", "median ms", "least ms", "x scan", "GFLOP/s", "temporary MB")
        title = f"Blocks of width {width} forward and backward, {arguments.rows} x {length}"
        show(title, columns, table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
