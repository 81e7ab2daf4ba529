"""Models whose logits depend on the last symbol alone, so that figures can be found by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import BYTE_VOCABULARY, START, Vocabulary
from bytelm.evaluation.suite import Scoring
from bytelm.evaluation.text import GivenText
from bytelm.inference.scoring import Scorer
from bytelm.models.contract import LanguageModel, ModelOutput, Unembedding
from bytelm.patching.marks import PatchMarks

CONTEXT = 8


class Pairs:
    """A tokenizer whose tokens are the bytes, and `ab`."""

    vocabulary = Vocabulary(257)
    token_bytes = (*(bytes([byte]) for byte in range(256)), b"ab")
    byte_counts = np.array([1] * 256 + [2, 0, 0, 0], np.int32)

    def encode(self, text):
        whole = text.replace(b"ab", b"\xff")
        return np.array([256 if byte == 0xFF else byte for byte in whole], np.int32)


class Table(LanguageModel):
    """Logits that depend on the last symbol alone, `[inputs, outputs]`; patches start at spaces.

    Patches of the inner level, if there are two, start at dots.
    """

    def __init__(self, logits, *, lazy=False, levels=0):
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))
        self.lazy = lazy
        self.levels = levels

    def __call__(self, batch):
        starts = [batch.ids == ord(mark) for mark in " ."[: self.levels]]
        levels = tuple(PatchMarks(each, each, jnp.zeros_like(each)) for each in starts)
        if not self.lazy:
            return ModelOutput(self.logits[...][batch.ids], levels=levels)
        states = jnp.eye(len(self.logits))[batch.ids]
        return ModelOutput(Unembedding(states, self.logits[...]), levels=levels)


def loaded(model, tokenizer=None, context=CONTEXT):
    """What evaluations read of a `LoadedModel`."""
    return SimpleNamespace(scorer=Scorer(*nnx.split(model)), context=context, tokenizer=tokenizer)


def table(vocabulary=BYTE_VOCABULARY):
    return np.zeros((vocabulary.inputs, vocabulary.outputs))


def random_table(vocabulary=BYTE_VOCABULARY, seed=0):
    """Random logits, and the bits of each output after each input, float64."""
    shape = (vocabulary.inputs, vocabulary.outputs)
    logits = np.random.default_rng(seed).normal(size=shape)
    return logits, np.log2(np.exp(logits).sum(axis=1, keepdims=True)) - logits / np.log(2)


def text_bits(bits, text):
    """Bits of each byte of a text."""
    return np.array(
        [bits[before, byte] for before, byte in zip([START, *text], text, strict=False)]
    )


def run(evaluation, model, documents, *, stride=None, batch_size=8, max_bytes=None):
    """The result of an evaluation of documents."""
    scoring = Scoring(stride, batch_size, max_bytes)
    return evaluation.run(model, GivenText(tuple(documents)), scoring)


def values(result):
    """The figures' values by name."""
    return {figure.name: figure.value for figure in result.figures}
