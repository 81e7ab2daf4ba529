"""A training step: the state, and the pure functions that make it and change it.

The state crosses the jit boundary as plain arrays; the model is merged inside the trace, since
walking its graph in Python at every call would cost more than a small model's step.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bytelm.core.vocabulary import PAD, UNSCORED, Vocabulary
from bytelm.models import Batch, ModelConfig
from bytelm.models.contract import DELETED
from bytelm.models.encoder_decoder import ControllerState, EncoderDecoderConfig, RatioController
from bytelm.training.score import StepMetrics, Sums, score


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The state of training, as plain arrays.

    Attributes:
        step: steps done, int32.
        params: nested dict of float32 arrays.
        optimizer: the optimiser's state.
        rng: key data for the random numbers of all steps.
        skipped: steps whose loss or gradient was not finite, int32.
        skipped_in_row: how many of the last steps were skipped, int32.
        controllers: of the weights of auxiliary losses, by the names of the losses.
    """

    step: Any
    params: Any
    optimizer: Any
    rng: Any
    skipped: Any
    skipped_in_row: Any
    controllers: dict[str, ControllerState]


@dataclass(frozen=True)
class StepSetup:
    """The static parts of a step.

    Attributes:
        graphdef: the model without its parameters; `nnx.merge(graphdef, params)` is the model.
        vocabulary: of the model's symbols.
        controllers: of the weights of auxiliary losses, by the names of the losses.
        accumulation: micro-batches in a batch, run one after another.
        scripts: names, by the numbers in the batches.
    """

    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    vocabulary: Vocabulary
    controllers: Mapping[str, RatioController]
    accumulation: int = 1
    scripts: tuple[str, ...] = ()


def controllers_of(model: ModelConfig) -> Mapping[str, RatioController]:
    """The controllers of a model's auxiliary losses, by the names of the losses."""
    return model.controllers if isinstance(model, EncoderDecoderConfig) else {}


def init_state(
    model: ModelConfig, optimizer: optax.GradientTransformation, seed: jax.Array
) -> TrainState:
    """The state before the first step: fresh parameters from an int32 seed."""
    key = jax.random.key(seed)
    params = nnx.to_pure_dict(nnx.state(model.build(nnx.Rngs(params=key))))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.init(params),
        rng=jax.random.key_data(jax.random.fold_in(key, 1)),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
        controllers={name: each.init() for name, each in controllers_of(model).items()},
    )


def train_step(
    setup: StepSetup, state: TrainState, batch: Batch, learning_rate: jax.Array | None = None
) -> tuple[TrainState, StepMetrics]:
    """One optimiser step on a batch; one that is not finite changes only the counters.

    Args:
        learning_rate: the peak of the schedule, float32; None for the optimiser's own.
    """
    batch = dataclasses.replace(batch, keys=_row_keys(state, len(batch.ids)))
    controllers = setup.controllers
    weights = {name: each.weight(state.controllers[name]) for name, each in controllers.items()}
    grads, sums = _batch_gradients(setup, state.params, batch, weights)
    grads = jax.tree.map(lambda g: g / sums.symbols, grads)
    norm = optax.tree.norm(grads)
    peak = {} if learning_rate is None else {"learning_rate": learning_rate}
    update = optax.with_extra_args_support(setup.optimizer).update
    updates, optimizer = update(grads, state.optimizer, state.params, **peak)
    advanced = dataclasses.replace(
        state,
        params=optax.apply_updates(state.params, updates),
        optimizer=optimizer,
        controllers={
            name: each.update(state.controllers[name], sums.ratio(DELETED))
            for name, each in controllers.items()
        },
    )
    is_finite = jnp.isfinite(sums.nats) & jnp.isfinite(norm)
    kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), advanced, state)
    is_skipped = 1 - is_finite.astype(jnp.int32)
    new_state = dataclasses.replace(
        kept,
        step=state.step + 1,
        rng=state.rng,
        skipped=state.skipped + is_skipped,
        skipped_in_row=(state.skipped_in_row + 1) * is_skipped,
    )
    return new_state, StepMetrics(sums, norm, new_state.skipped, new_state.skipped_in_row, weights)


def eval_step(setup: StepSetup, params: Any, batch: Batch) -> Sums:
    """The sums over a batch, without random numbers in the model."""
    model = nnx.merge(setup.graphdef, params)
    return score(model, batch, setup.scripts, vocabulary=setup.vocabulary)[1]


def _batch_gradients(
    setup: StepSetup, params: Any, batch: Batch, weights: dict[str, jax.Array]
) -> tuple[Any, Sums]:
    """Gradients of the loss summed over the batch, and the batch's sums."""
    gradients = partial(
        jax.grad(_loss, has_aux=True),
        params,
        setup=setup,
        weights=weights,
        symbols_per_input=_symbols_per_input(batch),
    )
    if setup.accumulation == 1:
        return gradients(batch)
    micro_batches = jax.tree.map(lambda rows: _divided(rows, setup.accumulation), batch)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradients, batch))
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, gradients(part)), None),
        zeros,
        micro_batches,
    )
    return total


def _loss(
    params: Any,
    batch: Batch,
    setup: StepSetup,
    weights: dict[str, jax.Array],
    symbols_per_input: jax.Array | None,
) -> tuple[jax.Array, Sums]:
    model = nnx.merge(setup.graphdef, params)
    return score(model, batch, setup.scripts, weights, symbols_per_input, setup.vocabulary)


def _symbols_per_input(batch: Batch) -> jax.Array | None:
    """Scored symbols of a batch for each symbol that an encoder reads; None without one."""
    if batch.inputs is None:
        return None
    scored, inputs = (batch.targets != UNSCORED).sum(), (batch.inputs != PAD).sum()
    return scored / jnp.maximum(inputs, 1)


def _row_keys(state: TrainState, rows: int) -> jax.Array:
    """Random key data for each row of the step's batch, uint32 `[rows, 2]`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    return jax.random.bits(key, (rows, 2), jnp.uint32)


def _divided(rows: jax.Array, count: int) -> jax.Array:
    """[B, N] -> [count, B / count, N], taking every count-th row so that no row changes device."""
    return rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]).swapaxes(0, 1)
