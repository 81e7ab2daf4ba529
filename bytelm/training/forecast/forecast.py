"""The forecast of a run: what a step needs, how fast it can be, and what the run costs."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bytelm.core.config_json import mapped
from bytelm.core.hlo_costs import Exchange
from bytelm.core.xla import compiling_for
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.parameters import count_frozen, count_parameters
from bytelm.nn.mesh import check_batch
from bytelm.training.cost import step_flops
from bytelm.training.entropy_models import with_entropy_model
from bytelm.training.experiment import ExperimentConfig, load_json, parse_budget
from bytelm.training.forecast.activations import kept_bytes
from bytelm.training.forecast.compiled import CompiledStep, compile_step, seconds
from bytelm.training.forecast.estimates import (
    REMATS,
    StateBytes,
    likely_exchanges,
    parts_of,
    rows_at_once,
    state_bytes,
    step_flops_computed,
    temporary_bytes,
    with_remat,
)
from bytelm.training.forecast.topology import Topology
from bytelm.training.presets import load_preset, preset_names
from bytelm.training.program import abstract_state, check_rows
from bytelm.training.run_directory import CONFIG

How = Literal["exact", "measured", "estimated"]
"""Where a figure comes from: counted, read from the program compiled for these devices, or neither.
"""


@dataclass(frozen=True)
class Forecast:
    """What is known of a run before it starts.

    Attributes:
        parts: parameters of each part of the model.
        parameters, without_embeddings, frozen: in all, and those that are not trained.
        symbols: "bytes" or "tokens".
        symbols_per_step: read in a step, with the start and the end of each document.
        flops: of the model in a step, as `bytelm.training.cost` counts them.
        state: bytes on each device.
        temporary: bytes on each device during a step, by `remat`.
        likely: the exchanges of a step, as a compiler would divide it.
        step: the compiled step; None if nothing was compiled.
    """

    config: ExperimentConfig
    topology: Topology
    mesh: dict[str, int]
    dtype: str
    parts: dict[str, int]
    parameters: int
    without_embeddings: int
    frozen: int
    symbols: str
    symbols_per_step: int
    flops: float
    state: StateBytes
    temporary: dict[str, float]
    likely: Sequence[Exchange]
    step: CompiledStep | None = None

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def remat(self) -> str:
        """The chosen one."""
        return str(getattr(self.config.model, "remat", "none"))

    @property
    def how(self) -> How:
        """Where the figures of the step come from."""
        return "measured" if self.step is not None and self.topology.is_itself else "estimated"

    @property
    def memory(self) -> float:
        """Bytes on each device during a step."""
        if self.step is not None:
            return self.step.memory.total
        return self.state.total + self.temporary[self.remat]

    @property
    def peak_flops(self) -> float:
        """FLOP/s of all devices."""
        return self.devices * self.topology.peak_flops(self.dtype)

    @property
    def work_seconds(self) -> float:
        """At least the time of a step's arithmetic and memory traffic."""
        if self.step is None:
            return step_flops_computed(self.config) / self.peak_flops
        chip = self.topology.chip
        bandwidth = 0.0 if chip is None else 1e9 * chip.bandwidth
        return self.step.seconds_of_work(self.peak_flops / self.devices, bandwidth)

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """Those of the compiled step, or else likely ones."""
        return self.likely if self.step is None else self.step.exchanges

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step."""
        return sum(each.sent * each.times for each in self.exchanges)

    @property
    def exchange_seconds(self) -> float:
        """At least the time in which devices exchange data in a step."""
        chip = self.topology.chip
        return sum(seconds(each, chip) * each.times for each in self.exchanges)

    @property
    def step_seconds(self) -> float:
        """At least the time of a step, if all exchanges are hidden by work."""
        return max(self.work_seconds, self.exchange_seconds)

    @property
    def utilisation(self) -> float:
        """At most the share of the peak that the model's own FLOPs can reach."""
        return self.flops / (self.peak_flops * self.step_seconds)

    @property
    def utilisation_in_turns(self) -> float:
        """The same if no exchange is hidden by work."""
        return self.flops / (self.peak_flops * (self.work_seconds + self.exchange_seconds))

    def device_hours(self, symbols: float) -> float:
        """At least the time of training on so many symbols, of all devices together."""
        return symbols / self.symbols_per_step * self.step_seconds * self.devices / 3600

    @property
    def run_symbols(self) -> float | None:
        """How many symbols the config trains on; None if that depends on the text."""
        train = self.config.train
        if train.budget is None:
            return float(train.steps * self.symbols_per_step)
        amount, unit = parse_budget(train.budget)
        if unit == "flops":
            return amount / self.flops * self.symbols_per_step
        return amount if unit == self.symbols else None


