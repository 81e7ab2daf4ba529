"""A training step: its state, its loss with the sums for figures, and the pure functions of both.

The state crosses the jit boundary as plain arrays; the model is merged inside the trace, since
walking its graph in Python at every call would cost more than a small model's step.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bytelm.core.statistics import (
    BITS_PER_TARGET_BYTE,
    BITS_PER_TARGET_BYTE_WITH_END,
    BPB,
    BPB_WITH_END,
    Ratio,
    Statistic,
)
from bytelm.core.vocabulary import PAD, Vocabulary
from bytelm.models import Batch, LanguageModel, ModelConfig, ModelOutput
from bytelm.models.contract import DELETED
from bytelm.models.encoder_decoder import ControllerState, EncoderDecoderConfig, RatioController
from bytelm.nn.roles import parameter_roles, trained, with_trained
from bytelm.patching.marks import BPB_AT_LAG, PatchMarks, find_lags
from bytelm.patching.patches import (
    BYTES_PER_PATCH,
    LENGTHS,
    PATCH_LENGTH,
    SYMBOLS_PER_PATCH,
    count_lengths,
    sum_by_length,
)
from bytelm.training.auxiliary import Whole, batch_losses, part_of_losses
from bytelm.training.touched import Touched, on_rows, put_rows, take_rows, touched_rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The state of training, as plain arrays.

    Attributes:
        step: steps done, int32.
        params: nested dict of float32 arrays.
        optimizer: the optimiser's state, of the parameters that are not frozen.
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Sums over the scored symbols of some batches.

    Attributes:
        nats: of all symbols, including END.
        bytes: of text.
        symbols: bytes or tokens, including END.
        inputs: symbols that the encoder read; None without one.
        patches: as in `ModelConfig.forward_flops`: patches that started, or inputs that the
            encoder did not delete; None in a flat model.
        statistics: ratios; the first one is `measure`.
    """

    nats: Any
    bytes: Any
    symbols: Any
    inputs: Any
    patches: Any
    statistics: tuple[Ratio, ...]

    @property
    def measure(self) -> Ratio:
        """Bits per byte of the text, or with an encoder of the targets."""
        return self.statistics[0]

    @property
    def read(self) -> Any:
        """Bytes of text, or with an encoder its inputs."""
        return self.bytes if self.inputs is None else self.inputs

    def ratio(self, statistic: Statistic) -> Ratio:
        """The ratio of a statistic."""
        return next(ratio for ratio in self.statistics if ratio.statistic is statistic)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepMetrics:
    """The metrics of a training step.

    Attributes:
        gradient_norm: before clipping.
        skipped: steps so far whose loss or gradient was not finite.
        skipped_in_row: how many of the last steps were skipped.
        weights: of auxiliary losses that a controller sets, by name.
    """

    sums: Sums
    gradient_norm: Any
    skipped: Any
    skipped_in_row: Any
    weights: dict[str, Any]


@dataclass(frozen=True)
class StepSetup:
    """The static parts of a step.

    Attributes:
        graphdef: the model without its parameters; `nnx.merge(graphdef, params)` is the model.
        vocabulary: of the model's symbols.
        controllers: of the weights of auxiliary losses, by the names of the losses.
        accumulation: micro-batches in a batch, run one after another.
        scripts: names, by the numbers in the batches.
        lazy_tables: whether a step changes only the rows of tables of n-grams that its batch reads.
    """

    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    vocabulary: Vocabulary
    controllers: Mapping[str, RatioController]
    accumulation: int = 1
    scripts: tuple[str, ...] = ()
    lazy_tables: bool = True


def controllers_of(model: ModelConfig) -> Mapping[str, RatioController]:
    """The controllers of a model's auxiliary losses, by the names of the losses."""
    return model.controllers if isinstance(model, EncoderDecoderConfig) else {}


