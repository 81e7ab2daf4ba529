"""Speed of the flat Transformer's training step, against PyTorch's where it is installed.

    python -m benchmarks.train_step --shapes cpu

The opponent is Hugging Face's `LlamaForCausalLM` (with a window, `MistralForCausalLM`, which is
the same network) of the same shape with fused AdamW and the same clipping, eager and compiled;
the two sides take steps in turns. Needs the extra `torch`; without it only bytelm is measured.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves PyTorch its share

import jax
import numpy as np
import tyro

from benchmarks.tables import show
from bytelm.core.vocabulary import BYTES, INPUT_SIZE
from bytelm.models import Batch
from bytelm.models.contract import ComputeDtype
from bytelm.models.parameters import roles_of
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training import host_memory
from bytelm.training.hardware import peak_flops
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program
from bytelm.training.timing import Timing, in_turns, repeated_step

OPTIMIZER = AdamW()
STEPS = 1000
"""Length of the run that the learning-rate schedule is made for."""


@dataclass(frozen=True)
class Shape:
    """A model and its batch: `rows` rows of `length` symbols."""

    width: int
    depth: int
    length: int
    rows: int
    dtype: ComputeDtype
    window: int | None = None

    @property
    def model(self) -> TransformerConfig:
        return TransformerConfig(
            width=self.width, depth=self.depth, window=self.window, compute_dtype=self.dtype
        )

    def __str__(self) -> str:
        window = f", W {self.window}" if self.window else ""
        return (
            f"d {self.width} x {self.depth}, T {self.length}, B {self.rows}{window}, {self.dtype}"
        )


SHAPES = {
    "cpu": (
        Shape(128, 4, 512, 8, "float32"),
        Shape(256, 6, 1024, 8, "float32"),
        Shape(256, 6, 1024, 8, "bfloat16"),
        Shape(256, 6, 8192, 1, "float32", window=512),
    ),
    "gpu": (
        Shape(768, 12, 2048, 32, "bfloat16"),
        Shape(1536, 16, 2048, 16, "bfloat16"),
        Shape(1536, 16, 8192, 4, "bfloat16", window=512),
        Shape(2048, 20, 4096, 8, "bfloat16"),
    ),
}


def rows_of_bytes(shape: Shape) -> Batch:
    """Random rows of two documents each."""
    symbols = np.random.default_rng(0).integers(BYTES, size=(shape.rows, shape.length + 1))
    symbols = symbols.astype(np.int32)
    document_ids = np.ones((shape.rows, shape.length), np.int32)
    document_ids[:, shape.length // 3 :] = 2
    return Batch(symbols[:, :-1], symbols[:, 1:], document_ids)


def bytelm_step(shape: Shape) -> Callable[[], None]:
    """A training step of ours, to be called any number of times."""
    mesh = MeshConfig().build()
    program = train_program(shape.model, OPTIMIZER.build(STEPS, roles_of(shape.model)), mesh)
    return repeated_step(program, rows_of_bytes(shape), mesh).run


def torch_step(shape: Shape, compiled: bool) -> Callable[[], None]:
    """The same step in PyTorch on the device that JAX uses."""
    import torch
    import transformers

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = shape.model
    sizes = {
        "vocab_size": INPUT_SIZE,
        "hidden_size": config.width,
        "intermediate_size": config.blocks.hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.blocks.heads,
        "num_key_value_heads": config.blocks.key_value_heads,
        "max_position_embeddings": shape.length,
        "use_cache": False,
    }
    if shape.window:
        model = transformers.MistralForCausalLM(
            transformers.MistralConfig(**sizes, sliding_window=shape.window)
        )
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    model = model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=OPTIMIZER.learning_rate,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        weight_decay=OPTIMIZER.weight_decay,
        fused=True,
    )
    batch = rows_of_bytes(shape)
    ids, targets = (
        torch.tensor(symbols, dtype=torch.long, device=device)
        for symbols in (batch.ids, batch.targets)
    )
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=shape.dtype == "bfloat16"):
            logits = forward(input_ids=ids).logits
        logits = logits.float().flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def table_row(
    shape: Shape, name: str, timing: Timing, reference: Timing, peak: float
) -> tuple[str, ...]:
    """One line of the table; the last column is relative to `reference`."""
    flops = 3 * shape.model.forward_flops(shape.length) * shape.rows / timing.median
    return (
        name,
        f"{timing.median * 1e3:,.0f}",
        f"{timing.least * 1e3:,.0f}",
        f"{shape.rows * shape.length / timing.median:,.0f}",
        f"{flops / 1e9:,.0f}",
        f"{flops / peak:.0%}",
        f"{timing.median / reference.median:.2f}",
    )


def main(shapes: tuple[str, ...] = (), rounds: int = 5, torch: bool = True) -> None:
    """Measures training steps.

    Args:
        shapes: "cpu" or "gpu" for a whole list, "cpu0", "cpu1", ... for one; default by hardware.
        rounds: timed steps of each contender.
        torch: whether PyTorch takes part if it is installed.
    """
    host_memory.keep()
    choices: dict[str, tuple[Shape, ...]] = dict(SHAPES)
    for name, group in SHAPES.items():
        choices |= {f"{name}{index}": (shape,) for index, shape in enumerate(group)}
    default = "cpu" if jax.default_backend() == "cpu" else "gpu"
    has_torch = torch and all(map(importlib.util.find_spec, ("torch", "transformers")))
    for shape in [shape for name in shapes or (default,) for shape in choices[name]]:
        contenders = {"bytelm": bytelm_step(shape)}
        if has_torch:
            contenders["PyTorch"] = torch_step(shape, compiled=False)
            contenders["torch.compile"] = torch_step(shape, compiled=True)
        timings = in_turns(contenders, rounds=rounds)
        *_, last = timings
        peak = peak_flops(shape.model.dtype) * jax.device_count()
        show(
            f"Training step: {shape}",
            ("", "median ms", "least ms", "bytes/s", "GFLOP/s", "of peak", f"of {last}"),
            [table_row(shape, *item, timings[last], peak) for item in timings.items()],
        )


if __name__ == "__main__":
    tyro.cli(main)
