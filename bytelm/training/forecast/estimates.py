"""Estimates that need no compiler: bytes of the state, and of what the forward pass keeps."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bytelm.core.hlo_costs import Exchange
from bytelm.models import ModelConfig
from bytelm.models.parameters import abstract_model, roles_of
from bytelm.nn.mesh import batch_shards
from bytelm.nn.roles import trained
from bytelm.nn.stack import Remat
from bytelm.training.cost import step_flops
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.forecast.activations import Kept
from bytelm.training.forecast.compiled import seconds
from bytelm.training.forecast.topology import Topology
from bytelm.training.program import state_shardings
from bytelm.training.step import TrainState

REMATS: tuple[Remat, ...] = get_args(Remat)
RECOMPUTED = {"none": 0.0, "dots": 0.02, "full": 1 / 3}
"""FLOPs of the forward pass that each remat computes again, in those of the whole step."""
UNHIDDEN = 0.25
"""The share of exchanges that work does not hide, or the other way round, by which choices that are
equal otherwise are ranked."""
MOMENTARY = 6
"""How many arrays as large as the largest of a layer live for a moment, as libtpu's programs show:
those that a layer computes before it keeps them, and their gradients."""
SUMMED = 2.5
"""Gradients of micro-batches, in bytes of trained parameters: of one, their sum and copies."""


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """Bytes of the training state on each device."""

    parameters: float
    optimizer: float
    trained: float
    """Of the parameters that have gradients."""

    @property
    def total(self) -> float:
        return self.parameters + self.optimizer


def state_bytes(model: ModelConfig, state: TrainState, mesh: Mesh) -> StateBytes:
    """The bytes of a state of these shapes on each device of a mesh."""
    shardings = state_shardings(state, abstract_model(model)[1], mesh)

    def total(tree: Any, places: Any) -> float:
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(places), strict=True)
        return sum(math.prod(p.shard_shape(x.shape)) * x.dtype.itemsize for x, p in pairs)

    roles = roles_of(model)
    with_gradient = (trained(tree, roles) for tree in (state.params, shardings.params))
    return StateBytes(
        parameters=total(state.params, shardings.params),
        optimizer=total(state.optimizer, shardings.optimizer),
        trained=total(*with_gradient),
    )


def parts_of(params: Any) -> dict[str, int]:
    """How many parameters each part of a model has, such as its embedding and its stacks."""
    found: dict[str, int] = {}
    for name, part in params.items():
        sizes = {
            f"{name}/{key}" if _is_numbered(part) else name: _size(value)
            for key, value in (part.items() if _is_numbered(part) else [("", part)])
        }
        found |= sizes
    return found


def _is_numbered(part: Any) -> bool:
    return isinstance(part, Mapping) and all(str(key).isdigit() for key in part)


def _size(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def with_remat(model: ModelConfig, remat: str) -> ModelConfig:
    """The model with another `remat`, if it has that option."""
    changed: Any = {"remat": remat} if hasattr(model, "remat") else {}
    return dataclasses.replace(model, **changed)


def rows_at_once(config: ExperimentConfig, mesh: Mesh) -> int:
    """Rows of a micro-batch on each device, or of which it has some of the positions."""
    return max(1, config.data.batch_size // batch_shards(mesh) // config.train.accumulation)


def temporary_bytes(
    kept: Kept, plain: Kept, state: StateBytes, accumulation: int, mesh: Mesh
) -> float:
    """About what a step needs on each device, in addition to its state.

    Args:
        kept: of the rows of a micro-batch.
        plain: the same without `remat`: a layer that is computed again needs as much for a moment,
            and copies of weights are made before the loop over the layers.
    """
    gradients = state.trained * (SUMMED if accumulation > 1 else 1)
    sizes = mesh.shape
    weights = plain.weights / (sizes["fsdp"] * sizes["sequence"] * sizes["tensor"])
    # Half of what is kept are inputs of blocks, which are whole on each device.
    share = (1 + 1 / sizes["tensor"]) / 2 / sizes["sequence"]
    return gradients + weights + share * (kept.activations + MOMENTARY * plain.largest)


def step_flops_computed(config: ExperimentConfig) -> float:
    """FLOPs of a step with those that are computed again."""
    return step_flops(config) * (1 + RECOMPUTED[str(getattr(config.model, "remat", "none"))])


def likely_exchanges(
    config: ExperimentConfig, mesh: Mesh, state: StateBytes, streams: float
) -> list[Exchange]:
    """What devices exchange in a step, as compilers divide it.

    Gradients are summed over the devices in each micro-batch, in the dtype of the products.

    Args:
        streams: bytes of the inputs of all blocks, of whole rows on one device.
    """
    sizes, count = mesh.shape, config.train.accumulation
    ids = np.arange(mesh.size).reshape(tuple(sizes.values()))
    streams /= sizes["sequence"]
    dtype = "bf16" if config.model.dtype == jnp.bfloat16 else "f32"

    def exchange(axes: str, kind: str, dtype: str, size: float, times: int) -> Exchange:
        first = tuple(slice(None) if name in axes.split() else 0 for name in sizes)
        group = tuple(map(int, ids[first].ravel()))
        return Exchange(kind, dtype, size, group, times, times > 1)

    parts = "fsdp sequence"  # which divide the parameters
    own = state.trained / (2 if dtype == "bf16" else 1)
    whole = own * sizes["fsdp"] * sizes["sequence"]
    found = [
        exchange(parts, "all-gather", dtype, whole, 2 * count),
        exchange(parts, "reduce-scatter", dtype, whole, count),
        exchange("data", "all-reduce", dtype, own, count),
        exchange("tensor", "all-reduce", dtype, streams, 4 * count),
        exchange("sequence", "all-to-all", dtype, streams, 8 * count),
    ]
    return [each for each in found if len(each.group) > 1]


def step_seconds(
    config: ExperimentConfig, topology: Topology, mesh: Mesh, state: StateBytes, streams: float
) -> float:
    """About the time of a step, by which choices are ranked before they are compiled."""
    peak = topology.peak_flops(config.model.dtype)
    arithmetic = step_flops_computed(config) / mesh.size / peak
    exchanges = likely_exchanges(config, mesh, state, streams)
    network = sum(seconds(each, topology.chip) * each.times for each in exchanges)
    return max(arithmetic, network) + UNHIDDEN * min(arithmetic, network)
