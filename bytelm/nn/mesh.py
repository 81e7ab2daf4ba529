"""The device mesh, and how parameters, batches and activations are divided over it.

One rule serves every model: a parameter is divided over `tensor` along the axis its layer names,
and over `fsdp` along the largest of its last two axes that divides; small ones are replicated.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""The axes that divide the rows of a batch."""
HEAD_AXIS = "tensor"
"""The axis that divides the heads of a layer."""
SMALLEST_SHARDED = 2**14
"""Parameters with fewer elements are replicated: gathering them would cost more than it saves."""


@dataclass(frozen=True)
class MeshConfig(Checked, name="mesh", small=True):
    """How many devices each axis of the mesh has."""

    data: int | None = None
    """Copies of the model that share the batch; None: all devices that the other axes leave."""
    fsdp: int = 1
    """Devices that share the batch and divide the parameters between them."""
    tensor: int = 1
    """Devices that divide each layer's channels between them."""

    def __post_init__(self) -> None:
        self.require_positive(*AXES)

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over this run's devices, or over others that a program is compiled for.

        Raises:
            UserError: if it needs more devices than there are, or leaves some of them out in a
                run of several processes.
        """
        available = jax.device_count() if devices is None else len(devices)
        fixed = self.fsdp * self.tensor
        data = self.data or max(1, available // fixed)
        needed = data * fixed
        if needed > available:
            raise UserError(
                f"the mesh (data {data}, fsdp {self.fsdp}, tensor {self.tensor}) needs {needed} "
                f"devices and there are {available}; make mesh.data, mesh.fsdp or mesh.tensor "
                "smaller."
            )
        if needed < available and jax.process_count() > 1:
            raise UserError(
                f"the mesh uses {needed} of {available} devices; with several processes it must "
                "use all of them: change mesh.data, mesh.fsdp or mesh.tensor."
            )
        if needed < available:
            devices = (jax.devices() if devices is None else devices)[:needed]
        shape = (data, self.fsdp, self.tensor)
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def single_device_mesh() -> Mesh:
    """A mesh of one device of this process."""
    return jax.make_mesh(
        (1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.local_devices()[:1]
    )


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


def row_share(rows: int, mesh: Mesh) -> tuple[int, int]:
    """The share of a batch's rows that this process reads: (index, count) of equal shares.

    Processes that `tensor` spans hold the same rows and have the same share.
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


def parameter_spec(shape: tuple[int, ...], tensor_axis: int | None, mesh: Mesh) -> PartitionSpec:
    """The axes of the mesh that divide a parameter; the module's docstring has the rule."""
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    if tensor > 1 and tensor_axis is not None and shape[tensor_axis] % tensor == 0:
        spec[tensor_axis] = "tensor"
    if fsdp > 1 and math.prod(shape) >= SMALLEST_SHARDED:
        free = [
            axis
            for axis in range(max(0, len(shape) - 2), len(shape))
            if spec[axis] is None and shape[axis] % fsdp == 0
        ]
        if free:
            spec[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return PartitionSpec(*spec)


def parameter_shardings(abstract: nnx.State, mesh: Mesh) -> dict[str, Any]:
    """Shardings of a model's parameters, as a nested dict.

    Raises:
        UserError: for large tables that the mesh does not divide.
    """

    def sharding(variable: nnx.Variable) -> NamedSharding:
        metadata = variable.get_metadata()
        spec = parameter_spec(variable.shape, metadata.get("tensor_axis"), mesh)
        if metadata.get("role") == "ngrams" and math.prod(variable.shape) >= SMALLEST_SHARDED:
            _check_table(variable.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    return nnx.to_pure_dict(
        jax.tree.map(sharding, abstract, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    )


def _check_table(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
    """Raises UserError unless the mesh divides a table, which may be most of a model."""
    for axis in ("fsdp", "tensor"):
        if mesh.shape[axis] > 1 and axis not in spec:
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


def shard_rows(x: jax.Array) -> jax.Array:
    """Divides the first axis of an activation over the batch axes, and no other axis.

    Without a mesh (one device) it does nothing.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def replicate(x: jax.Array) -> jax.Array:
    """Puts an array whole on every device, such as a table that is looked up."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def on_each_device(
    function: Callable[..., Any], by_head: tuple[Any, ...], by_row: tuple[Any, ...]
) -> Any:
    """Calls `function(*by_head, *by_row)` for each device's rows and heads.

    It keeps apart what the compiler cannot partition, such as a kernel, or partitions badly.

    Args:
        by_head: arrays `[B, ., H, ...]`, whose H may differ, or None. The results are such too.
        by_row: arrays `[B, ...]`, or None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {
        name: mesh.shape[name]
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    }
    rows = tuple(name for name in BATCH_AXES if name in sizes)
    if math.prod(sizes.values()) == 1:
        return function(*by_head, *by_row)
    divided = [x for x in by_head if x is not None]
    divides_rows = divided[0].shape[0] % math.prod(sizes[name] for name in rows) == 0
    divides_heads = HEAD_AXIS in sizes and all(x.shape[2] % sizes[HEAD_AXIS] == 0 for x in divided)
    row_spec = PartitionSpec(rows if divides_rows else None)
    head_spec = PartitionSpec(*row_spec, None, HEAD_AXIS if divides_heads else None)
    return jax.shard_map(
        function,
        in_specs=(head_spec,) * len(by_head) + (row_spec,) * len(by_row),
        out_specs=head_spec,
        axis_names=set(sizes),
        check_vma=False,
    )(*by_head, *by_row)
