import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from bytelm.core.errors import UserError
from bytelm.nn.mesh import (
    AXES,
    MeshConfig,
    check_batch,
    check_positions,
    like_parameters,
    parameter_shardings,
    parameter_spec,
    place_batch,
    row_share,
)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1, 1)),
        (MeshConfig(fsdp=2, tensor=2), (2, 2, 1, 2)),
        (MeshConfig(sequence=4), (2, 1, 4, 1)),
        (MeshConfig(data=1), (1, 1, 1, 1)),
        (MeshConfig(data=3, tensor=2), (3, 1, 1, 2)),
    ],
)
def test_the_mesh_takes_all_devices_by_default(config, shape):
    assert tuple(config.build().shape.values()) == shape


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(UserError, match="needs 16 devices and there are 8"):
        MeshConfig(data=4, fsdp=4).build()
    with pytest.raises(UserError, match="needs 9 devices and there are 8"):
        MeshConfig(tensor=9).build()


@pytest.mark.parametrize("axis", AXES)
def test_a_mesh_axis_has_at_least_one_device(axis):
    with pytest.raises(UserError, match=rf"mesh\.{axis} is 0"):
        MeshConfig(**{axis: 0})


def test_a_batch_must_divide():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    check_batch(8, mesh, accumulation=2)
    with pytest.raises(UserError, match=r"12 cannot be divided .* make it a multiple of 8"):
        check_batch(12, mesh, accumulation=2)


def test_the_positions_of_a_row_must_divide():
    mesh = MeshConfig(sequence=8).build()
    check_positions(64, mesh)
    with pytest.raises(UserError, match=r"mesh.sequence 8 does not divide rows of 60 positions"):
        check_positions(60, mesh)


@pytest.mark.parametrize(
    ("shape", "tensor_axis", "mesh", "wanted"),
    [
        # The largest axis over fsdp, a named one over tensor, never both on one axis.
        ((256, 512), None, (1, 2, 1), (None, "fsdp")),
        ((512, 256), None, (1, 2, 1), ("fsdp", None)),
        ((256, 512), -1, (2, 2, 2), ("fsdp", "tensor")),
        ((256, 512), -2, (2, 2, 2), ("tensor", "fsdp")),
        ((256, 512), -1, (8, 1, 1), (None, None)),
        # Stacked layers are never divided over the axis that the scan walks.
        ((512, 128, 64), -2, (2, 2, 2), (None, "tensor", "fsdp")),
        ((512, 128, 64), None, (2, 2, 1), (None, "fsdp", None)),
        # An axis that does not divide stays whole, and the next may take its place.
        ((259, 256), None, (1, 2, 1), (None, "fsdp")),
        ((259, 257), None, (1, 2, 1), (None, None)),
        ((256, 257), -1, (1, 2, 2), ("fsdp", None)),
        # Small parameters are replicated, but channels follow those of their layer.
        ((127, 128), None, (1, 2, 1), (None, None)),
        ((128, 128), None, (1, 2, 1), ("fsdp", None)),
        ((8, 16), -1, (1, 2, 4), (None, "tensor")),
        ((2**14,), None, (1, 2, 1), ("fsdp",)),
        # `sequence` divides what `fsdp` divides, if it can.
        ((256, 512), -1, (1, 2, 2, 2), (("fsdp", "sequence"), "tensor")),
        ((256, 512), None, (1, 1, 1, 8), (None, "sequence")),
        ((258, 255), None, (1, 2, 1, 4), ("fsdp", None)),
    ],
)
def test_where_a_parameter_lies(shape, tensor_axis, mesh, wanted):
    built = MeshConfig(*mesh).build()
    assert parameter_spec(shape, tensor_axis, built) == PartitionSpec(*wanted)


def test_vectors_of_layers_are_whole_however_many_are_stacked():
    mesh = MeshConfig(fsdp=8).build()
    assert parameter_spec((64, 2048), None, mesh, "norm") == PartitionSpec(None, None)
    assert parameter_spec((64, 2048), None, mesh, "vector") == PartitionSpec(None, "fsdp")


def test_a_table_of_ngrams_must_be_divided():
    def shardings(rows, **mesh):
        table = nnx.Param(
            jax.ShapeDtypeStruct((rows, 33), np.float32), role="ngrams", tensor_axis=-2
        )
        return parameter_shardings(nnx.State({"table": table}), MeshConfig(**mesh).build())

    with pytest.raises(UserError, match=r"mesh.fsdp 2 does not divide"):
        shardings(3_000_012, fsdp=2, tensor=2)
    assert shardings(3_000_012, tensor=4)["table"].spec == PartitionSpec("tensor", None)
    assert shardings(3_000_012, fsdp=4)["table"].spec == PartitionSpec("fsdp", None)
    message = (
        "3000012 rows of 33 channels, which mesh.{} 8 does not divide; choose model.ngram_rows"
    )
    for axis in ("fsdp", "tensor"):
        with pytest.raises(UserError, match=message.format(axis)):
            shardings(3_000_012, **{axis: 8})


def test_optimizer_state_lies_where_its_parameter_lies():
    mesh = MeshConfig(fsdp=8).build()
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    columns = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    # One path ends with the whole of another.
    shardings = {"norm": {"scale": rows}, "outer": {"norm": {"scale": columns}}}
    params = jax.tree.map(lambda _: jnp.zeros((8, 8)), shardings)
    state = jax.eval_shape(optax.adam(1.0).init, params)
    adam, _ = like_parameters(state, params, shardings, whole)
    assert adam.count == whole
    assert adam.mu == shardings
    assert adam.nu == shardings


def test_a_factored_state_keeps_the_axes_that_it_has():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = {"kernel": NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))}
    params = {"kernel": jax.ShapeDtypeStruct((3, 256, 128), jnp.float32)}
    state = jax.eval_shape(optax.scale_by_factored_rms().init, params)
    found = like_parameters(state, params, shardings, whole)
    assert state.v_row["kernel"].shape == (3, 128) and state.v_col["kernel"].shape == (3, 256)
    assert found.v_row["kernel"].spec == PartitionSpec(None, "tensor")
    assert found.v_col["kernel"].spec == PartitionSpec(None, "fsdp")
    assert found.v["kernel"] == found.count == whole


def test_a_batch_is_divided_by_rows():
    mesh = MeshConfig(data=2, sequence=2, tensor=2).build()
    rows = np.arange(8 * 3).reshape(8, 3)
    placed = place_batch({"ids": rows}, mesh)["ids"]
    np.testing.assert_array_equal(placed, rows)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4, 3)}
    assert row_share(8, mesh) == (0, 1)
