"""Generation with encoder-decoder models: inputs in, the bytes of their targets out.

An input is read once; then the loop of `bytelm.inference.generation` generates its target. Inputs
and kept encoder states are padded to a multiple of `MULTIPLE`: few shapes are compiled, and later
encoder blocks cost as much as the states that are kept.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import END, PAD, START
from bytelm.core.xla import jit_inference
from bytelm.inference.decoding import read_rows
from bytelm.inference.drafters import Drafter
from bytelm.inference.generation import Generator
from bytelm.inference.sampling import Sampling
from bytelm.models.encoder_decoder import VOCABULARY, Encoded, Reading

MULTIPLE = 32
"""The lengths of inputs, kept states and targets are rounded up to a multiple of this."""


def round_up(count: int) -> int:
    """`count` rounded up to a multiple of MULTIPLE, at least MULTIPLE."""
    return MULTIPLE * max(1, -(-count // MULTIPLE))


def pad_inputs(inputs: Sequence[bytes]) -> np.ndarray:
    """What an encoder reads, int32 `[B, S]`: the bytes of each input, END, then PAD."""
    ids = np.full((len(inputs), round_up(1 + max(map(len, inputs)))), PAD, np.int32)
    for row, text in zip(ids, inputs, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
        row[len(text)] = END
    return ids


class Transducer(Generator):
    """Writes the target of each input with one encoder-decoder model.

    In `generate` and `stream` the prompts are the inputs.
    """

    makes_room = False
    no_drafts = "drafts go on with a text, and this model writes targets of inputs"

    def encode_inputs(self, inputs: np.ndarray) -> Encoded:
        """Runs the encoder on rows from `pad_inputs`, shortened as far as they allow."""
        reading = read_inputs(self.graphdef, self.params, inputs)
        length = min(round_up(int(reading.counts.max())), inputs.shape[1])
        return encode_reading(self.graphdef, self.params, reading, length)

    def start(
        self,
        prompts: Sequence[bytes],
        max_bytes: int,
        drafter: Drafter | None = None,
        *,
        beams: int = 1,
    ) -> tuple[Any, Any, None]:
        """The logits after START, `[B x beams, VOCABULARY]`, and the state after it."""
        encoded = self.encode_inputs(pad_inputs(prompts))
        length = round_up(1 + max_bytes)
        state = _start(self.graphdef, self.params, encoded, length, beams)
        starts = np.full((len(prompts) * beams, 1), START, np.int32)
        lengths = np.ones(len(starts), np.int32)
        return read_rows(self.graphdef, self.params, starts, lengths, state, VOCABULARY, chunk=1)

    def greedy(self, inputs: Sequence[bytes], *, max_bytes: int) -> list[bytes]:
        """The targets that take the most probable next byte each time."""
        return self.generate(inputs, max_bytes=max_bytes, sampling=Sampling(temperature=0.0))


@jit_inference(static_argnames="graphdef")
def read_inputs(graphdef: nnx.GraphDef, params: Any, inputs: jax.Array) -> Reading:
    """`EncoderDecoder.read` of inputs int32 `[B, S]`."""
    return nnx.merge(graphdef, params).read(inputs)


@jit_inference(static_argnames=("graphdef", "length"))
def encode_reading(
    graphdef: nnx.GraphDef, params: Any, reading: Reading, length: int | None
) -> Encoded:
    """`EncoderDecoder.encode`, compiled for each length."""
    return nnx.merge(graphdef, params).encode(reading, length)


@functools.partial(jax.jit, static_argnames=("graphdef", "length", "beams"))
def _start(graphdef: nnx.GraphDef, params: Any, encoded: Encoded, length: int, beams: int) -> Any:
    repeated = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), encoded)
    return nnx.merge(graphdef, params).start(repeated, length)
