"""Digests of arrays and of JSON values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bytelm.nn.mesh import MeshConfig
from bytelm.training.checkpoints.digests import check, digest_arrays, digest_json

ARRAY = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)


def digest(array) -> str:
    (found,) = digest_arrays("x", {"y": array}).values()
    return found


def test_names_and_a_known_digest():
    # A change of the digest would make all checkpoints that there are look damaged.
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.int32(7)}
    assert digest_arrays("params", arrays) == {
        "params/a/b": "349bad64e9cb7634",
        "params/c": "948ba1e69f0407bf",
    }


@pytest.mark.parametrize("mesh", [MeshConfig(8), MeshConfig(2, 2, 2), MeshConfig(1, 4, 2)])
@pytest.mark.parametrize("spec", [(None, "tensor"), ("fsdp",), (("data", "fsdp"), "tensor"), ()])
def test_every_mesh_gives_the_same(mesh, spec):
    sharded = jax.device_put(ARRAY, NamedSharding(mesh.build(), PartitionSpec(*spec)))
    assert digest(sharded) == digest(ARRAY)


def test_an_array_on_one_device_while_a_mesh_of_several_is_set():
    """As a run that starts from another one reads it."""
    alone = jax.device_put(ARRAY, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    with jax.set_mesh(MeshConfig(2, 4).build()):
        assert digest(alone) == digest(ARRAY)


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool", "float8_e4m3fn"]
)
def test_one_bit_of_one_element_changes_it(dtype):
    array = np.asarray(jnp.asarray(ARRAY * 100).astype(dtype))
    wanted = digest(array)
    assert digest(array.copy()) == wanted
    size = array.dtype.itemsize
    for place in np.random.default_rng(1).integers(array.size, size=10):
        raw = bytearray(array.tobytes())
        raw[place * size] ^= 1
        assert digest(np.frombuffer(raw, array.dtype).reshape(array.shape)) != wanted


def test_places_count():
    assert digest(ARRAY[::-1]) != digest(ARRAY)
    assert digest(ARRAY.transpose(0, 2, 1)) != digest(ARRAY)
    swapped = ARRAY.copy()
    swapped[0, 0, :2] = swapped[0, 0, 1::-1]
    assert digest(swapped) != digest(ARRAY)


def test_zeros_and_what_is_not_a_number_are_told_apart():
    assert digest(np.float32([0.0])) != digest(np.float32([-0.0]))
    assert digest(np.float32([np.nan])) != digest(-np.float32([np.nan]))
    assert digest(np.float32([1e-45])) != digest(np.float32([0.0]))  # the smallest there is


def test_json_values_as_they_are_read_back():
    saved = digest_json("data", {"b": (1, 2.5), "a": None})
    assert saved == digest_json("data", {"a": None, "b": [1, 2.5]})
    assert saved != digest_json("data", {"a": None, "b": [1, 2.25]})


def test_what_differs_is_named():
    saved = {"params/a": "1", "params/b": "2", "training/c": "3", "data": "4"}
    check(saved, {"params/a": "1", "params/b": "2"})
    check(saved, {"data": "4"})
    with pytest.raises(ValueError, match=r"^params/b differ"):
        check(saved, {"params/a": "1", "params/b": "3"})
    with pytest.raises(ValueError, match=r"^params/b differ"):
        check(saved, {"params/a": "1"})
    with pytest.raises(ValueError, match=r"^config differ"):
        check(saved, {"config": "1"})
    with pytest.raises(ValueError, match=r"^data differ"):
        check(["damaged"], {"data": "4"})
