"""Bytes per second of many prompts: by continuous batching, and in fixed batches.

    python -m benchmarks.batching

The prompts have mixed lengths, and their texts too; a fixed batch runs until its longest text has
ended. Both write the same texts, greedily, with a randomly initialised Transformer, in turns.
"""

from dataclasses import dataclass

import jax
import numpy as np
import tyro
from flax import nnx

from benchmarks.tables import show
from bytelm.core.vocabulary import END, OUTPUT_SIZE
from bytelm.inference.batching import Prompt
from bytelm.inference.generation import Generator
from bytelm.inference.sampling import Sampling
from bytelm.models.transformer import TransformerConfig
from bytelm.training.timing import in_turns


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    width: int = 256
    """Channels of the residual stream."""
    depth: int = 6
    """Blocks."""
    prompts: int = 512
    """Prompts."""
    longest_prompt: int = 256
    """Most bytes of a prompt."""
    longest_text: int = 256
    """Most bytes of a continuation; their lengths are geometric, with a quarter of this as mean."""
    rows: int = 16
    """Texts that are written together."""
    rounds: int = 3
    """Turns that each contender takes, after one that is not timed."""


def make_prompts(arguments: Arguments) -> list[Prompt]:
    """Prompts of even lengths whose texts are mostly short."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, arguments.longest_prompt, arguments.prompts)
    wanted = rng.geometric(4 / arguments.longest_text, arguments.prompts)
    most = np.minimum(wanted, arguments.longest_text)
    return [
        Prompt(rng.bytes(int(size)), int(count), number)
        for number, (size, count) in enumerate(zip(sizes, most, strict=True))
    ]


def main(arguments: Arguments) -> None:
    """Measures, and shows a table."""
    model = TransformerConfig(width=arguments.width, depth=arguments.depth).build(nnx.Rngs(0))
    head = jax.random.normal(jax.random.key(1), (arguments.width, OUTPUT_SIZE))
    # END always scores 0, and so is never the best of 257.
    model.head.kernel[...] = head.at[:, END].set(0.0)
    generator, greedy = Generator(*nnx.split(model)), Sampling(temperature=0.0)
    prompts, size = make_prompts(arguments), arguments.rows
    batches = [prompts[first : first + size] for first in range(0, len(prompts), size)]

    def fixed() -> list[bytes]:
        texts = []
        for batch in batches:
            most = max(prompt.max_bytes for prompt in batch)
            found = generator.generate(
                [prompt.text for prompt in batch], max_bytes=most, sampling=greedy
            )
            texts += [text[: prompt.max_bytes] for prompt, text in zip(batch, found, strict=True)]
        return texts

    def continuous() -> list[bytes]:
        return list(generator.complete(prompts, rows=size, sampling=greedy))

    timings = in_turns(
        {"fixed batches": fixed, "continuous batching": continuous},
        rounds=arguments.rounds,
        warm_up=1,
    )
    made = sum(prompt.max_bytes for prompt in prompts)
    rows = [
        (name, f"{made / timing.median:,.0f}", f"{made / timing.least:,.0f}")
        for name, timing in timings.items()
    ]
    title = f"{len(prompts)} prompts, {made:,} bytes, {size} rows"
    show(title, ("", "bytes/s, median", "best"), rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
