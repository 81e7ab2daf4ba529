"""What deletion saves MrT5, and ByT5's training step against PyTorch's.

    python -m benchmarks.mrt5

Two tables, each from turns in one run:

- the encoder, and the whole forward pass over inputs and targets, with 30, 50 and 70 % of the
  inputs deleted in fact, against ByT5 of the same size; and the saving by the count of FLOPs;
- a training step of ByT5 against that of Hugging Face's T5 of the same shape with fused AdamW and
  the same clipping, eager and compiled, in each compute dtype (theirs: autocast). Needs the extra
  `torch`; without it only ours is measured.

The rows of the first table are all the same random bytes, and the gate's bias is set so that
exactly the named share is deleted: rows that differ would take the slots of the fullest.
"""

import importlib.util
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks.tables import show
from bytelm.core.vocabulary import BYTES
from bytelm.data.tasks.span_corruption import SpanCorruption
from bytelm.inference.transduction import encode_reading, read_inputs, round_up
from bytelm.models import Batch
from bytelm.models.contract import ComputeDtype
from bytelm.models.encoder_decoder import VOCABULARY
from bytelm.models.parameters import roles_of
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.nn.mesh import MeshConfig
from bytelm.training import host_memory
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program
from bytelm.training.timing import in_turns, repeated_step

Table = Literal["deletion", "step"]

OPTIMIZER = AdamW()


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    width: int = 512
    """Channels; the published small model has 1472."""
    encoder_depth: int = 12
    """Blocks of the encoder, as in the published small model."""
    decoder_depth: int = 4
    """Blocks of the decoder, as in the published small model."""
    heads: int = 6
    """Attention heads of 64 channels."""
    mlp_width: int = 1024
    """Channels inside the MLP; the published small model has 3584."""
    length: int = 1024
    """Inputs in a row."""
    rows: int = 4
    """Rows of a batch."""
    deleted: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Shares of the inputs to delete."""
    dtypes: tuple[ComputeDtype, ...] = ("float32", "bfloat16")
    """Compute dtypes of the training steps."""
    rounds: int = 5
    """Turns that each contender takes."""
    tables: tuple[Table, ...] = typing.get_args(Table)
    """Which tables to make."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the models."""
        names = ("width", "encoder_depth", "decoder_depth", "heads", "mlp_width")
        return {name: getattr(self, name) for name in names}


def random_batch(arguments: Arguments) -> Batch:
    """Rows as span corruption makes them, of random bytes."""
    targets = SpanCorruption().own_row_length(arguments.length)
    rng = np.random.default_rng(0)

    def symbols(count: int) -> np.ndarray:
        return rng.integers(BYTES, size=(arguments.rows, count)).astype(np.int32)

    ids = symbols(targets + 1)
    ones = np.ones((arguments.rows, targets), np.int32)
    return Batch(ids[:, :-1], ids[:, 1:], ones, inputs=symbols(arguments.length))


def deletion_table(arguments: Arguments) -> None:
    """Forward passes with more and more deleted."""
    batch = random_batch(arguments)
    batch = replace(batch, inputs=np.repeat(batch.inputs[:1], arguments.rows, axis=0))
    encoders: dict[str, Callable[[], Any]] = {}
    wholes: dict[str, Callable[[], Any]] = {}
    flops: dict[str, tuple[float, float]] = {}
    for share in (0.0, *arguments.deleted):
        name = f"{share:.0%} deleted" if share else "ByT5"
        config = MrT5Config(**arguments.sizes) if share else ByT5Config(**arguments.sizes)
        graphdef, params, kept = built(config, batch, share)
        length = round_up(kept)

        def encoder(graphdef=graphdef, params=params, length=length) -> Any:
            reading = read_inputs(graphdef, params, batch.inputs)
            # As in evaluation and generation, which look at the counts on the host.
            return encode_reading(
                graphdef, params, reading, max(length, round_up(reading.counts.max()))
            )

        decode = jax.jit(
            lambda params, encoded, graphdef=graphdef: nnx.merge(graphdef, params).decode(
                batch.ids, encoded
            )
        )

        def whole(encoder=encoder, decode=decode, params=params) -> Any:
            return decode(params, encoder())

        encoders[name] = lambda run=encoder: jax.block_until_ready(run())
        wholes[name] = lambda run=whole: jax.block_until_ready(run())
        of_encoder = config.encoder_flops(arguments.length, kept)
        of_decoder = config.decoder_flops(kept, batch.ids.shape[1])
        flops[name] = (of_encoder, of_encoder + of_decoder)
    measured = [in_turns(runs, rounds=arguments.rounds) for runs in (encoders, wholes)]
    rows = []
    for name in encoders:
        row = [name]
        for part, timings in enumerate(measured):
            time, first = timings[name].median, timings["ByT5"].median
            row += [
                f"{time * 1e3:,.0f}",
                f"{1 - time / first:.0%}",
                f"{1 - flops[name][part] / flops['ByT5'][part]:.0%}",
            ]
        rows.append(row)
    title = f"Deletion, width {arguments.width}, {arguments.rows} rows of {arguments.length}"
    columns = ("", "encoder ms", "saved", "FLOPs saved", "forward ms", "saved", "FLOPs saved")
    show(title, columns, rows)


