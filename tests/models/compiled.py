"""The functions of a model, each compiled once for all tests; its parameters, and rows for it.

All functions take rows `[ROWS, LENGTH]`, so that one compilation serves every law.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import OUTPUT_SIZE, PAD, START, UNSCORED
from bytelm.models import Batch, ModelConfig
from bytelm.models.contract import ModelOutput
from bytelm.models.hierarchy import HierarchyConfig
from bytelm.models.parameters import abstract_model, roles_of
from bytelm.nn.linear import Embedding
from bytelm.nn.roles import Role
from bytelm.training.program import TrainProgram
from bytelm.training.step import TrainState

LENGTH = 16
ROWS = 16
TOLERANCE = 2e-5
"""Rounding of float32 through a few layers of logits of order 1, summed in another order."""


def with_slots(config: ModelConfig) -> ModelConfig:
    """The config with a slot for every symbol, so that no row overflows."""
    if not isinstance(config, HierarchyConfig):
        return config
    slots = {
        field.name: (1.0,) * len(value) if isinstance(value, tuple) else 1.0
        for field in dataclasses.fields(config)
        if field.name.endswith("_per_slot")
        for value in [getattr(config, field.name)]
    }
    return dataclasses.replace(config, **slots)


@functools.cache
def split_model(config: ModelConfig) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model's graph, and parameters that are all random: none is zero, as a fresh head is."""
    graphdef, state = abstract_model(config)
    rng = np.random.default_rng(0)

    def noise(leaf: jax.ShapeDtypeStruct, role: Role) -> jax.Array:
        mean = 1.0 if role == "norm" else 0.0
        deviation = 1.0 if role in ("embedding", "frozen") else 0.2
        return jax.device_put(rng.normal(mean, deviation, leaf.shape).astype(leaf.dtype))

    return graphdef, jax.tree.map(noise, nnx.to_pure_dict(state), roles_of(config))


@functools.cache
def forward(config: ModelConfig) -> Callable[[Any, Batch], ModelOutput]:
    """(params, batch) -> the model's output, whose head is its logits."""
    graphdef, _ = split_model(config)

    @jax.jit
    def run(params: Any, batch: Batch) -> ModelOutput:
        output = nnx.merge(graphdef, params)(batch)
        return dataclasses.replace(output, head=output.logits)

    return run


@functools.cache
def backward(config: ModelConfig) -> Callable[..., tuple[ModelOutput, jax.Array, Any, jax.Array]]:
    """(params, batch, weights) -> output, nats, and the gradients of the sum of weights x nats.

    The output's head is its logits, as in `forward`. The gradients are those with respect to the
    parameters, and, `[ROWS, LENGTH]`, to a nudge that is added to the embedding of each position.
    """
    graphdef, _ = split_model(config)
    embed = Embedding.__call__

    def weighted(params: Any, nudge: jax.Array, batch: Batch, weights: jax.Array):
        def nudged(self: Embedding, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
            x = embed(self, ids, dtype)
            return x + nudge[..., None] * jnp.cos(jnp.arange(x.shape[-1]))[None, None, :]

        with mock.patch.object(Embedding, "__call__", nudged):
            output = nnx.merge(graphdef, params)(batch)
            nats = output.nats(batch.targets)
        output = dataclasses.replace(output, head=output.logits)
        return (weights * nats).sum(), (output, nats)

    @jax.jit
    def run(params: Any, batch: Batch, weights: jax.Array):
        gradient = jax.grad(weighted, argnums=(0, 1), has_aux=True)
        of_both, (output, nats) = gradient(params, jnp.zeros_like(weights), batch, weights)
        return output, nats, *of_both

    return run


@functools.cache
def for_decoding(config: ModelConfig) -> tuple[nnx.GraphDef, Any]:
    """As `split_model`, in the form for decoding; made by one program."""
    graphdef, params = split_model(config)
    graphs = []

    @jax.jit
    def rearranged(params: Any) -> Any:
        graph, rearranged = nnx.split(nnx.merge(graphdef, params).for_decoding())
        graphs.append(graph)
        return rearranged

    params = rearranged(params)
    return graphs[0], params


@functools.cache
def decoder(config: ModelConfig) -> tuple[Any, Callable]:
    """Parameters in the form for decoding, and (params, ids, state, lengths) -> logits, state."""
    graphdef, params = for_decoding(config)
    return params, jax.jit(
        lambda params, ids, state, lengths: nnx.merge(graphdef, params).extend(ids, state, lengths)
    )


@functools.cache
def verifier(config: ModelConfig) -> Callable:
    """(ids, state, lengths, kept) -> logits, and the state after the first `kept` symbols."""
    graphdef, params = for_decoding(config)

    @jax.jit
    def run(params: Any, ids: jax.Array, state: Any, lengths: jax.Array, kept: jax.Array):
        model = nnx.merge(graphdef, params)
        logits, verified = model.verify(ids, state, lengths)
        return logits, model.keep(verified, kept)

    return functools.partial(run, params)


@functools.cache
def empty_state(config: ModelConfig, length: int = LENGTH, shortest: int = LENGTH) -> Any:
    """For `ROWS` rows of symbols; made by one program, which compiles faster than many.

    They first have the slots of whole rows of `shortest` symbols. Those of `LENGTH` then overflow
    in decoding as in scoring.
    """
    graphdef, params = split_model(config)
    with mock.patch("bytelm.patching.budget.SHORTEST", shortest):
        return jax.jit(lambda params: nnx.merge(graphdef, params).init_state(ROWS, length))(params)


def first_state(program: TrainProgram, params: Any) -> TrainState:
    """The state of training before the first step: nothing is compiled, as `program.init` is."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.abstract_state)
    state = dataclasses.replace(zeros, params=jax.tree.map(np.array, params))
    return jax.device_put(state, program.shardings)


def random_rows(seed: int, rows: int = ROWS, length: int = LENGTH) -> Batch:
    """One document in each row, from its START on, with every position scored."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, OUTPUT_SIZE, (rows, length + 1), dtype=np.int32)
    symbols[:, 0] = START
    return Batch(symbols[:, :-1], symbols[:, 1:], np.ones((rows, length), np.int32))


def padded(*documents: np.ndarray, rows: int = ROWS, length: int = LENGTH) -> Batch:
    """Each document (symbols) in a row of its own, then rows of nothing but padding."""
    ids = np.full((rows, length), PAD, np.int32)
    targets, document_ids = np.full_like(ids, UNSCORED), np.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
        targets[row, : len(document) - 1] = document[1:]
        document_ids[row, : len(document)] = 1
    return Batch(ids, targets, document_ids)
