"""The device mesh, and how parameters, batches and activations are divided over it.

One rule serves every model: a parameter is divided over `tensor` along the axis its layer names,
and over `fsdp` and `sequence`, or `fsdp` alone, along the largest of its last two axes that
divides; small ones are replicated, and so are the vectors of layers, however many are stacked.
Activations `[B, T, ...]` are divided by rows, and by positions over `sequence`
(`bytelm.nn.sequence`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError

AXES = ("data", "fsdp", "sequence", "tensor")
"""Neighbours along the last axis exchange the most."""
BATCH_AXES = ("data", "fsdp")
"""The axes that divide the rows of a batch."""
SEQUENCE_AXIS = "sequence"
"""The axis that divides the positions of rows."""
HEAD_AXIS = "tensor"
"""The axis that divides the heads of a layer."""
SMALLEST_SHARDED = 2**14
"""Parameters with fewer elements are replicated: gathering them would cost more than it saves."""
VECTORS = ("norm", "bias", "recurrence")
"""Roles of parameters of which a layer has a vector."""


@dataclass(frozen=True)
class MeshConfig(Checked, name="mesh", small=True):
    """How many devices each axis of the mesh has."""

    data: int | None = None
    """Copies of the model that share the batch; None: all devices that the other axes leave."""
    fsdp: int = 1
    """Devices that share the batch and divide the parameters between them."""
    tensor: int = 1
    """Devices that divide each layer's channels between them."""
    sequence: int = 1
    """Devices that divide the positions of each row between them, and the parameters, for long
    rows; it divides data.sequence_length."""

    def __post_init__(self) -> None:
        self.require_positive(*AXES)

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over this run's devices, or over others that a program is compiled for.

        Raises:
            UserError: if it needs more devices than there are, or leaves some of them out in a
                run of several processes.
        """
        available = jax.device_count() if devices is None else len(devices)
        fixed = self.fsdp * self.sequence * self.tensor
        data = self.data or max(1, available // fixed)
        needed = data * fixed
        shape = (data, self.fsdp, self.sequence, self.tensor)
        sizes = ", ".join(f"{name} {size}" for name, size in zip(AXES, shape, strict=True))
        if needed > available:
            raise UserError(
                f"the mesh ({sizes}) needs {needed} devices and there are {available}; make one of "
                "mesh.data, mesh.fsdp, mesh.sequence and mesh.tensor smaller."
            )
        if needed < available and jax.process_count() > 1:
            raise UserError(
                f"the mesh ({sizes}) uses {needed} of {available} devices; with several processes "
                "it must use all of them: change one of its axes."
            )
        if needed < available:
            devices = (jax.devices() if devices is None else devices)[:needed]
        return _mesh(shape, devices)

    def as_fits(self) -> "MeshConfig":
        """This mesh with as many copies as there are devices for.

        Where there are too few for one, the default mesh, which divides only rows.
        """
        is_enough = self.fsdp * self.sequence * self.tensor <= jax.device_count()
        return dataclasses.replace(self, data=None) if is_enough else MeshConfig()


def single_device_mesh() -> Mesh:
    """A mesh of one device of this process."""
    return _mesh((1,) * len(AXES), jax.local_devices()[:1])


def _mesh(shape: tuple[int, ...], devices: Any) -> Mesh:
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # a TPU slice one of whose own axes must be split
        devices = jax.devices() if devices is None else devices
        split = create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(split, AXES, axis_types=types)


def batch_shards(mesh: Mesh) -> int:
    """How many equal parts the mesh divides the rows of a batch into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(rows: int, mesh: Mesh, accumulation: int) -> None:
    """Raises UserError unless the mesh and the accumulation divide a batch of `rows` evenly."""
    shards = batch_shards(mesh)
    if rows % (shards * accumulation):
        raise UserError(
            f"data.batch_size {rows} cannot be divided by the {shards} batch shards of the mesh "
            f"(data x fsdp) times train.accumulation {accumulation}; make it a multiple of "
            f"{shards * accumulation}."
        )


def check_positions(length: int, mesh: Mesh) -> None:
    """Raises UserError unless the mesh divides rows of `length` positions evenly."""
    size = mesh.shape[SEQUENCE_AXIS]
    if length % size:
        raise UserError(
            f"mesh.sequence {size} does not divide rows of {length} positions "
            "(data.sequence_length); make the length a multiple of it."
        )