def init_state(
    model: ModelConfig, optimizer: optax.GradientTransformation, seed: jax.Array
) -> TrainState:
    """The state before the first step: fresh parameters from an int32 seed."""
    key = jax.random.key(seed)
    parameters = nnx.state(model.build(nnx.Rngs(params=key)))
    params = nnx.to_pure_dict(parameters)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.init(trained(params, parameter_roles(parameters))),
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
    touched = touched_rows(_model(setup, state.params), batch) if setup.lazy_tables else {}
    whole, state = state, _take_rows(state, touched)
    controllers = setup.controllers
    weights = {name: each.weight(state.controllers[name]) for name, each in controllers.items()}
    params = _trained(setup, state.params)
    grads, sums = _batch_gradients(setup, state.params, batch, weights, touched)
    grads = jax.tree.map(lambda g: g / sums.symbols, grads)
    norm = optax.tree.norm(grads)
    peak = {} if learning_rate is None else {"learning_rate": learning_rate}
    update = optax.with_extra_args_support(setup.optimizer).update
    updates, optimizer = update(grads, state.optimizer, params, **peak)
    advanced = dataclasses.replace(
        state,
        params=with_trained(state.params, optax.apply_updates(params, updates)),
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
    new_state = dataclasses.replace(
        new_state,
        params=put_rows(whole.params, new_state.params, touched),
        optimizer=put_rows(whole.optimizer, new_state.optimizer, touched),
    )
    return new_state, StepMetrics(sums, norm, new_state.skipped, new_state.skipped_in_row, weights)


def _model(setup: StepSetup, params: Any) -> LanguageModel:
    model: LanguageModel = nnx.merge(setup.graphdef, params)
    return model


def _take_rows(state: TrainState, touched: Touched) -> TrainState:
    """The state with only these rows of the tables."""
    params, optimizer = take_rows(state.params, touched), take_rows(state.optimizer, touched)
    return dataclasses.replace(state, params=params, optimizer=optimizer)


def eval_step(setup: StepSetup, params: Any, batch: Batch) -> Sums:
    """The sums over a batch, without random numbers in the model."""
    return score(params, batch, setup)[1]


def _trained(setup: StepSetup, params: Any) -> Any:
    """The parameters that are not frozen."""
    return trained(params, parameter_roles(nnx.state(nnx.merge(setup.graphdef, params))))


def _batch_gradients(
    setup: StepSetup,
    params: Any,
    batch: Batch,
    weights: dict[str, jax.Array],
    touched: Touched,
) -> tuple[Any, Sums]:
    """Gradients of the loss summed over the batch, and the batch's sums."""

    def loss(part: Any, batch: Batch, whole: Whole | None = None) -> tuple[jax.Array, Sums]:
        return score(with_trained(params, part), batch, setup, weights, touched, whole)

    gradients = partial(jax.grad(loss, has_aux=True), _trained(setup, params))
    if setup.accumulation == 1:
        return gradients(batch)
    micro_batches = jax.tree.map(lambda rows: _divided(rows, setup.accumulation), batch)
    # A forward pass in advance, of which only what these sums depend on is computed.
    losses = _summed(
        lambda part: batch_losses(on_rows(_model(setup, params), touched)(part)), micro_batches
    )
    whole = Whole.of(batch, losses)
    return _summed(partial(gradients, whole=whole), micro_batches)


def _summed(function: Callable[[Batch], Any], micro_batches: Batch) -> Any:
    """The sum of a function of each micro-batch, run one after another."""
    first = jax.tree.map(lambda rows: rows[0], micro_batches)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, first))
    if not jax.tree.leaves(zeros):
        return zeros

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(add, zeros, micro_batches)[0]


