"""The kinds of shortening, and rows that they shorten."""

import functools

import jax
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import END, PAD
from bytelm.models.encoder_decoder import Reading
from bytelm.models.t5.shortening import (
    BoundaryShortening,
    ConvolutionShortening,
    FixedShortening,
    GateShortening,
    RandomShortening,
)

WIDTH, ROWS, SIZE = 4, 32, 24


KINDS = {
    "gate": GateShortening(target=0.5, noise=True, score_weight=0.5, integral=5e-5),
    "random": RandomShortening(ratio=0.25),
    "fixed": FixedShortening(ratio=0.75),
    "boundary": BoundaryShortening(rate=0.25, temperature=1.0, weight=2.0),
    "convolution": ConvolutionShortening(stride=5),
}


WITHOUT_CHANNELS = ("random", "fixed")


def inputs_of(texts, size=SIZE):
    """The texts, each with END and then PAD; None is a row without any input."""
    inputs = np.full((len(texts), size), PAD, np.int32)
    for row, text in zip(inputs, texts, strict=True):
        if text is not None:
            row[: len(text) + 1] = [*text, END]
    return inputs


@functools.cache
def random_inputs():
    """Rows of all lengths, with all whitespace bytes and bytes like them; the last is empty."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdef\x08\x0e\x00\xa0\xff \t\n\v\f\r", np.uint8)
    texts = [rng.choice(letters, rng.integers(SIZE)).tobytes() for _ in range(ROWS - 2)]
    return inputs_of([*texts, rng.choice(letters, SIZE - 1).tobytes(), None])


def random_keys(seed, rows=ROWS):
    return np.random.default_rng(seed).integers(0, 2**32, (rows, 2), np.uint32)


def reading_of(inputs):
    valid = inputs != PAD
    states = np.random.default_rng(1).normal(size=(*inputs.shape, WIDTH)).astype(np.float32)
    positions = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    return Reading(states, positions, valid, valid, np.zeros(inputs.shape, np.float32))


@functools.partial(jax.jit, static_argnames="graphdef")
def _shorten(graphdef, params, reading, inputs, keys):
    return nnx.merge(graphdef, params)(reading, inputs, keys)


@functools.cache
def built(config):
    graphdef, params = nnx.split(config.build(WIDTH, nnx.Rngs(0)))
    return graphdef, nnx.to_pure_dict(params)


def shorten(config, inputs, keys=None, params=None):
    graphdef, fresh = built(config)
    params = {**fresh, **(params or {})}
    return jax.device_get(_shorten(graphdef, params, reading_of(inputs), inputs, keys))
