"""Where arrays lie on the mesh `(data, fsdp, tensor)`, as far as layers need to say it."""

import jax
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")
"""The mesh axes that divide the rows of a batch."""


def shard_rows(x: jax.Array) -> jax.Array:
    """Says that the first axis of an activation is divided over the batch axes, and no other is.

    Without a mesh (one device) it does nothing.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def replicate(x: jax.Array) -> jax.Array:
    """Says that an array lies whole on every device, such as a table that is looked up."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
