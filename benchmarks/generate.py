"""Bytes per second of generation: with the cache, by recomputation, and in Hugging Face.

    python -m benchmarks.generate

All make bytes greedily with a randomly initialised Transformer of one shape, in turns. The opponent
is the cached `generate` of Hugging Face's `LlamaForCausalLM`; without the extra `torch` only bytelm
is measured.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks.tables import show
from bytelm.core.vocabulary import END, INPUT_SIZE, OUTPUT_SIZE, PAD, START
from bytelm.inference.generation import Generator, Weights, store_weights
from bytelm.inference.sampling import Sampling
from bytelm.models import Batch
from bytelm.models.transformer import TransformerConfig
from bytelm.training.timing import in_turns

RECOMPUTED = 16
"""Bytes made by recomputation, which is too slow for more; each costs the same."""
WEIGHTS: tuple[Weights, ...] = ("float32", "bfloat16")


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
    """Turns that each contender takes, after one that is not timed."""

    @property
    def model(self) -> TransformerConfig:
        """The Transformer of this shape."""
        return TransformerConfig(width=self.width, depth=self.depth)


@dataclass(frozen=True)
class Contender:
    """One way of generating."""

    made: int
    """Bytes that one run makes, over all rows."""
    run: Callable[[], object]


def main(arguments: Arguments) -> None:
    """Measures, and shows a table."""
    has_torch = all(map(importlib.util.find_spec, ("torch", "transformers")))
    rows = []
    for batch_size in arguments.batch_sizes:
        contenders = bytelm_contenders(arguments, batch_size)
        if has_torch:
            contenders |= hugging_face_contenders(arguments, batch_size)
        timings = in_turns(
            {name: contender.run for name, contender in contenders.items()},
            rounds=arguments.rounds,
            warm_up=1,
        )
        for name, timing in timings.items():
            made = contenders[name].made
            speeds = (made / timing.median, made / timing.least)
            rows.append((name, str(batch_size), *(f"{speed:,.0f}" for speed in speeds)))
    title = f"generating {arguments.bytes} bytes, d {arguments.width} x {arguments.depth}"
    show(title, ("", "batch", "bytes/s, median", "best"), rows)


def bytelm_contenders(arguments: Arguments, batch_size: int) -> dict[str, Contender]:
    """Generation by bytelm, with and without its cache."""
    model = arguments.model.build(nnx.Rngs(0))
    head = jax.random.normal(jax.random.key(1), (arguments.width, OUTPUT_SIZE))
    # END always scores 0, and so is never the best of 257.
    model.head.kernel[...] = head.at[:, END].set(0.0)
    graphdef, params = nnx.split(model)
    prompts = [bytes(arguments.prompt_bytes)] * batch_size
    greedy = Sampling(temperature=0.0)

    def cached(weights: Weights) -> Contender:
        generator = Generator(graphdef, store_weights(params, weights))
        return Contender(
            batch_size * arguments.bytes,
            lambda: generator.generate(prompts, max_bytes=arguments.bytes, sampling=greedy),
        )

    contenders = {f"bytelm, {weights} weights": cached(weights) for weights in WEIGHTS}
    run = recomputation(arguments, graphdef, params, batch_size)
    return contenders | {"bytelm, recomputed": Contender(batch_size * RECOMPUTED, run)}


def recomputation(
    arguments: Arguments, graphdef: nnx.GraphDef, params: nnx.State, batch_size: int
) -> Callable[[], object]:
    """Generation by a forward pass over the whole row for each byte."""
    prompt = arguments.prompt_bytes
    shape = (batch_size, 1 + prompt + arguments.bytes)

    @jax.jit
    def best(params: nnx.State, ids: jax.Array, position: jax.Array) -> jax.Array:
        batch = Batch(ids=ids, targets=ids, document_ids=jnp.ones(shape, jnp.int32))
        return jnp.argmax(nnx.merge(graphdef, params)(batch).logits[:, position], axis=-1)

    def run() -> None:
        ids = np.full(shape, PAD, np.int32)
        ids[:, 0], ids[:, 1 : 1 + prompt] = START, 0
        for position in range(prompt, prompt + RECOMPUTED):
            ids[:, position + 1] = best(params, ids, np.int32(position))

    return run


def hugging_face_contenders(arguments: Arguments, batch_size: int) -> dict[str, Contender]:
    """Generation by a Llama of the same shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    block = arguments.model.blocks
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
    prompt = torch.zeros((batch_size, 1 + arguments.prompt_bytes), dtype=torch.long)
    prompt[:, 0] = START

    def cached(weights: Weights) -> Contender:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(getattr(torch, weights)).eval()
        return Contender(
            batch_size * arguments.bytes,
            lambda: model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                min_new_tokens=arguments.bytes,
                max_new_tokens=arguments.bytes,
                do_sample=False,
            ),
        )

    return {f"Hugging Face, {weights}": cached(weights) for weights in WEIGHTS}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
