"""Marks of patches at the bytes, and the distance of bytes from them, worked out by hand."""

import jax.numpy as jnp
import numpy as np

from bytelm.patching.ended import find_ended
from bytelm.patching.levels import Segmentation, Symbols
from bytelm.patching.marks import find_lags, find_marks
from bytelm.patching.patches import find_patches
from bytelm.patching.segmenter import Boundaries

DOCUMENTS = jnp.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
BYTES = Symbols.of_rows(jnp.zeros_like(DOCUMENTS), DOCUMENTS)


def cut(symbols, *at, capacity=12, find=find_patches):
    """The symbols of one row with boundaries at some of them."""
    hard = jnp.isin(jnp.arange(symbols.document_ids.shape[1]), jnp.array(at))[None, :]
    patches = find(hard, symbols.document_ids, capacity)
    return Segmentation(symbols, Boundaries(hard, hard.astype(jnp.float32)), patches)


def at(flags):
    return np.flatnonzero(flags[0]).tolist()


def test_boundaries_of_inner_levels_are_those_of_the_level_around_them():
    outer = cut(BYTES, 0, 2, 4, 6, 9)
    inner = cut(outer.inner_symbols, 0, 2, 3, 4, capacity=3)  # of patches, which open at the bytes
    top = cut(inner.inner_symbols, 0, 2)
    levels = find_marks((outer, inner, top), "start")
    assert [at(level.boundaries) for level in levels] == [[0, 2, 4, 6, 9], [0, 4, 6], [0, 6]]
    assert [at(level.ignored) for level in levels] == [[], [9], []]
    for level in levels:
        np.testing.assert_array_equal(level.starts, level.boundaries)


def test_where_patches_end_the_next_byte_begins_one():
    for capacity, ends, ignored in ((12, [1, 4, 9], []), (3, [1, 4], [9])):
        # With three slots: the first document's null vector and two means.
        (level,) = find_marks((cut(BYTES, 1, 4, 9, capacity=capacity, find=find_ended),), "end")
        assert (at(level.boundaries), at(level.ignored)) == (ends, ignored)
        assert at(level.starts) == [0, 2, 5, 6]  # 6 begins a document, and 10 is padding
    outer = cut(BYTES, 1, 4, 7, 9)
    inner = cut(outer.inner_symbols, 1, 2)
    outer, inner = find_marks((outer, inner), "end")
    assert (at(outer.starts), at(inner.boundaries)) == ([0, 2, 5, 6, 8], [4, 7])
    assert at(inner.starts) == [0, 5, 6, 8]


def test_lags_count_from_the_last_boundary_or_the_start_of_the_document():
    (level,) = find_marks((cut(BYTES, 1, 4, 9),), "end")
    lags = find_lags(level.boundaries, DOCUMENTS)
    assert lags.tolist() == [[1, 1, 2, 3, 1, 2, 1, 2, 3, 1, 1, 2]]  # the last two of padding