def row_share(rows: int, mesh: Mesh) -> tuple[int, int]:
    """The share of a batch's rows that this process reads: (index, count) of equal shares.

    Processes that `sequence` or `tensor` spans hold the same rows and have the same share.
    """
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    spans = {index[0].indices(rows)[:2] for index in indices if index}
    first, last = min(begin for begin, _ in spans), max(end for _, end in spans)
    size = last - first
    if sum(end - begin for begin, end in spans) != size or first % size:
        raise UserError(
            "the mesh gives a process rows that do not lie together; let mesh.data or mesh.fsdp "
            "be a multiple of the number of processes."
        )
    return first // size, rows // size


def parameter_spec(
    shape: tuple[int, ...], tensor_axis: int | None, mesh: Mesh, role: str = "matrix"
) -> PartitionSpec:
    """The axes of the mesh that divide a parameter; the module's docstring has the rule.

    Rows are few where they are long, so that `fsdp`, which divides them, cannot be large.
    """
    spec: list[Any] = [None] * len(shape)
    tensor = mesh.shape["tensor"]
    if tensor > 1 and tensor_axis is not None and shape[tensor_axis] % tensor == 0:
        spec[tensor_axis] = "tensor"
    if math.prod(shape) < SMALLEST_SHARDED or role in VECTORS:
        return PartitionSpec(*spec)
    last = range(max(0, len(shape) - 2), len(shape))
    for wanted in (("fsdp", SEQUENCE_AXIS), ("fsdp",)):
        names = tuple(name for name in wanted if mesh.shape[name] > 1)
        free = [
            axis for axis in last if spec[axis] is None and _divides(mesh.shape, names, shape[axis])
        ]
        if names and free:
            spec[max(free, key=lambda axis: shape[axis])] = names if len(names) > 1 else names[0]
            break
    return PartitionSpec(*spec)


