import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.models.t5.blocks import CrossCache, T5State
from bytelm.nn.stack_state import StackState
from bytelm.nn.state import KeyValueCache, put, restore, snapshot, take


def state_of(rows):
    """A state whose row i holds the number `rows[i]` everywhere; its second layer is a ring."""
    rows = jnp.asarray(rows, jnp.int32)
    keys = jnp.zeros((len(rows), 2, 4, 3)) + rows[:, None, None, None]
    entries = jnp.zeros((len(rows), 4), jnp.int32) + rows[:, None]
    appended = KeyValueCache((keys,), (-keys,))
    ring = KeyValueCache((keys + 1,), (keys + 2,), spare=2)
    layers = appended, ring, {"h": keys + 3}, T5State(appended, CrossCache(keys + 4, keys + 5))
    return StackState(rows, entries, entries + 10, layers)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_rows_move():
    assert_equal(take(state_of([5, 6, 7]), jnp.array([2, 0, 2, 1])), state_of([7, 5, 7, 6]))


def test_fixed_parts_may_stay():
    found = take(state_of([5, 6, 7]), jnp.array([2, 0, 1]), fixed=False)
    assert_equal(found.layers[3].cross, state_of([5, 6, 7]).layers[3].cross)
    assert_equal(found.layers[3].own, state_of([7, 5, 6]).layers[3].own)


def test_rows_are_replaced():
    # Row 3 is past the last.
    found = put(state_of([5, 6, 7]), jnp.array([2, 3, 0]), state_of([1, 2, 3]))
    assert_equal(found, state_of([3, 6, 1]))


@pytest.mark.parametrize("most", [2, 3])
def test_a_snapshot_leaves_out_what_still_holds(most):
    """The ring has room for two symbols that are taken back."""
    before, after = state_of([5, 6, 7]), state_of([1, 2, 3])
    then = snapshot(before, most)
    assert (then.layers[0], then.layers[3].own, then.layers[3].cross) == (None, None, None)
    assert (then.layers[1] is None) == (most == 2)
    found = restore(after, then)
    assert_equal(found.layers[:1], after.layers[:1])
    assert_equal(found.layers[3], after.layers[3])
    assert_equal(found.layers[1], (after if most == 2 else before).layers[1])
    assert_equal(found.layers[2], before.layers[2])
    assert_equal((found.length, found.positions), (before.length, before.positions))