def forecast(
    config: ExperimentConfig, topology: Topology, *, compiling: bool = True, remats: bool = True
) -> Forecast:
    """The forecast of a run on these devices; no array is allocated.

    Args:
        compiling: whether to compile the step; otherwise its figures are estimated.
        remats: whether to estimate the memory of other choices of `remat` too.

    Raises:
        UserError: if the mesh fits neither the devices nor the batch, or the step not the memory.
    """
    config = with_known_entropy_model(config)
    with compiling_for(topology.backend):
        found = _uncompiled(config, topology, remats)
    if not compiling:
        return found
    step = compile_step(config, topology)
    # The estimates of the other choices are as far off as that of this one.
    scale = step.memory.temporary / found.temporary[found.remat]
    temporary = {remat: size * scale for remat, size in found.temporary.items()}
    return dataclasses.replace(found, step=step, temporary=temporary)


def _uncompiled(config: ExperimentConfig, topology: Topology, remats: bool) -> Forecast:
    model, data = config.model, config.data
    mesh = config.mesh.build(topology.devices)
    check_batch(data.batch_size, mesh, config.train.accumulation)
    check_rows(config, mesh)
    state = abstract_state(config)
    bytes_of_state = state_bytes(model, state, mesh)
    rows, chosen = rows_at_once(config, mesh), str(getattr(model, "remat", "none"))
    shown = REMATS if remats and hasattr(model, "remat") else (chosen,)
    is_divided = mesh.shape["tensor"] * mesh.shape["sequence"] > 1
    kept = {
        remat: kept_bytes(dataclasses.replace(config, model=with_remat(model, remat)), rows)
        for remat in {*shown, "none", *(("full",) if is_divided else ())}
    }
    count = config.train.accumulation
    temporary = {
        remat: temporary_bytes(kept[remat], kept["none"], bytes_of_state, count, mesh)
        for remat in shown
    }
    streams = kept["full"].activations if is_divided else 0.0
    parameters, without_embeddings = count_parameters(model)
    return Forecast(
        config=config,
        topology=topology,
        mesh=dict(mesh.shape),
        dtype=model.dtype.name,
        parts=parts_of(state.params),
        parameters=parameters,
        without_embeddings=without_embeddings,
        frozen=count_frozen(model),
        symbols="bytes" if data.task.tokenizer is None else "tokens",
        symbols_per_step=data.batch_size * data.sequence_length,
        flops=step_flops(config),
        state=bytes_of_state,
        temporary=temporary,
        likely=likely_exchanges(config, mesh, bytes_of_state, streams),
    )


def with_known_entropy_model(config: ExperimentConfig) -> ExperimentConfig:
    """The config with the shape of its entropy model, which is all that a forecast needs.

    One that is not trained yet is that of a preset, if its folder has the preset's name, such as
    "runs/entropy_100m".
    """

    def known(patches: EntropyModelPatches) -> EntropyModelPatches:
        if patches.checkpoint is None or patches.model is not None:
            return patches
        path = Path(patches.checkpoint)
        if (path / CONFIG).is_file():
            model = load_json(path / CONFIG).model
        elif path.name in preset_names():
            model = load_preset(path.name).model
        else:
            return patches
        return dataclasses.replace(patches, checkpoint=None, model=model)

    model: Any = mapped(config.model, EntropyModelPatches, known)
    return with_entropy_model(dataclasses.replace(config, model=model))
