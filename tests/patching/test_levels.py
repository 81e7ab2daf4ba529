"""Levels: the pieces that hierarchical families share, on symbols of which all is known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.patching.budget import Budget
from bytelm.patching.levels import (
    OpenPatch,
    PatchingState,
    Symbols,
    run_if_any,
    segment,
)
from bytelm.patching.segmenter import Boundaries, Segmenter

IDS = jnp.array([[7, 8, 9, 10, 11, 12]])
STARTS = jnp.array([[True, False, True, False, True, False]])


class Given(Segmenter):
    """Patches start where the test says."""

    def __init__(self, starts):
        self.starts = starts

    def __call__(self, states, ids, document_ids, carry=None, keys=None):
        return Boundaries(self.starts, self.starts.astype(jnp.float32)), carry

    def init_carry(self, rows, length, dtype):
        return ()


def cut(symbols, starts, state=None, open_patch=None):
    return segment(Given(starts), None, symbols, lambda length: length, state, open=open_patch)


def empty(capacity):
    budget = Budget.of(lambda length: capacity, 6)
    return PatchingState.start(Given(STARTS), 1, 6, budget, jnp.dtype("float32"))


def whole(document_ids):
    return Symbols.of_rows(IDS, jnp.array([document_ids]))


def following(first, size, seen, lengths=None):
    """Symbols `first` to `first + size` of IDS, after `seen` others."""
    lengths = jnp.array([size if lengths is None else lengths])
    return Symbols.following(IDS[:, first : first + size], jnp.array([seen]), lengths)


def test_whole_rows_count_positions_in_their_documents():
    np.testing.assert_array_equal(whole([1, 1, 1, 1, 2, 2]).positions, [[0, 1, 2, 3, 0, 1]])


def test_following_symbols_go_on_counting_and_end_with_their_length():
    symbols = following(2, 4, seen=2, lengths=3)
    np.testing.assert_array_equal(symbols.positions, [[2, 3, 4, 5]])
    np.testing.assert_array_equal(symbols.document_ids, [[1, 1, 1, 0]])


def test_patches_are_the_symbols_of_the_level_inside():
    symbols = whole([1, 1, 1, 1, 2, 2])
    segmentation, _ = cut(symbols, STARTS)
    inner = segmentation.inner_symbols
    np.testing.assert_array_equal(inner.ids[:, :3], [[7, 9, 11]])
    np.testing.assert_array_equal(inner.document_ids, [[1, 1, 2, 0, 0, 0]])
    np.testing.assert_array_equal(inner.positions[:, :3], [[0, 1, 0]])
    assert inner.lengths is None


def test_each_symbol_reads_its_own_patch_and_none_of_another_document():
    segmentation, _ = cut(whole([1, 1, 1, 2, 2, 2]), STARTS)
    y = jnp.arange(1.0, 7.0)[None, :, None]
    np.testing.assert_array_equal(segmentation.spread(y)[0, :, 0], [1, 1, 2, 0, 3, 3])
    np.testing.assert_array_equal(segmentation.in_patch, [[1, 1, 1, 0, 1, 1]])
    np.testing.assert_array_equal(segmentation.offsets[0, [0, 1, 2, 4, 5]], [0, 1, 0, 0, 1])


def test_slots_that_are_left_limit_the_patches_of_all_calls_together():
    _, state = cut(following(0, 2, seen=0), STARTS[:, :2], empty(2))
    segmentation, state = cut(following(2, 4, seen=2), STARTS[:, 2:], state)
    np.testing.assert_array_equal(segmentation.patches.boundaries, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(segmentation.patches.number[:, :1], [[1]])
    assert (int(state.opened[0]), int(state.ignored[0])) == (2, 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_open_patch_goes_on_in_the_next_call(size):
    document = whole([1] * 6)
    expected, _ = cut(document, STARTS)
    y = jnp.arange(1.0, 7.0)[None, :, None]
    vectors = dict(zip([0, 2, 4], y[0, :, 0], strict=False))  # by the symbol that opens a patch
    state, open_patch = empty(6), OpenPatch.none(1, 1, jnp.dtype("float32"))
    for first in range(0, 6, size):
        symbols = following(first, size, seen=first)
        part, state = cut(symbols, STARTS[:, first : first + size], state, open_patch)
        own = [vectors.get(first + offset, 0.0) for offset in part.patches.positions[0].tolist()]
        new = jnp.array(own)[None, :, None]
        place = slice(first, first + size)
        np.testing.assert_array_equal(part.spread(new), expected.spread(y)[:, place])
        np.testing.assert_array_equal(part.offsets, expected.offsets[:, place])
        open_patch = part.after(new)
    assert float(open_patch.vector[0, 0]) == 3 and int(open_patch.position[0]) == 4


def test_whole_rows_leave_no_open_patch():
    segmentation, state = cut(whole([1] * 6), STARTS)
    assert segmentation.after(jnp.zeros((1, 6, 1))) is None and state is None


def test_nothing_runs_where_no_row_has_a_symbol():
    def run(count, length):
        symbols = dataclasses.replace(following(0, count, seen=0), lengths=jnp.array([length]))
        y, state = jnp.ones((1, count, 3)), jnp.zeros(1)
        return run_if_any(symbols, lambda: (2 * y, state + 1), y, state)

    for count, length, ran in ((1, 1, True), (1, 0, False), (2, 0, True)):
        found, state = run(count, length)
        np.testing.assert_array_equal(found, np.full((1, count, 3), 2 * ran))
        np.testing.assert_array_equal(state, [ran])


def test_vectors_that_were_projected_before_they_are_spread_are_refused():
    part, _ = cut(
        following(0, 2, seen=0),
        STARTS[:, :2],
        empty(2),
        OpenPatch.none(1, 3, jnp.dtype("float32")),
    )
    with pytest.raises(ValueError, match=r"5 channels.* has 3: .* `finish`, .* `width`"):
        part.spread(jnp.zeros((1, 2, 5)))