def parameter_shardings(abstract: nnx.State, mesh: Mesh) -> dict[str, Any]:
    """Shardings of a model's parameters, as a nested dict.

    Raises:
        UserError: for large tables that the mesh does not divide.
    """

    def sharding(variable: nnx.Variable) -> NamedSharding:
        metadata = variable.get_metadata()
        role = metadata.get("role", "matrix")
        spec = parameter_spec(variable.shape, metadata.get("tensor_axis"), mesh, role)
        if role == "ngrams" and math.prod(variable.shape) >= SMALLEST_SHARDED:
            _check_table(variable.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    return nnx.to_pure_dict(
        jax.tree.map(sharding, abstract, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    )


def _check_table(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
    """Raises UserError unless the mesh divides a table, which may be most of a model."""
    names = {name for part in spec for name in ((part,) if isinstance(part, str) else part or ())}
    for axis in ("fsdp", "tensor"):
        if mesh.shape[axis] > 1 and axis not in names:
            raise UserError(
                f"the tables of n-grams have {shape[0]} rows of {shape[1]} channels, which "
                f"mesh.{axis} {mesh.shape[axis]} does not divide; choose model.ngram_rows so that "
                "it divides all rows."
            )


def like_parameters(
    tree: Any, parameters: Any, shardings: dict[str, Any], otherwise: NamedSharding
) -> Any:
    """Shardings of an optimiser's state: an array that belongs to a parameter is sharded like it.

    A factored array, which lacks one axis of its parameter, is sharded like the remaining axes. An
    array that belongs to no parameter, or has another shape, is sharded as `otherwise`.

    Args:
        tree: the state, or its shapes.
        parameters, shardings: of the parameters; shapes are enough.
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves(parameters)]
    known = jax.tree.leaves_with_path(shardings)
    by_path = {
        path_name(path): _by_shape(shape, sharding)
        for (path, sharding), shape in zip(known, shapes, strict=True)
    }

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path)
        # The longest: "norm/scale" is the end of "decoder/norm/scale" too.
        owner = max((p for p in by_path if name.endswith("/" + p)), key=len, default=None)
        return otherwise if owner is None else by_path[owner].get(leaf.shape, otherwise)

    return jax.tree.map_with_path(sharding, tree)


def _by_shape(
    shape: tuple[int, ...], sharding: NamedSharding
) -> dict[tuple[int, ...], NamedSharding]:
    """The shardings of arrays with a parameter's shape, and with that shape less one axis."""
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    found = {
        shape[:axis] + shape[axis + 1 :]: NamedSharding(
            sharding.mesh, PartitionSpec(*spec[:axis], *spec[axis + 1 :])
        )
        for axis in range(len(shape))
    }
    return {**found, shape: sharding}


def path_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf as text, such as "stack/blocks/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays, divided by rows, from the rows `[B / processes, T]` of this process."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
    )


def axis_sizes() -> dict[str, int]:
    """The axes of the mesh of the present program over which the compiler divides, by name."""
    mesh = jax.sharding.get_abstract_mesh()
    return {
        name: mesh.shape[name]
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    }


def sequence_shards() -> int:
    """How many devices divide the positions of a row; 1 without a mesh."""
    return axis_sizes().get(SEQUENCE_AXIS, 1)


def shard_rows(x: jax.Array) -> jax.Array:
    """Divides an activation `[B, T, ...]` by rows and by positions, and along no other axis.

    Without a mesh (one device) it does nothing.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, SEQUENCE_AXIS))


def whole_rows(tree: Any) -> Any:
    """Divides arrays `[B, ...]` by rows alone, such as the ids `[B, T]` that all positions need."""
    if sequence_shards() == 1:
        return tree
    spec = PartitionSpec(BATCH_AXES)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def replicate(x: jax.Array) -> jax.Array:
    """Puts an array whole on every device, such as a table that is looked up."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def on_each_device(
    function: Callable[..., Any],
    by_head: tuple[Any, ...],
    by_row: tuple[Any, ...],
    *,
    by_position: bool = False,
) -> Any:
    """Calls `function(*by_head, *by_row)` for each device's rows and heads, or positions.

    It keeps apart what the compiler cannot partition, such as a kernel, or partitions badly. A call
    sees whole rows, and `sequence` divides heads too, if they are enough. With `by_position` it
    sees the device's positions, of as many as `sequence` divides; all arrays are `[B, T, ...]`.

    Args:
        by_head: arrays `[B, ., H, ...]`, whose H may differ, or None. The results are such too.
        by_row: arrays `[B, ...]`, or None. Without others the results are such.
    """
    sizes = axis_sizes()
    if math.prod(sizes.values()) == 1:
        return function(*by_head, *by_row)
    rows = tuple(name for name in BATCH_AXES if name in sizes)
    shapes = [x.shape for x in by_head if x is not None]
    batch = next(x.shape[0] for x in (*by_head, *by_row) if x is not None)
    row_spec: tuple[Any, ...] = (rows if _divides(sizes, rows, batch) else None,)
    heads: tuple[str, ...] = ()
    for name in (HEAD_AXIS,) if by_position else (HEAD_AXIS, SEQUENCE_AXIS):
        more = (*heads, name)
        if name in sizes and all(_divides(sizes, more, shape[2]) for shape in shapes):
            heads = more
    head_spec = PartitionSpec(*row_spec, SEQUENCE_AXIS if by_position else None, heads or None)
    if by_position:
        row_spec = (*row_spec, SEQUENCE_AXIS)
    run = jax.shard_map(
        function,
        in_specs=(head_spec,) * len(by_head) + (PartitionSpec(*row_spec),) * len(by_row),
        out_specs=head_spec if by_head else PartitionSpec(*row_spec),
        axis_names=set(sizes),
        check_vma=False,
    )
    if by_position or sizes.get(SEQUENCE_AXIS, 1) == 1:
        return run(*by_head, *by_row)
    # What is around the call stays divided by positions: the compiler exchanges them for heads.
    around = HEAD_AXIS if HEAD_AXIS in heads else None
    spec = PartitionSpec(*row_spec, SEQUENCE_AXIS, around)
    keep = partial(jax.lax.with_sharding_constraint, shardings=spec)
    return jax.tree.map(keep, run(*jax.tree.map(keep, by_head), *by_row))


def _divides(sizes: Mapping[str, int], axes: tuple[str, ...], size: int) -> bool:
    return size % math.prod(sizes[axis] for axis in axes) == 0
