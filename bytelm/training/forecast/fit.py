"""The search for the mesh, remat and accumulation with which a step is fastest and fits."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bytelm.core.errors import UserError
from bytelm.core.xla import compiling_for
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.forecast.activations import Kept, kept_bytes
from bytelm.training.forecast.compiled import DoesNotFitError
from bytelm.training.forecast.estimates import (
    REMATS,
    rows_at_once,
    state_bytes,
    step_seconds,
    temporary_bytes,
    with_remat,
)
from bytelm.training.forecast.forecast import Forecast, forecast, with_known_entropy_model
from bytelm.training.forecast.topology import Topology
from bytelm.training.program import abstract_state, check_rows

TENSOR = (1, 2, 4, 8)
"""Sizes of the axis `tensor` that are tried."""
CANDIDATES = 3
"""How many choices that fit are compiled and compared, if nothing else is said."""
MISSES = 6
"""How many that do not fit are compiled at most."""
SURELY = 0.9
"""The share of the memory that estimates may fill before one of them is compared with a compiled
step."""


@dataclass(frozen=True)
class Choice:
    """A config with estimates of its step."""

    config: ExperimentConfig
    state: float
    temporary: float
    seconds: float

    @property
    def kind(self) -> tuple[str, float]:
        """Remat and a device's part of a micro-batch, in rows: what decides its memory traffic."""
        mesh, train = self.config.mesh, self.config.train
        parts = (mesh.data or 1) * mesh.fsdp * mesh.sequence * mesh.tensor * train.accumulation
        remat = str(getattr(self.config.model, "remat", "none"))
        return remat, self.config.data.batch_size / parts

    @property
    def options(self) -> str:
        """On the command line."""
        mesh, train = self.config.mesh, self.config.train
        sizes = {field.name: getattr(mesh, field.name) for field in dataclasses.fields(mesh)}
        words = [
            f"--mesh.{name} {size}"
            for name, size in sizes.items()
            if size > 1 or name in ("data", "fsdp")
        ]
        words.append(f"--train.accumulation {train.accumulation}")
        if remat := getattr(self.config.model, "remat", None):
            words.append(f"--model.remat {remat}")
        return " ".join(words)


def fit(
    config: ExperimentConfig,
    topology: Topology,
    say: Callable[[str], None],
    *,
    candidates: int = CANDIDATES,
    compiling: bool = True,
) -> tuple[Forecast, str]:
    """The forecast of the fastest choice that fits, and its options on the command line.

    Choices are ranked by estimates of their time. The first that fit, as the compiler finds, each
    with another remat or size of micro-batches, are compared by their compiled bounds: estimates
    know what devices exchange, but not how much traffic in memory these two cause.

    Args:
        say: told what each choice gave that was compiled.
        candidates: how many that fit are compared; with 1 the first that fits is the answer.
        compiling: whether to compile; otherwise the first that fits by the estimate is the answer.

    Raises:
        UserError: if none fits.
    """
    candidates = candidates if compiling else 1
    available, scale, share = topology.memory or float("inf"), 1.0, SURELY
    left = list(choices(config, topology))
    fitting: list[tuple[Forecast, str]] = []
    misses = 0
    while len(fitting) < candidates and misses < MISSES:
        hopeful = [x for x in left if x.state + x.temporary * scale < available * share]
        if not hopeful:
            break
        choice = min(hopeful, key=lambda x: (x.seconds, x.state + x.temporary))
        try:
            found = forecast(choice.config, topology, compiling=compiling, remats=False)
        except DoesNotFitError as error:
            needed = error.needed
        else:
            needed = found.memory
        if needed <= available:
            fitting.append((found, choice.options))
            left = [x for x in left if x.kind != choice.kind]
        else:
            misses += 1
            left.remove(choice)
        if needed > available or candidates > 1:
            rest = "too much" if needed > available else _bound(found)
            say(f"{choice.options}: {needed / 1e9:.1f} GB on each device, {rest}")
        scale = max(0.1, (needed - choice.state) / choice.temporary)
        share = 1.0
    if not fitting:
        raise _nothing_fits(choices(config, topology), topology)
    return min(fitting, key=lambda one: one[0].step_seconds)


def _bound(found: Forecast) -> str:
    return f"at least {found.step_seconds:.3g} s a step, {found.utilisation:.0%} of the peak"


def choices(config: ExperimentConfig, topology: Topology) -> Iterator[Choice]:
    """All meshes over all devices, remats and accumulations that divide the batch."""
    config = with_known_entropy_model(config)
    with compiling_for(topology.backend):
        state, saved = abstract_state(config), _Saved(config)
        for mesh_config in meshes(len(topology.devices)):
            mesh = mesh_config.build(topology.devices)
            try:
                check_rows(config, mesh)
                of_state = state_bytes(config.model, state, mesh)
            except UserError:  # it does not divide rows, or the tables of n-grams
                continue
            shards = (mesh_config.data or 1) * mesh_config.fsdp
            for accumulation, remat in itertools.product(
                accumulations(config.data.batch_size, shards), saved.remats
            ):
                chosen = dataclasses.replace(
                    config,
                    model=with_remat(config.model, remat),
                    mesh=mesh_config,
                    train=dataclasses.replace(config.train, accumulation=accumulation),
                )
                rows = rows_at_once(chosen, mesh)
                kept, plain = saved(remat, rows), saved("none", rows)
                temporary = temporary_bytes(kept, plain, of_state, accumulation, mesh)
                streams = saved(saved.remats[-1], rows).activations
                seconds = step_seconds(chosen, topology, mesh, of_state, streams)
                yield Choice(chosen, of_state.total, temporary, seconds)


class _Saved:
    """What the forward pass keeps of any number of rows, from that of one and of two."""

    def __init__(self, config: ExperimentConfig):
        self.remats: tuple[str, ...] = REMATS if hasattr(config.model, "remat") else ("none",)
        self._of: dict[str, list[Kept]] = {
            remat: [
                kept_bytes(dataclasses.replace(config, model=with_remat(config.model, remat)), n)
                for n in (1, 2)
            ]
            for remat in self.remats
        }

    def __call__(self, remat: str, rows: int) -> Kept:
        of_one, of_two = map(dataclasses.astuple, self._of[remat])
        pairs = zip(of_one, of_two, strict=True)
        return Kept(*(one + (rows - 1) * (two - one) for one, two in pairs))


def meshes(devices: int) -> Iterator[MeshConfig]:
    """The meshes of so many devices."""
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    for tensor, sequence, fsdp in itertools.product(TENSOR, divisors, divisors):
        data, rest = divmod(devices, tensor * sequence * fsdp)
        if not rest:
            yield MeshConfig(data, fsdp, tensor, sequence)


def accumulations(rows: int, shards: int) -> Iterator[int]:
    """Powers of two into which the rows of each shard can be divided."""
    if rows % shards:
        return
    count = 1
    while rows // shards % count == 0:
        yield count
        count *= 2


def _nothing_fits(tried: Iterator[Choice], topology: Topology) -> UserError:
    least = min(tried, key=lambda choice: choice.state + choice.temporary, default=None)
    if least is None:
        return UserError(
            f"no mesh of {len(topology.devices)} devices divides data.batch_size; choose a batch "
            "size that is a multiple of it."
        )
    return UserError(
        f"no mesh, remat and accumulation fits {topology.name}: the least, {least.options}, needs "
        f"about {(least.state + least.temporary) / 1e9:.1f} GB on each device; take more devices, "
        "or make --data.sequence-length or the model smaller."
    )
