"""Rows whose positions the mesh's axis `sequence` divides: what their devices exchange.

Activations `[B, T, ...]` are divided by positions, also where T is no multiple of the axis: of
slots for patches, say. Ids, boundaries and indices `[B, T]` are small, and whole on each device.
What reads other positions than its own is here, since the compiler would gather whole activations
for it: neighbours (`around`, `lagged`), recurrences (`recurrence`), and gathers and sums by index
(`take`, `add_at`, `max_at`), for which the devices pass their parts around in a ring. So no device
ever holds a whole activation. Without the axis all of it is plain array code.

Shapes: B = rows, T, N, M = positions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bytelm.nn.mesh import SEQUENCE_AXIS, on_each_device, sequence_shards


def around(x: jax.Array, before: int, after: int = 0) -> jax.Array:
    """A device's positions with those before and after them; 0 where the row has none.

    For functions that `on_each_device` calls by position: `[B, T, ...] -> [B, before + T + after,
    ...]`, T being those of one device.
    """
    shards, size = lax.axis_size(SEQUENCE_AXIS), x.shape[1]

    def exchanged(count: int, step: int) -> list[jax.Array]:
        """The parts of the neighbours on one side, the nearest first."""
        parts, hop = [], 0
        while count > 0:
            hop, width = hop + 1, min(size, count)
            count -= width
            part = x[:, size - width :] if step > 0 else x[:, :width]
            moves = [
                (each, each + step * hop)
                for each in range(shards)
                if 0 <= each + step * hop < shards
            ]
            parts.append(lax.ppermute(part, SEQUENCE_AXIS, moves))
        return parts

    return jnp.concatenate([*exchanged(before, 1)[::-1], x, *exchanged(after, -1)], axis=1)


def by_position(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Calls a function of arrays `[B, T, ...]`, whose result is such too, for each device's T."""
    found = on_each_device(function, (), tuple(map(filled, arrays)), by_position=True)
    return found[:, : arrays[0].shape[1]]


def filled(x: jax.Array, value: int = 0) -> jax.Array:
    """`[B, T, ...]` with as many more positions as `sequence` needs to divide them."""
    width = ((0, 0), (0, -x.shape[1] % sequence_shards()), *(((0, 0),) * (x.ndim - 2)))
    return jnp.pad(x, width, constant_values=value)


