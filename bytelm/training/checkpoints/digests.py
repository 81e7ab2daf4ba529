"""Digests of the items of a checkpoint, which show whether they were damaged.

The digest of an array is a sum over its elements, each mixed with its position. A sum can be taken
shard by shard and in any order, so every mesh and every number of processes gives the same digest,
and no value has to leave its device.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from bytelm.nn.mesh import path_name, single_device_mesh

Digests = dict[str, str]
"""Hex digests by name, such as `params/embedding/embedding`."""
DIGESTS = "digests"
"""The item of a checkpoint that holds the digests of the others."""
LOOP = "loop"
"""The item that holds the `LoopState`; earlier versions kept it in the provenance."""


def digest_arrays(item: str, arrays: Any) -> Digests:
    """64-bit digests of an item's arrays, the same in every process.

    All processes that hold the arrays, in a nested dict, have to call it. The item's name begins
    the digests' names.
    """
    found = {
        f"{item}/{path_name(path)}": _digest_of(leaf)
        for path, leaf in jax.tree.leaves_with_path(arrays)
    }
    return {name: "".join(f"{word:08x}" for word in x) for name, x in jax.device_get(found).items()}


def digest_json(item: str, value: Any) -> Digests:
    """The digest of an item of JSON values; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True)
    return {item: hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def digest_of_all(arrays: Any) -> str:
    """One hex digest of the arrays of an item, by which two models are told apart."""
    return digest_json("", digest_arrays("", arrays))[""]


def check(saved: Any, found: Mapping[str, str]) -> None:
    """Raises ValueError with the names of the digests that differ from the saved ones, if any.

    `found` has the digests of some items of the checkpoint, of each item all.
    """
    items = {name.split("/")[0] for name in found}
    saved = saved if isinstance(saved, dict) else {}
    wanted = {name: digest for name, digest in saved.items() if name.split("/")[0] in items}
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(f"{', '.join(names[:3])}{more} differ from the digests saved with them")


def _digest_of(leaf: Any) -> jax.Array:
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding):
        return _program(NamedSharding(sharding.mesh, PartitionSpec()))(leaf)
    # A run's mesh may be set while an array of another run is read onto one device.
    with jax.set_mesh(single_device_mesh()):
        return _program(None)(leaf)


@functools.cache
def _program(out: NamedSharding | None) -> Any:
    return jax.jit(_digest, out_shardings=out)


def _digest(x: jax.Array) -> jax.Array:
    """Two words, uint32 `[2]`, of an array."""
    bits = _words(x)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1  # index in the flattened array
    for axis in reversed(range(bits.ndim)):
        number = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place += number * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    first = _mix(bits ^ _mix(place))
    second = _mix(first ^ jnp.uint32(0x9E3779B9))
    return jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])


def _words(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32; elements of 64 bits become two along a new last axis."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    size = min(x.dtype.itemsize, 4)
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * size}")).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit words; each bit of x changes half of the bits of the result.

    The constants are those of lowbias32, from Chris Wellons' hash prospector.
    """
    x ^= x >> 16
    x *= jnp.uint32(0x7FEB352D)
    x ^= x >> 15
    x *= jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