def built(config: ByT5Config, batch: Batch, share: float) -> tuple[nnx.GraphDef, Any, int]:
    """A model for decoding, its parameters, and the most states that a row keeps."""
    model = config.build(nnx.Rngs(0))
    model.for_decoding()
    graphdef, params = nnx.split(model)
    if share:
        # The bias moves the threshold so that the inputs with the most closed gates are deleted.
        states = read_inputs(graphdef, params, batch.inputs).states
        logits = nnx.merge(graphdef, params).shortener.logits(states)
        params["shortener"]["bias"][...] += -jnp.quantile(logits, share)
    return graphdef, params, int(read_inputs(graphdef, params, batch.inputs).counts.max())


def step_tables(arguments: Arguments) -> None:
    """Training steps of ByT5 here and in PyTorch, a table for each compute dtype."""
    for dtype in arguments.dtypes:
        step_table(arguments, dtype)


def step_table(arguments: Arguments, dtype: ComputeDtype) -> None:
    """Training steps in one compute dtype."""
    contenders = {"bytelm": bytelm_step(arguments, dtype)}
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        contenders["PyTorch"] = torch_step(arguments, dtype, compiled=False)
        contenders["torch.compile"] = torch_step(arguments, dtype, compiled=True)
    timings = in_turns(contenders, rounds=arguments.rounds)
    first = timings.get("PyTorch", timings["bytelm"]).median
    rows = [
        (name, f"{timing.median * 1e3:,.0f}", f"{timing.median / first:.2f}")
        for name, timing in timings.items()
    ]
    title = f"ByT5's training step, width {arguments.width}, {arguments.rows} rows, {dtype}"
    show(title, ("", "median ms", "of PyTorch"), rows)


def bytelm_step(arguments: Arguments, dtype: ComputeDtype) -> Callable[[], None]:
    """A training step of ours."""
    mesh = MeshConfig().build()
    model = ByT5Config(**arguments.sizes, compute_dtype=dtype)
    program = train_program(model, OPTIMIZER.build(1000, roles_of(model)), mesh)
    return repeated_step(program, random_batch(arguments), mesh).run


def torch_step(arguments: Arguments, dtype: ComputeDtype, compiled: bool) -> Callable[[], None]:
    """The same step in PyTorch."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCABULARY,
            d_model=arguments.width,
            d_kv=64,
            d_ff=arguments.mlp_width,
            num_heads=arguments.heads,
            num_layers=arguments.encoder_depth,
            num_decoder_layers=arguments.decoder_depth,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            dropout_rate=0.0,
            use_cache=False,
            decoder_start_token_id=0,
        )
    )
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=OPTIMIZER.learning_rate,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        weight_decay=OPTIMIZER.weight_decay,
        fused=True,
    )
    batch = random_batch(arguments)
    inputs, targets = (
        torch.tensor(symbols + 3, dtype=torch.long) for symbols in (batch.inputs, batch.targets)
    )
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(input_ids=inputs, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()

    return step


def main(arguments: Arguments) -> None:
    """Makes the tables asked for."""
    tables: dict[Table, Callable[[Arguments], None]] = {
        "deletion": deletion_table,
        "step": step_tables,
    }
    host_memory.keep()
    for name in arguments.tables:
        tables[name](arguments)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
