"""The training step of a config, compiled without data, parameters or devices."""

import dataclasses
import functools
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.core.errors import UserError
from bytelm.core.hlo import Program, parse
from bytelm.core.hlo_costs import Exchange, Work, exchanges, works
from bytelm.core.vocabulary import BYTES
from bytelm.core.xla import compiling_for
from bytelm.models import Batch
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.entropy_patches import entropy_patches
from bytelm.nn.mesh import BATCH_AXES
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.forecast.topology import Topology
from bytelm.training.hardware import Chip
from bytelm.training.program import TrainProgram, build_program

_SIZE = r"\(?([\d.]+)([KMGT]?)\)?"
_USED = re.compile(
    rf"(?:[Uu]sed|required for HLO temporaries) {_SIZE} (?:of|exceeds available HBM) {_SIZE}"
)
_POWERS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DoesNotFitError(UserError):
    """The compiler found that a program needs more memory than a device has."""

    def __init__(self, needed: float, available: float):
        super().__init__(
            f"the training step needs {needed / 1e9:.1f} GB of a device's {available / 1e9:.1f} "
            f"GB, {(needed - available) / 1e9:.1f} GB too much; {ADVICE}."
        )
        self.needed, self.available = needed, available


ADVICE = (
    "make --mesh.fsdp or --train.accumulation larger, choose --model.remat full or a smaller "
    "--data.batch-size, or let --fit search"
)


@dataclass(frozen=True)
class Memory:
    """Bytes on each device during a step, as XLA allots them."""

    state: float
    """Parameters, the optimiser's state and the batch."""
    temporary: float
    """Activations, gradients and all else that lives within a step."""

    @property
    def total(self) -> float:
        return self.state + self.temporary


@dataclass(frozen=True)
class CompiledStep:
    """A compiled training step."""

    program: Program
    text: str
    memory: Memory

    @functools.cached_property
    def exchanges(self) -> list[Exchange]:
        return list(exchanges(self.program))

    @functools.cached_property
    def works(self) -> list[tuple[Work, float]]:
        return list(works(self.program))

    @property
    def flops(self) -> float:
        """Of matrix products, on one device."""
        return sum(work.flops * times for work, times in self.works)

    @property
    def traffic(self) -> float:
        """Bytes that one device reads from its memory and writes to it."""
        return sum(work.bytes * times for work, times in self.works)

    def seconds_of_work(self, peak_flops: float, bandwidth: float) -> float:
        """At least the time of all instructions, one after another, without exchanges.

        Args:
            bandwidth: bytes/s of the memory; 0 if it is not known.
        """
        return sum(
            times * max(work.flops / peak_flops, work.bytes / bandwidth if bandwidth else 0.0)
            for work, times in self.works
        )


def sent_by_kind(exchanges: Sequence[Exchange]) -> dict[tuple[str, str], tuple[float, float]]:
    """Calls and bytes that each device sends, by kind and dtype of the exchanges."""
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for each in exchanges:
        of_kind = found[each.kind, each.dtype]
        of_kind[0] += each.times
        of_kind[1] += each.times * each.sent
    return {key: (calls, sent) for key, (calls, sent) in sorted(found.items())}


def seconds(exchange: Exchange, chip: Chip | None) -> float:
    """At least the time of an exchange, with all links of the devices; 0 if they are not known.

    Where a group spans nodes, its devices in a node share the network's adapters of that node.
    """
    if chip is None or not chip.links:
        return 0.0
    in_node = exchange.sent / (1e9 * chip.links)
    if not chip.node:
        return in_node
    nodes = {device // chip.node for device in exchange.group}
    if len(nodes) == 1:
        return in_node
    members = len(exchange.group) / len(nodes)
    ring = 1 - 1 / len(exchange.group)
    between = exchange.sent / ring * (1 - 1 / len(nodes)) / members
    return max(in_node, between / (1e9 * chip.network)) if chip.network else in_node


def compile_step(config: ExperimentConfig, topology: Topology) -> CompiledStep:
    """The step that `train` would compile on these devices. No array is ever allocated.

    Raises:
        DoesNotFitError: if the compiler found so.
        UserError: if the mesh does not fit the devices or the batch.
    """
    mesh = config.mesh.build(topology.devices)
    with compiling_for(topology.backend), jax.set_mesh(mesh):
        program = build_program(config, mesh)
        lowered = program.lower_train(abstract_state(program), abstract_batch(config, mesh))
        try:
            with warnings.catch_warnings():
                # libtpu without a chip cannot read a program back, and compiles it once more.
                warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
                compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            raise _too_large(error) from None
    text = compiled.as_text()
    return CompiledStep(parse(text), text, memory_of(compiled.memory_analysis(), topology.backend))


def memory_of(sizes: Any, backend: str) -> Memory:
    """What a program needs by XLA's analysis of its memory.

    libtpu's `temp_size_in_bytes` is no need: it counts arrays that share their place. A program for
    which it was 19.6 GB was compiled for a chip of 16.9 GB; its peak was 13.5 GB.
    """
    state = sizes.argument_size_in_bytes
    if backend == "tpu":
        temporary = sizes.peak_memory_in_bytes - state
    else:
        added = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        temporary = sizes.temp_size_in_bytes + added
    return Memory(state, temporary + sizes.generated_code_size_in_bytes)


def abstract_state(program: TrainProgram) -> Any:
    """The shapes of a program's state, with their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        program.abstract_state,
        program.shardings,
    )


def abstract_batch(config: ExperimentConfig, mesh: Mesh | None) -> Batch:
    """The shapes of a batch as the loaders give it, divided over a mesh if there is one."""
    model, data = config.model, config.data
    sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def rows(length: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((data.batch_size, length), dtype, sharding=sharding)

    patches, target = entropy_patches(model), rows(data.row_length)
    has_encoder = isinstance(model, EncoderDecoderConfig)
    is_stored = patches is not None and patches.stored
    return Batch(
        ids=target,
        targets=target,
        document_ids=target,
        scripts=target if data.scripts else None,
        boundaries=rows(data.row_length, jnp.bool_) if model.needs_unigram else None,
        byte_counts=target if model.symbols.size != BYTES else None,
        inputs=rows(data.sequence_length) if has_encoder else None,
        entropies=rows(data.row_length, jnp.float32) if is_stored else None,
    )


def share_of(config: ExperimentConfig, rows: int) -> ExperimentConfig:
    """The config with a batch of so many rows, in one piece."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=rows),
        train=dataclasses.replace(config.train, accumulation=1),
    )


def _too_large(error: Exception) -> Exception:
    """What the compiler's error says about memory; the error itself if it says nothing."""
    found = _USED.search(str(error))
    if found is None:
        return error
    used, used_power, has, power = found.groups()
    return DoesNotFitError(float(used) * _POWERS[used_power], float(has) * _POWERS[power])
