"""Bytes per second of generation: with the cache, by recomputation, and in Hugging Face.

    python benchmarks/generate.py

Everyone makes the same number of bytes greedily with a randomly initialised Transformer of one
shape. The systems take turns, so that a change in the machine's load meets all of them; the
medians are compared. Hugging Face's `LlamaForCausalLM` (in eager mode, with its default cache)
joins where the extra `torch` is installed.
"""

import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from bytelm.inference.generation import Generator, Weights, store_weights
from bytelm.inference.sampling import Sampling
from bytelm.models.contract import Batch
from bytelm.models.transformer import TransformerConfig
from bytelm.training.hardware import describe_machine
from bytelm.vocabulary import END, INPUT_SIZE, OUTPUT_SIZE, PAD, START

RECOMPUTED = 16
"""Bytes made by recomputation, which is too slow for more; each costs the same."""
WEIGHTS: tuple[Weights, ...] = ("float32", "bfloat16")

Run = Callable[[], int]
"""Generates, and returns how many bytes it made over all rows."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    width: int = 256
    """Channels of the residual stream."""
    depth: int = 6
    """Blocks."""
    bytes: int = 512
    """Bytes that each row gets."""
    prompt_bytes: int = 64
    """Bytes that each row starts with."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Rows generated together."""
    rounds: int = 5
    """Turns that each system takes, after one that is not timed."""
    output: Path | None = None
    """JSON file for the figures."""


def main(arguments: Arguments) -> None:
    """Measures, and shows a table."""
    figures = []
    for rows in arguments.batch_sizes:
        runs = bytelm_runs(arguments, rows)
        if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
            runs |= hugging_face_runs(arguments, rows)
        for name, speed in measure(runs, arguments.rounds).items():
            figures.append({"batch_size": rows, "system": name, "bytes_per_second": speed})
    table = Table(
        "batch",
        "system",
        "bytes/s",
        title=f"width {arguments.width}, depth {arguments.depth}, {arguments.bytes} bytes",
        caption=describe_machine(),
    )
    for figure in figures:
        speed = f"{figure['bytes_per_second']:,.0f}"
        table.add_row(str(figure["batch_size"]), str(figure["system"]), speed)
    Console().print(table)
    if arguments.output:
        report = {"machine": describe_machine(), "figures": figures}
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


def measure(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median bytes per second of each run, taken in turns after a first turn to compile."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            made = run()
            if turn:
                speeds[name].append(made / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in speeds.items()}


def bytelm_runs(arguments: Arguments, rows: int) -> dict[str, Run]:
    """Generation by bytelm, with and without its cache."""
    config = TransformerConfig(width=arguments.width, depth=arguments.depth)
    model = config.build(nnx.Rngs(0))
    head = jax.random.normal(jax.random.key(1), (arguments.width, OUTPUT_SIZE))
    # END always scores 0, and so is never the best of 257.
    model.head.kernel[...] = head.at[:, END].set(0.0)
    graphdef, params = nnx.split(model)
    prompts = [bytes(arguments.prompt_bytes)] * rows

    def cached(generator: Generator) -> Run:
        greedy = Sampling(temperature=0.0)
        return lambda: sum(
            map(len, generator.generate(prompts, max_bytes=arguments.bytes, sampling=greedy))
        )

    runs = {
        f"bytelm, {weights} weights": cached(Generator(graphdef, store_weights(params, weights)))
        for weights in WEIGHTS
    }
    return runs | {"bytelm, recomputed": recomputed(arguments, graphdef, params, rows)}


def recomputed(arguments: Arguments, graphdef: nnx.GraphDef, params: nnx.State, rows: int) -> Run:
    """Generation by a forward pass over the whole row for each byte."""
    shape = (rows, 1 + arguments.prompt_bytes + arguments.bytes)

    @jax.jit
    def best(params: nnx.State, ids: jax.Array, position: jax.Array) -> jax.Array:
        batch = Batch(ids=ids, targets=ids, segment_ids=jnp.ones(shape, jnp.int32))
        logits = nnx.merge(graphdef, params)(batch).logits
        return jnp.argmax(logits[:, position], axis=-1)

    def run() -> int:
        ids = np.full(shape, PAD, np.int32)
        ids[:, 0] = START
        ids[:, 1 : 1 + arguments.prompt_bytes] = 0
        for position in range(arguments.prompt_bytes, arguments.prompt_bytes + RECOMPUTED):
            ids[:, position + 1] = best(params, ids, np.int32(position))
        return rows * RECOMPUTED

    return run


def hugging_face_runs(arguments: Arguments, rows: int) -> dict[str, Run]:
    """Cached generation by Hugging Face's Llama of the same shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    block = TransformerConfig(width=arguments.width, depth=arguments.depth).block
    config = LlamaConfig(
        vocab_size=INPUT_SIZE,
        hidden_size=block.width,
        intermediate_size=block.hidden,
        num_hidden_layers=block.depth,
        num_attention_heads=block.heads,
        num_key_value_heads=block.key_value_heads,
        max_position_embeddings=1 + arguments.prompt_bytes + arguments.bytes,
        bos_token_id=START,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    prompt = torch.zeros((rows, 1 + arguments.prompt_bytes), dtype=torch.long)
    prompt[:, 0] = START

    def cached(dtype: torch.dtype) -> Run:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(dtype).eval()

        def run() -> int:
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=arguments.bytes,
                do_sample=False,
            )
            return rows * (made.shape[1] - prompt.shape[1])

        return run

    return {f"Hugging Face, {weights}": cached(getattr(torch, weights)) for weights in WEIGHTS}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
