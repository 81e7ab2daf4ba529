"""The slots of rows that are being decoded."""

import jax.numpy as jnp
import numpy as np

from bytelm.patching.budget import SHORTEST, Budget
from bytelm.patching.patches import slots


def a_quarter(length):
    return slots(length, 4.0)


def test_slots_follow_from_the_number_of_the_symbol_alone():
    numbers = jnp.array([0, 1, SHORTEST - 1, SHORTEST, 2 * SHORTEST - 1, 2 * SHORTEST])
    expected = np.array([1, 1, 1, 2, 2, 4]) * (SHORTEST // 4)
    longest = Budget.of(a_quarter, 100 * SHORTEST)
    np.testing.assert_array_equal(longest.at(numbers), expected)
    for length in (1, SHORTEST, SHORTEST + 1, 3 * SHORTEST):
        within = numbers[numbers < length]
        found = Budget.of(a_quarter, length).at(within)
        np.testing.assert_array_equal(found, expected[: len(within)])


def test_there_is_memory_for_as_many_slots_as_symbols_can_fill():
    assert Budget.of(a_quarter, 20).entries == 21  # one for a null vector
    assert Budget.of(a_quarter, SHORTEST + 1).entries == 2 * SHORTEST // 4
    assert Budget.of(lambda length: length, 10 * SHORTEST).entries == 10 * SHORTEST + 1


def test_the_level_inside_has_slots_for_those_of_the_level_around_it():
    outer = Budget.of(a_quarter, 2 * SHORTEST)
    inner = outer.inside(lambda length: slots(length, 2.0))
    numbers = jnp.array([0, SHORTEST // 4 - 1, SHORTEST // 4])
    np.testing.assert_array_equal(inner.at(numbers), [SHORTEST // 8] * 2 + [SHORTEST // 4])
    assert inner.entries == SHORTEST // 4
