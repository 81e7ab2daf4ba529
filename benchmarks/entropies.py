"""What patches by an entropy model cost: in training, online and stored, and computed beforehand.

    python -m benchmarks.entropies

Training steps, in turns, of one SpaceByte with patches by a rule of the bytes, with an entropy
model that reads every row of every step, and with entropies from the batch, as when they are
stored. All have the same slots. And the rate at which an entropy model reads text to store them.
The models' parameters are fresh, so the patches of the two with entropies are the same; the
thresholds hardly matter for speed, for all slots are computed.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import tyro
from flax import nnx

from benchmarks.families import text_batch, training_step
from benchmarks.tables import show
from bytelm.models import Batch
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.segmenter import RulePatches
from bytelm.training.timing import in_turns


@dataclass(frozen=True)
class Arguments:
    """Sizes of the models and of the batch."""

    width: int = 128
    """Of the local blocks; the backbone has twice as many channels."""
    depth: int = 4
    """Local blocks, and global ones."""
    entropy_width: int = 64
    """Of the entropy model."""
    entropy_depth: int = 2
    """Blocks of the entropy model."""
    window: int = 64
    """Of the entropy model."""
    length: int = 1024
    """Symbols in a row."""
    symbols: int = 8192
    """Symbols in a batch."""
    rounds: int = 7
    """Timed steps of each."""


def models(arguments: Arguments) -> dict[str, SpaceByteConfig]:
    """The contenders, which differ in their segmenter alone."""
    heads = 32
    entropy = TransformerConfig(
        width=arguments.entropy_width,
        depth=arguments.entropy_depth,
        head_width=heads,
        window=arguments.window,
    )
    make = partial(
        SpaceByteConfig,
        local_width=arguments.width,
        global_width=2 * arguments.width,
        local_depth=arguments.depth,
        global_depth=arguments.depth,
        head_width=heads,
        bytes_per_slot=4.0,
    )
    patches = EntropyModelPatches(model=entropy)
    return {
        "rule": make(segmenter=RulePatches("spacelike")),
        "online": make(segmenter=patches),
        "stored": make(segmenter=dataclasses.replace(patches, stored=True)),
    }


def main(arguments: Arguments) -> None:
    """Prints a table of training steps, and one of reading alone."""
    contenders = models(arguments)
    batch = text_batch(arguments.length, arguments.symbols)
    segmenter = contenders["online"].segmenter.build_alone(nnx.Rngs(0))
    graphdef, params = nnx.split(segmenter)

    @jax.jit
    def read(params: nnx.State, batch: Batch) -> jax.Array:
        return nnx.merge(graphdef, params).entropies(batch.ids, batch.document_ids)

    known = dataclasses.replace(batch, entropies=np.asarray(read(params, batch)))
    steps = {
        name: training_step(config, known if name == "stored" else batch)
        for name, config in contenders.items()
    }
    runs = {name: step.run for name, step in steps.items()}
    runs["reading alone"] = lambda: jax.block_until_ready(read(params, batch))
    timings = in_turns(runs, rounds=arguments.rounds)
    least = timings["rule"].median
    rows = []
    for name, timing in timings.items():
        frozen = contenders["online"].frozen_flops(arguments.length)
        flops = frozen
        if name in contenders:
            whole = contenders[name].forward_flops(arguments.length)
            flops = whole - frozen if name == "stored" else whole
        mebibytes = f"{steps[name].temporary_bytes / 2**20:.0f}" if name in steps else ""
        rate = batch.ids.size / timing.median
        flops_per_byte = f"{flops / arguments.length / 1e6:.2f}"
        rows.append(
            [name, flops_per_byte, f"{rate:,.0f}", f"{timing.median / least:.3f}", mebibytes]
        )
    title = f"training steps of {batch.ids.size:,} symbols at T {arguments.length}"
    columns = ("patches", "MFLOP/byte, forward", "symbols/s", "x the rule's step", "temporary MiB")
    show(title, columns, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