def _row_keys(state: TrainState, rows: int) -> jax.Array:
    """Random key data for each row of the step's batch, uint32 `[rows, 2]`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    return jax.random.bits(key, (rows, 2), jnp.uint32)


def _divided(rows: jax.Array, count: int) -> jax.Array:
    """[B, N] -> [count, B / count, N], taking every count-th row so that no row changes device."""
    return rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]).swapaxes(0, 1)


def score(
    params: Any,
    batch: Batch,
    setup: StepSetup,
    weights: Mapping[str, jax.Array] | None = None,
    touched: Touched | None = None,
    whole: Whole | None = None,
) -> tuple[jax.Array, Sums]:
    """The training loss summed over a batch's scored symbols, and the sums for its figures.

    Args:
        weights: of auxiliary losses in the training loss, by name; 1 for others.
        touched: the rows that tables in `params` hold; None for all.
        whole: the batch of a micro-batch.
    """
    output = on_rows(_model(setup, params), touched or {})(batch)
    nats = output.nats(batch.targets)  # [B, T]
    is_text = (batch.targets >= 0) & (batch.targets < setup.vocabulary.end)  # [B, T]
    bytes_of = is_text.astype(jnp.int32) if batch.byte_counts is None else batch.byte_counts
    text_nats = jnp.where(is_text, nats, 0.0)  # [B, T]
    total, size = nats.sum(), bytes_of.sum()
    own = Whole.of(batch, batch_losses(output))
    symbols, inputs = own.symbols, own.inputs
    auxiliary, of_losses = part_of_losses(output.auxiliary_losses, weights or {}, own, whole or own)
    if inputs is None:
        bits = (BPB(text_nats.sum(), size), BPB_WITH_END(total, size))
        patches = None if output.patch_starts is None else output.patch_starts.sum()
    else:
        bits = (
            BITS_PER_TARGET_BYTE(text_nats.sum(), size),
            BITS_PER_TARGET_BYTE_WITH_END(total, symbols),
        )
        patches = inputs if output.deleted is None else inputs - output.deleted.sum()
    sums = Sums(
        nats=total,
        bytes=size,
        symbols=symbols,
        inputs=inputs,
        patches=patches,
        statistics=(
            *bits,
            *_of_levels(output.levels, batch, text_nats, bytes_of, setup.scripts),
            *_of_deletions(output, batch, setup.scripts),
            *output.statistics,
            *of_losses,
        ),
    )
    return total + auxiliary, sums


def _of_levels(
    levels: tuple[PatchMarks, ...],
    batch: Batch,
    text_nats: jax.Array,
    bytes_of: jax.Array,
    scripts: tuple[str, ...],
) -> list[Ratio]:
    """Of each level: sizes of patches, in all and by script; lengths; bits at each lag."""
    found: list[Ratio] = []
    for level, marks in enumerate(levels, start=1):
        lengths = count_lengths(marks.starts, batch.document_ids)
        lags = find_lags(marks.boundaries, batch.document_ids)  # [B, T]
        at_lag = (sum_by_length(values, lags) for values in (text_nats, bytes_of))
        size = BYTES_PER_PATCH.at(level)
        in_all, *by_script = _ratios(size, bytes_of, marks.starts, batch.scripts, scripts)
        found += [
            in_all,
            PATCH_LENGTH.at(level)(lengths, lengths.sum(), parts=LENGTHS),
            *by_script,
            BPB_AT_LAG.at(level)(*at_lag, parts=LENGTHS),
        ]
        if level > 1:
            symbols = levels[level - 2].starts.sum()
            found.append(SYMBOLS_PER_PATCH.at(level)(symbols, marks.starts.sum()))
    return found


def _of_deletions(output: ModelOutput, batch: Batch, scripts: tuple[str, ...]) -> list[Ratio]:
    """The deleted share of an encoder's inputs, in all and by script."""
    if output.deleted is None:
        return []
    inputs = batch.inputs != PAD  # [B, S]
    script_of_row = batch.scripts[:, :1] if scripts else None  # [B, 1]
    return _ratios(DELETED, output.deleted, inputs, script_of_row, scripts)


def _ratios(
    statistic: Statistic,
    total: jax.Array,
    count: jax.Array,
    numbers: Any,
    scripts: tuple[str, ...],
) -> list[Ratio]:
    """The ratio of `total` to `count`, both `[B, T]`: in all and, if there are scripts, by script.

    Args:
        numbers: of the scripts, int `[B, T]` or `[B, 1]`; None without scripts.
    """
    found = [statistic(total.sum(), count.sum())]
    if scripts:
        of_script = numbers[:, :, None] == jnp.arange(len(scripts))[None, None]  # [B, T, N]
        sums = ((of_script * x[:, :, None]).sum(axis=(0, 1)) for x in (total, count))
        found.append(statistic(*sums, parts=scripts))
    return found