def lagged(x: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """The values `count`, ..., 1 and 0 positions before each, `[B, T, ...]`; 0 without one."""
    length = x.shape[1]

    def slices(extended: jax.Array, length: int) -> tuple[jax.Array, ...]:
        return tuple(extended[:, first : first + length] for first in range(count + 1))

    if sequence_shards() == 1:
        return slices(jnp.pad(x, ((0, 0), (count, 0), *(((0, 0),) * (x.ndim - 2)))), length)

    def local(x: jax.Array) -> tuple[jax.Array, ...]:
        return slices(around(x, count), x.shape[1])

    found = on_each_device(local, (), (filled(x),), by_position=True)
    return tuple(each[:, :length] for each in found)


def recurrence(new: jax.Array, kept: jax.Array) -> jax.Array:
    """z_k = new_k + kept_k z_(k-1) and z_(-1) = 0: `[B, T, d]` and `[B, T, 1]` to `[B, T, d]`."""
    if sequence_shards() == 1:
        return _scanned(new, kept)[1]

    def local(new: jax.Array, kept: jax.Array) -> jax.Array:
        kept, z = _scanned(new, kept)
        gather = partial(lax.all_gather, axis_name=SEQUENCE_AXIS, axis=1, tiled=True)
        _, after = _scanned(gather(z[:, -1:]), gather(kept[:, -1:]))  # of each device, [B, ., d]
        index = lax.axis_index(SEQUENCE_AXIS)
        before = lax.dynamic_slice_in_dim(after, jnp.maximum(index - 1, 0), 1, axis=1)
        return z + kept * jnp.where(index > 0, before, 0)

    return by_position(local, new, kept)


def _scanned(new: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The products of all that is kept up to each position, and z."""

    def join(earlier: Any, later: Any) -> Any:
        return earlier[0] * later[0], later[0] * earlier[1] + later[1]

    found: tuple[jax.Array, jax.Array] = lax.associative_scan(join, (kept, new), axis=1)
    return found


def take(values: jax.Array, index: jax.Array) -> jax.Array:
    """`values[b, index[b, i]]`: `[B, N, ...]` and int `[B, M]` to `[B, M, ...]`.

    Values `[B, N]` are whole on each device. Vectors are divided by positions, and then those at
    negative indices are 0.
    """
    if values.ndim == 2 or sequence_shards() == 1:
        return _rows_at(values, index)
    return _ring_take(filled(values), filled(index, -1))[:, : index.shape[1]]


def prepend(first: jax.Array, values: jax.Array) -> jax.Array:
    """`[B, ...]` before `[B, P, ...]`: `[B, 1 + P, ...]`."""
    first = first[:, None].astype(values.dtype)
    if values.ndim == 2 or sequence_shards() == 1:
        return jnp.concatenate([first, values], axis=1)
    index = jnp.arange(1 + values.shape[1])
    later = take(values, jnp.broadcast_to(index - 1, (len(values), len(index))))
    return jnp.where(jnp.expand_dims(index == 0, (0, *range(2, values.ndim))), first, later)


def take_joined(parts: Sequence[jax.Array], index: jax.Array) -> jax.Array:
    """`take` of the parts `[B, N, ...]` one after another."""
    if parts[0].ndim == 2 or sequence_shards() == 1:
        return take(jnp.concatenate(parts, axis=1), index)
    found, start = [], 0
    for part in parts:
        found.append(take(part, jnp.where(index < start + part.shape[1], index - start, -1)))
        start += part.shape[1]
    return sum(found[1:], found[0])


def add_at(x: jax.Array, index: jax.Array, groups: int) -> jax.Array:
    """Sums over the positions of each group: `[B, N, ...]` and int `[B, N]` to `[B, groups, ...]`.

    A position whose index is `groups` belongs to none.
    """
    if sequence_shards() == 1:
        add = partial(jax.ops.segment_sum, num_segments=groups + 1)
        return jax.vmap(add)(x, index)[:, :groups]
    return _grouped(_ring_add, x, index, groups)


def max_at(x: jax.Array, index: jax.Array, groups: int) -> jax.Array:
    """The largest over the positions of each group, as `add_at`; a group without any has -inf.

    Positions that are equal share the gradient.
    """
    if sequence_shards() == 1:
        most = partial(jax.ops.segment_max, num_segments=groups + 1)
        return jax.vmap(most)(x, index)[:, :groups]
    top = lax.stop_gradient(_grouped(_ring_max, lax.stop_gradient(x), index, groups))
    is_top = (x == take(top, index)).astype(x.dtype)
    count = jnp.maximum(add_at(is_top, index, groups), 1)
    total = add_at(is_top * x, index, groups)
    return jnp.where(jnp.isfinite(top), total / count, top)


def _grouped(ring: Callable[..., Any], x: jax.Array, index: jax.Array, groups: int) -> jax.Array:
    size = -(-groups // sequence_shards())
    index = jnp.where(index < groups, index, -1)
    return ring(filled(x), filled(index, -1), size)[:, :groups]


def _rows_at(values: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(lambda row, i: row[i])(values, index)


# The parts of a ring: each device has values [B, N, ...] and an index [B, M] into those of all
# devices, -1 for none.


def _place(index: jax.Array, size: int, owner: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the index points in the part of a device, and whether it does: int and bool `[B, M]`.

    It is `size` where it does not.
    """
    local = index - owner % lax.axis_size(SEQUENCE_AXIS) * size
    is_there = (local >= 0) & (local < size)
    return jnp.where(is_there, local, size), is_there


def _pass_on(x: jax.Array) -> jax.Array:
    shards = lax.axis_size(SEQUENCE_AXIS)
    return lax.ppermute(x, SEQUENCE_AXIS, [(each, (each + 1) % shards) for each in range(shards)])


def _picked(values: jax.Array, index: jax.Array) -> jax.Array:
    """`[B, M, ...]`, 0 for none: the values come past each device."""
    size, me = values.shape[1], lax.axis_index(SEQUENCE_AXIS)
    found = jnp.zeros((*index.shape, *values.shape[2:]), values.dtype)
    for hop in range(lax.axis_size(SEQUENCE_AXIS)):
        values = _pass_on(values) if hop else values
        local, is_there = _place(index, size, me - hop)
        is_there = is_there.reshape(*index.shape, *(1,) * (values.ndim - 2))
        found = jnp.where(is_there, _rows_at(values, jnp.minimum(local, size - 1)), found)
    return found


def _collected(x: jax.Array, index: jax.Array, size: int, empty: float, name: str) -> jax.Array:
    """`[B, size, ...]` of values `[B, M, ...]`: what is collected comes past each device."""
    me, shards = lax.axis_index(SEQUENCE_AXIS), lax.axis_size(SEQUENCE_AXIS)
    found = jnp.full((len(x), size, *x.shape[2:]), empty, x.dtype)

    def put(found: jax.Array, local: jax.Array, x: jax.Array) -> jax.Array:
        changed: jax.Array = getattr(found.at[local], name)(x, mode="drop")
        return changed

    for hop in range(shards):  # it ends where it belongs
        found = _pass_on(found) if hop else found
        local, _ = _place(index, size, me - 1 - hop)
        found = jax.vmap(put)(found, local, x)
    return found


# The rings of all devices, for arrays that `filled` gave; `size` is of one device.


def _each(ring: Callable[..., jax.Array], x: jax.Array, index: jax.Array) -> jax.Array:
    found: jax.Array = on_each_device(ring, (), (x, index), by_position=True)
    return found


@jax.custom_vjp
def _ring_take(values: jax.Array, index: jax.Array) -> jax.Array:
    return _each(_picked, values, index)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _ring_add(x: jax.Array, index: jax.Array, size: int) -> jax.Array:
    return _each(partial(_collected, size=size, empty=0, name="add"), x, index)


def _ring_max(x: jax.Array, index: jax.Array, size: int) -> jax.Array:
    return _each(partial(_collected, size=size, empty=-jnp.inf, name="max"), x, index)


# Each is the other's transpose. That of `on_each_device` would sum gradients over `tensor` too.
_ring_take.defvjp(
    lambda values, index: (_ring_take(values, index), (index, jnp.zeros((0, values.shape[1])))),
    lambda saved, g: (_ring_add(g, saved[0], saved[1].shape[1] // sequence_shards()), None),
)
_ring_add.defvjp(
    lambda x, index, size: (_ring_add(x, index, size), index),
    lambda size, index, gradient: (_ring_take(gradient, index), None),
)
