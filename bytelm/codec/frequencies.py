"""Integer frequencies of the next symbol of each row: what both sides of the codec compute.

A range coder needs bit-identical frequencies on both sides, and floats change with the program that
computes them. So the encoder, which has all symbols, does not score them in one pass: it reads them
one by one, by the same program with the same shapes as the decoder.

The context is that of `bytelm.inference.scoring`: a row begins with START and has windows of T
symbols. When one is full the next begins with its last `T - stride` symbols, which are read again.

Shapes: R = rows, V = outputs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import Vocabulary
from bytelm.core.xla import Function, jit_inference
from bytelm.inference.decoding import empty_state
from bytelm.inference.generation import PREFILL
from bytelm.models.contract import LanguageModel

TOTAL = 2**24
"""The sum of the frequencies of all symbols; float32 holds every integer up to it."""


def free_frequencies(logits: jax.Array) -> jax.Array:
    """The frequencies less 1: integers in float32 `[R, V]` whose sum is `TOTAL - V`.

    So every symbol has at least 1, and costs at most `V / TOTAL` nats more than its logit says.
    What rounding down leaves goes to the likeliest symbol.
    """
    free = TOTAL - logits.shape[-1]
    rounded = jnp.floor(jax.nn.softmax(logits) * free)  # [R, V]
    left = free - rounded.sum(axis=-1, keepdims=True)
    return rounded + left * jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])


class _Programs(NamedTuple):
    step: Function
    """(params, state, symbols `[R]`, lengths `[R]`) -> free frequencies `[R, V]`, state."""
    read: Function
    """(params, state, symbols `[R, N]`, lengths `[R]`) -> state."""


@functools.lru_cache(maxsize=4)
def _programs(graphdef: nnx.GraphDef, outputs: int) -> _Programs:
    """Compiled for one model; hashing its graph takes longer than a small model's step."""

    @jit_inference(repeatable=True, donate_argnums=1)
    def step(params: Any, state: Any, symbols: jax.Array, lengths: jax.Array) -> Any:
        model: LanguageModel = nnx.merge(graphdef, params)
        logits, state = model.extend(symbols[:, None], state, lengths)
        return free_frequencies(logits[:, 0, :outputs]), state

    @jit_inference(repeatable=True, donate_argnums=1)
    def read(params: Any, state: Any, symbols: jax.Array, lengths: jax.Array) -> Any:
        model: LanguageModel = nnx.merge(graphdef, params)
        return model.extend(symbols, state, lengths)[1]

    return _Programs(step, read)


class Frequencies:
    """Reads the symbols of rows one by one, and gives the frequencies of the next ones.

    Args:
        graphdef, params: of the model, in its form for decoding.
        vocabulary: of its symbols.
        rows: R.
        context: T, symbols of a window.
        stride: how far a full window moves on.
        whole: whether patches find slots as in scoring, where a row has T symbols.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: Any,
        vocabulary: Vocabulary,
        *,
        rows: int,
        context: int,
        stride: int,
        whole: bool = True,
    ):
        self._graphdef, self._params, self._stride = graphdef, params, stride
        self._whole = whole
        self._programs = _programs(graphdef, vocabulary.outputs)
        self._window = np.full((rows, context), vocabulary.pad, np.int32)  # what the state has read
        self._filled = 0
        self._state = self._empty_state()

    def after(self, symbols: np.ndarray, reading: np.ndarray) -> np.ndarray:
        """Free frequencies after one more symbol, float32 `[R, V]`.

        Args:
            symbols: int32 `[R]`.
            reading: bool `[R]`, the rows that go on; a row that has ended stays so.
        """
        lengths = reading.astype(np.int32)
        if self._filled == self._window.shape[1]:
            self._move(lengths)
        self._window[:, self._filled] = symbols
        self._filled += 1
        free, self._state = self._programs.step(self._params, self._state, symbols, lengths)
        return np.asarray(free)

    def _move(self, lengths: np.ndarray) -> None:
        """Begins the next window."""
        kept = self._window.shape[1] - self._stride
        self._window[:, :kept] = self._window[:, self._stride :]
        self._filled, self._state = kept, self._empty_state()
        for first in range(0, kept, PREFILL):
            chunk = self._window[:, first : first + PREFILL].copy()
            present = lengths * min(PREFILL, kept - first)
            self._state = self._programs.read(self._params, self._state, chunk, present)

    def _empty_state(self) -> Any:
        rows, context = self._window.shape
        try:
            state, _ = empty_state(self._graphdef, self._params, rows, context, whole=self._whole)
            # Where the parameters are: otherwise the second step would be another program.
            return jax.device_put(state, jax.tree.leaves(self._params)[0].sharding)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            raise UserError(
                f"there is no memory for {rows} rows of {context} symbols; compress with fewer "
                "--rows, or on a machine with more memory."
            ) from error
