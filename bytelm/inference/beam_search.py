"""Beam search: approximately the most probable targets of inputs."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.checked import require_positive
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, OUTPUT_SIZE
from bytelm.inference.stopping import StopFilter
from bytelm.inference.transduction import Transducer
from bytelm.nn.state import take


def beam_search(
    model: Transducer,
    inputs: Sequence[bytes],
    *,
    beams: int,
    max_bytes: int,
    length_penalty: float = 1.0,
    stop: Sequence[bytes] = (),
) -> list[bytes]:
    """The best target found for each input.

    Args:
        model: predicts the targets.
        inputs: all in one batch.
        beams: candidates that are followed at a time.
        max_bytes: longest target; one that has not ended by then counts as it is.
        length_penalty: candidates are compared by log-probability / length ** length_penalty, where
            the length counts END.
        stop: byte strings; a target is cut just before the first of them that occurs.

    Raises:
        UserError: for an option out of range.
    """
    require_positive("beams", beams)
    if max_bytes < 1:
        raise UserError(f"max-bytes is {max_bytes}; beam search needs at least 1.")
    if not inputs:
        return []
    logits, state, _ = model.start(inputs, max_bytes, beams=beams)
    found = _search(model.graphdef, model.params, logits, state, beams, max_bytes, length_penalty)
    rows = [StopFilter(stop) for _ in inputs]
    return [row.feed(text) + row.flush() for row, text in zip(rows, np.asarray(found), strict=True)]


class _Beams(NamedTuple):
    """B = inputs, W = beams, N = most symbols."""

    made: jax.Array  # number of symbols of each candidate
    symbols: jax.Array  # int32 [B, W, N], the unfinished candidates; END after their symbols
    scores: jax.Array  # float32 [B, W], their log-probabilities
    ended: jax.Array  # int32 [B, W, N], the best finished candidates
    ended_scores: jax.Array  # float32 [B, W], their scores with the length penalty; -inf for none
    logits: jax.Array  # [B x W, V], of the next symbols
    state: Any  # of the model


@functools.partial(jax.jit, static_argnames=("graphdef", "beams", "most"))
def _search(
    graphdef: nnx.GraphDef,
    params: Any,
    logits: jax.Array,
    state: Any,
    beams: int,
    most: int,
    penalty: float,
) -> jax.Array:
    model = nnx.merge(graphdef, params)
    rows = len(logits) // beams
    empty = jnp.full((rows, beams, most), END, jnp.int32)
    none = jnp.full((rows, beams), -jnp.inf)

    def unfinished(search: _Beams) -> jax.Array:
        # Scores can only fall, so the greatest length gives an upper bound of penalised ones.
        longest = jnp.where(penalty > 0, most, search.made + 1).astype(jnp.float32)
        hope = search.scores.max(axis=1) / longest**penalty
        return (search.made < most) & (hope > search.ended_scores.min(axis=1)).any()

    def step(search: _Beams) -> _Beams:
        # T5's spare ids count in the softmax and are never chosen.
        nats = jax.nn.log_softmax(search.logits)[:, :OUTPUT_SIZE].reshape(rows, beams, OUTPUT_SIZE)
        totals = search.scores[:, :, None] + nats  # [B, W, V]
        # Twice the beams: at most one extension of each candidate ends, so enough are left.
        scores, chosen = jax.lax.top_k(totals.reshape(rows, -1), min(2 * beams, totals[0].size))
        parents, symbols = chosen // OUTPUT_SIZE, chosen % OUTPUT_SIZE  # [B, 2 W]
        texts = jnp.take_along_axis(search.symbols, parents[:, :, None], axis=1)  # [B, 2 W, N]
        texts = texts.at[:, :, search.made].set(symbols)

        length = (search.made + 1).astype(jnp.float32)
        ends = jnp.where(symbols == END, scores / length**penalty, -jnp.inf)
        all_ended = jnp.concatenate([search.ended, texts], axis=1)
        ended_scores, best = jax.lax.top_k(
            jnp.concatenate([search.ended_scores, ends], axis=1), beams
        )
        ended = jnp.take_along_axis(all_ended, best[:, :, None], axis=1)

        scores, going = jax.lax.top_k(jnp.where(symbols == END, -jnp.inf, scores), beams)
        texts = jnp.take_along_axis(texts, going[:, :, None], axis=1)
        parents = jnp.take_along_axis(parents, going, axis=1)
        symbols = jnp.take_along_axis(symbols, going, axis=1).reshape(-1, 1)
        row = (jnp.arange(rows)[:, None] * beams + parents).reshape(-1)
        state = take(search.state, row, fixed=False)  # the candidates of an input share these
        logits, state = model.extend(symbols, state, jnp.ones(len(row), jnp.int32))
        return _Beams(search.made + 1, texts, scores, ended, ended_scores, logits[:, 0], state)

    first = _Beams(jnp.int32(0), empty, none.at[:, 0].set(0.0), empty, none, logits, state)
    last = jax.lax.while_loop(unfinished, step, first)
    unended = jnp.where(last.made == most, last.scores / float(most) ** penalty, -jnp.inf)
    scores = jnp.concatenate([last.ended_scores, unended], axis=1)
    texts = jnp.concatenate([last.ended, last.symbols], axis=1)
    return texts[jnp.arange(rows), scores.argmax(axis=1)]
