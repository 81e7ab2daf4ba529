"""The training state and the jitted functions that change it.

The state crosses the jit boundary as a nested dict of plain arrays and is donated; the model is
merged inside the trace (walking its graph in Python at every call would cost more than a small
model's step).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.core.vocabulary import PAD, UNSCORED
from bytelm.core.xla import training_options
from bytelm.models import Batch, ModelConfig
from bytelm.models.contract import DELETED
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.nn.mesh import like_parameters, parameter_shardings
from bytelm.training.score import StepMetrics, Sums, score

State = dict[str, Any]
"""step (int32), params, optimizer, rng (key data), skipped and skipped_in_row (int32), and
controllers by the names of the losses whose weights they set."""


@dataclass(frozen=True)
class TrainProgram:
    """The functions of one training run, for one model, optimiser and mesh.

    Attributes:
        graphdef: the model without its parameters; `nnx.merge(graphdef, params)` is the model.
        shardings: of the state, in the state's own structure.
        init: seed -> state.
        step: (state, batch, learning rate) -> (state, `StepMetrics`); the state is donated.
        learning_rate: the peak that `train` gives to `step`; None for the optimiser's own.
        evaluate: (params, batch) -> sums over the batch, as `score` gives them.
    """

    graphdef: nnx.GraphDef
    abstract_state: State
    shardings: State
    init: Callable[[int], State]
    step: Any
    evaluate: Callable[[Any, Batch], Sums]
    learning_rate: np.float32 | None = None

    def train(self, state: State, batch: Batch) -> tuple[State, StepMetrics]:
        """One step: the new state, and the metrics; the old state is donated."""
        return self.step(state, batch, self.learning_rate)

    def lower_train(self, state: State, batch: Batch) -> Any:
        """`train` as a `jax.stages.Lowered`; arrays may be abstract."""
        return self.step.lower(state, batch, self.learning_rate)


def train_program(
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    accumulation: int = 1,
    scripts: tuple[str, ...] = (),
) -> TrainProgram:
    """Puts model, optimiser and mesh together. Traces nothing yet.

    Args:
        accumulation: into how many pieces, run one after another, a batch is cut; the result is
            that of the whole batch.
        scripts: names of the scripts whose numbers the batches carry.
    """
    abstract_model = nnx.eval_shape(lambda: model.build(nnx.Rngs(0)))
    graphdef, abstract_params = nnx.split(abstract_model)
    param_shardings = parameter_shardings(abstract_params, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    compiler_options = training_options(model.dtype) if on_cpu else None
    vocabulary = model.symbols
    controllers = model.controllers if isinstance(model, EncoderDecoderConfig) else {}

    def init(seed: jax.Array) -> State:
        key = jax.random.key(seed)
        params = nnx.to_pure_dict(nnx.state(model.build(nnx.Rngs(params=key))))
        return {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "optimizer": optimizer.init(params),
            "rng": jax.random.key_data(jax.random.fold_in(key, 1)),
            "skipped": jnp.zeros((), jnp.int32),
            "skipped_in_row": jnp.zeros((), jnp.int32),
            "controllers": {name: each.init() for name, each in controllers.items()},
        }

    abstract_state = jax.eval_shape(init, 0)
    shardings = jax.tree.map(lambda _: replicated, abstract_state)
    shardings["params"] = param_shardings
    shardings["optimizer"] = like_parameters(
        abstract_state["optimizer"], param_shardings, replicated
    )

    def gradients(
        params: Any,
        batch: Batch,
        weights: dict[str, jax.Array],
        symbols_per_input: jax.Array | None,
    ) -> tuple[Any, Sums]:
        def loss(params: Any) -> tuple[jax.Array, Sums]:
            model = nnx.merge(graphdef, params)
            return score(model, batch, scripts, weights, symbols_per_input, vocabulary)

        return jax.grad(loss, has_aux=True)(params)

    update = optax.with_extra_args_support(optimizer).update

    def step(
        state: State, batch: Batch, learning_rate: jax.Array | None
    ) -> tuple[State, StepMetrics]:
        params = state["params"]
        batch = dataclasses.replace(batch, keys=_row_keys(state, len(batch.ids)))
        steering = state["controllers"]
        weights = {name: each.weight(steering[name]) for name, each in controllers.items()}
        per_input = None
        if batch.inputs is not None:
            scored, inputs = (batch.targets != UNSCORED).sum(), (batch.inputs != PAD).sum()
            per_input = scored / jnp.maximum(inputs, 1)
        gradients_of = partial(gradients, params, weights=weights, symbols_per_input=per_input)
        if accumulation == 1:
            grads, sums = gradients_of(batch)
        else:
            pieces = jax.tree.map(lambda x: _pieces(x, accumulation), batch)
            zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradients_of, batch))
            (grads, sums), _ = jax.lax.scan(
                lambda total, piece: (jax.tree.map(jnp.add, total, gradients_of(piece)), None),
                zeros,
                pieces,
            )
        grads = jax.tree.map(lambda g: g / sums.symbols, grads)
        norm = optax.tree.norm(grads)
        peak = {} if learning_rate is None else {"learning_rate": learning_rate}
        updates, optimizer_state = update(grads, state["optimizer"], params, **peak)
        advanced = {
            "params": optax.apply_updates(params, updates),
            "optimizer": optimizer_state,
            "controllers": {
                name: each.update(steering[name], sums.ratio(DELETED))
                for name, each in controllers.items()
            },
        }
        finite = jnp.isfinite(sums.nats) & jnp.isfinite(norm)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            advanced,
            {name: state[name] for name in advanced},
        )
        bad = 1 - finite.astype(jnp.int32)
        new_state = {
            **kept,
            "step": state["step"] + 1,
            "rng": state["rng"],
            "skipped": state["skipped"] + bad,
            "skipped_in_row": (state["skipped_in_row"] + 1) * bad,
        }
        metrics = StepMetrics(
            sums, norm, new_state["skipped"], new_state["skipped_in_row"], weights
        )
        return new_state, metrics

    def evaluate(params: Any, batch: Batch) -> Sums:
        return score(nnx.merge(graphdef, params), batch, scripts, vocabulary=vocabulary)[1]

    return TrainProgram(
        graphdef=graphdef,
        abstract_state=abstract_state,
        shardings=shardings,
        init=jax.jit(init, out_shardings=shardings),
        step=jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(shardings, replicated),
            compiler_options=compiler_options,
        ),
        evaluate=jax.jit(evaluate, out_shardings=replicated, compiler_options=compiler_options),
    )


def _row_keys(state: State, rows: int) -> jax.Array:
    """Random key data for each row of the step's batch, uint32 `[rows, 2]`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state["rng"]), state["step"])
    return jax.random.bits(key, (rows, 2), jnp.uint32)


def _pieces(rows: jax.Array, count: int) -> jax.Array:
    """[B, N] -> [count, B / count, N], taking every count-th row so that no row changes device."""
    return rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]).swapaxes(0, 1)
