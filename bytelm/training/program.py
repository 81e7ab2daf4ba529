"""The compiled program of a run, for one model, optimiser and mesh."""

import dataclasses
import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.core.errors import UserError
from bytelm.core.xla import training_options
from bytelm.models import Batch, ModelConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.parameters import abstract_model, roles_of
from bytelm.nn.mesh import (
    SEQUENCE_AXIS,
    check_batch,
    check_positions,
    like_parameters,
    parameter_shardings,
)
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.optimizer import OptimizerConfig
from bytelm.training.step import (
    StepMetrics,
    StepSetup,
    Sums,
    TrainState,
    controllers_of,
    eval_step,
    init_state,
    train_step,
)


@dataclass(frozen=True)
class TrainProgram:
    """The functions of `bytelm.training.step`, compiled for a run.

    Attributes:
        graphdef: the model without its parameters; `nnx.merge(graphdef, params)` is the model.
        abstract_state: shapes and dtypes of the state.
        shardings: of the state.
        init: seed -> state.
        step: (state, batch, learning rate) -> (state, metrics); the state is donated.
        evaluate: (params, batch) -> sums.
        learning_rate: the peak for `step`; None for the optimiser's own.
    """

    graphdef: nnx.GraphDef
    abstract_state: TrainState
    shardings: TrainState
    init: Callable[[int], TrainState]
    step: Any
    evaluate: Callable[[Any, Batch], Sums]
    learning_rate: np.float32 | None = None

    def train(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        """One step: the new state, and the metrics; the old state is donated."""
        return self.step(state, batch, self.learning_rate)

    def lower_train(self, state: TrainState, batch: Batch) -> Any:
        """`train` as a `jax.stages.Lowered`; arrays may be abstract."""
        return self.step.lower(state, batch, self.learning_rate)


def train_program(
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    accumulation: int = 1,
    scripts: tuple[str, ...] = (),
    *,
    lazy_tables: bool = True,
) -> TrainProgram:
    """The program of a model, an optimiser and a mesh, which is compiled when it is called.

    Args:
        accumulation: micro-batches in a batch; the result is that of the whole batch.
        scripts: names, by the numbers in the batches.
        lazy_tables: as the option of optimisers.
    """
    graphdef, abstract_params = abstract_model(model)
    controllers = controllers_of(model)
    setup = StepSetup(
        graphdef, optimizer, model.symbols, controllers, accumulation, scripts, lazy_tables
    )
    init = functools.partial(init_state, model, optimizer)
    abstract_state = jax.eval_shape(init, 0)
    replicated = NamedSharding(mesh, PartitionSpec())
    shardings = state_shardings(abstract_state, abstract_params, mesh)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    compiler_options = training_options(model.dtype) if on_cpu else None
    return TrainProgram(
        graphdef=graphdef,
        abstract_state=abstract_state,
        shardings=shardings,
        init=jax.jit(init, out_shardings=shardings),
        step=jax.jit(
            functools.partial(train_step, setup),
            donate_argnums=0,
            out_shardings=(shardings, replicated),
            compiler_options=compiler_options,
        ),
        evaluate=jax.jit(
            functools.partial(eval_step, setup),
            out_shardings=replicated,
            compiler_options=compiler_options,
        ),
    )


def state_shardings(state: TrainState, parameters: nnx.State, mesh: Mesh) -> TrainState:
    """The shardings of a state of these shapes, whose parameters are given with their metadata."""
    replicated = NamedSharding(mesh, PartitionSpec())
    params = parameter_shardings(parameters, mesh)
    return dataclasses.replace(
        jax.tree.map(lambda _: replicated, state),
        params=params,
        optimizer=like_parameters(state.optimizer, state.params, params, replicated),
    )


def abstract_state(config: ExperimentConfig) -> TrainState:
    """Shapes and dtypes of the training state of a config."""
    optimizer = config.optimizer.build(config.train.steps, roles_of(config.model))
    state: TrainState = jax.eval_shape(functools.partial(init_state, config.model, optimizer), 0)
    return state


def build_program(config: ExperimentConfig, mesh: Mesh) -> TrainProgram:
    """The training program of a config; UserError if its mesh cannot divide its batches.

    The last one is kept, so that the next run may share it (`shares_program`).
    """
    check_batch(config.data.batch_size, mesh, config.train.accumulation)
    check_rows(config, mesh)
    peak = np.float32(config.optimizer.learning_rate)
    return dataclasses.replace(_program(*_parts(config), mesh), learning_rate=peak)


def check_rows(config: ExperimentConfig, mesh: Mesh) -> None:
    """Raises UserError unless the mesh can divide the positions of a config's rows."""
    if mesh.shape[SEQUENCE_AXIS] > 1 and isinstance(config.model, EncoderDecoderConfig):
        raise UserError(
            f"mesh.sequence is {mesh.shape[SEQUENCE_AXIS]}, and the rows of {config.model.family}, "
            "which has an encoder, cannot be divided; leave it out, or use mesh.fsdp."
        )
    check_positions(config.data.row_length, mesh)


def shares_program(one: ExperimentConfig, other: ExperimentConfig) -> bool:
    """Whether two runs share a compiled step; seed, text and peak learning rate may differ."""

    def key(config: ExperimentConfig) -> tuple[Any, ...]:
        data = config.data
        shape = data.batch_size, data.sequence_length, data.row_length
        return config.mesh, shape, _parts(config)

    return key(one) == key(other)


def forget_programs() -> None:
    """Frees all compiled programs and their memory."""
    _program.cache_clear()
    gc.collect()
    jax.clear_caches()


def _parts(config: ExperimentConfig) -> tuple[Any, ...]:
    """The arguments of `_program` before the mesh; the learning rate is an argument of the step."""
    optimizer = dataclasses.replace(config.optimizer, learning_rate=1.0)
    train = config.train
    return config.model, optimizer, train.steps, train.accumulation, tuple(config.data.scripts)


@functools.lru_cache(maxsize=1)
def _program(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    steps: int,
    accumulation: int,
    scripts: tuple[str, ...],
    mesh: Mesh,
) -> TrainProgram:
    transformation = optimizer.build(steps, roles_of(model))
    lazy = optimizer.lazy_tables
    return train_program(model, transformation, mesh, accumulation, scripts, lazy_tables=lazy)
