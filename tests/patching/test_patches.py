"""Patches against dense one-hot matrices in NumPy, with packed documents, padding and overflow."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.patching.patches import (
    LENGTHS,
    NO_PATCH,
    TooFewSlots,
    attention_pool,
    count_lengths,
    find_patches,
    gather_first,
    overflow_ratio,
    positions_in_run,
    slots,
    spread_first,
    sum_by_length,
)

ROWS, LENGTH, WIDTH = 6, 30, 4
find = jax.jit(find_patches, static_argnums=2)


def make_boundaries(seed=0):
    """Boundaries and document ids: documents of uneven lengths, whose first symbol need not be one;
    a row without boundaries, one without padding, and one of padding alone."""
    generator = np.random.default_rng(seed)
    document_ids = 1 + np.cumsum(generator.random((ROWS, LENGTH)) < 0.12, axis=1, dtype=np.int32)
    document_ids -= document_ids[:, :1] - 1
    padding = np.array([5, 0, 3, 9, LENGTH, 2])[:, None]
    document_ids[np.arange(LENGTH)[None, :] >= LENGTH - padding] = 0
    boundaries = (generator.random((ROWS, LENGTH)) < 0.4) & (document_ids > 0)
    boundaries[2] = False
    return boundaries, document_ids


BOUNDARIES, DOCUMENTS = make_boundaries()
FULL = int(BOUNDARIES.sum(axis=1).max())
CAPACITIES = (1, 3, FULL, FULL + 4, LENGTH + 5)


def find_slowly(boundaries, document_ids, capacity, left):
    """What `find_patches` promises, symbol by symbol."""
    index, count = np.full(boundaries.shape, NO_PATCH), np.zeros(boundaries.shape, int)
    positions, valid = np.zeros((ROWS, capacity), int), np.zeros((ROWS, capacity), bool)
    of_patch, number = np.zeros((ROWS, capacity), int), np.zeros((ROWS, capacity), int)
    opened, refused = np.zeros(boundaries.shape, bool), 0
    for row in range(ROWS):
        patches = []  # (symbol, document)
        for t in range(LENGTH):
            if boundaries[row, t]:
                if len(patches) < min(capacity, left[row, t]):
                    patches.append((t, document_ids[row, t]))
                    opened[row, t] = True
                else:
                    refused += 1
            count[row, t] = len(patches)
            if patches and document_ids[row, t] and patches[-1][1] == document_ids[row, t]:
                index[row, t] = len(patches) - 1
        for p, (t, document) in enumerate(patches):
            positions[row, p], valid[row, p], of_patch[row, p] = t, True, document
            number[row, p] = sum(d == document for _, d in patches[:p])
    return {
        "positions": positions,
        "valid": valid,
        "document_ids": of_patch,
        "number": number,
        "boundaries": opened,
        "count": count,
        "index": index,
        "overflow": refused,
        "total": valid.sum(axis=1),
    }


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("limited", [False, True])
def test_patches_open_while_there_are_slots(capacity, limited):
    left = np.int32([0, 2, 1, 4, 3, 100] if limited else [LENGTH] * ROWS)
    # A lost boundary stays lost where more slots come.
    more = np.arange(LENGTH)[None, :] >= np.int32([[9], [9], [0], [12], [20], [0]])
    left = left[:, None] + 2 * more
    found = find(BOUNDARIES, DOCUMENTS, capacity, slots_left=left if limited else None)
    expected = find_slowly(BOUNDARIES, DOCUMENTS, capacity, left)
    number = np.where(found.valid, found.number, 0)
    np.testing.assert_array_equal(number, expected.pop("number"), err_msg="number")
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    overflow = overflow_ratio(found)
    assert overflow.total == expected["overflow"]
    assert overflow.count == expected["overflow"] + expected["boundaries"].sum()
    assert (expected["overflow"] > 0) == (limited or capacity < FULL)


def test_a_document_that_finds_no_slot_has_no_patch():
    document_ids = np.int32([[1, 1, 1, 2, 2, 3, 0]])
    boundaries = np.array([[False, True, True, True, False, True, False]])
    found = find(boundaries, document_ids, 2)
    np.testing.assert_array_equal(found.index[0], [NO_PATCH, 0, 1, *[NO_PATCH] * 4])
    assert found.overflow == 2


def test_positions_in_run():
    document_ids = np.int32([[1, 1, 2, 2, 2, 0, 0], [3, 4, 4, 4, 4, 4, 5]])
    expected = [[0, 1, 0, 1, 2, 0, 1], [0, 0, 1, 2, 3, 4, 0]]
    np.testing.assert_array_equal(positions_in_run(document_ids), expected)


def dense(name, patches):
    """The `[B, out, in]` matrix that a function multiplies its input with."""
    opens = (patches.positions[:, :, None] == np.arange(LENGTH)) & patches.valid[:, :, None]
    return opens if name == "gather_first" else opens.swapaxes(1, 2)


FUNCTIONS = {"gather_first": gather_first, "spread_first": spread_first}


@pytest.mark.parametrize("capacity", [1, 3, FULL, LENGTH + 5])
def test_functions_and_gradients_are_dense_products(capacity):
    patches = jax.device_get(find(BOUNDARIES, DOCUMENTS, capacity))
    matrices = {name: dense(name, patches).astype(np.float32) for name in FUNCTIONS}
    generator = np.random.default_rng(1)
    cases = {
        name: [
            generator.normal(size=(ROWS, size, WIDTH)).astype(np.float32)
            for size in reversed(matrix.shape[1:])
        ]
        for name, matrix in matrices.items()
    }

    @jax.jit
    def both(cases, patches):
        found = {}
        for name, (x, gradient) in cases.items():
            out, pull = jax.vjp(partial(FUNCTIONS[name], patches=patches), x)
            found[name] = out, *pull(gradient)
        return found

    for name, (out, pulled) in both(cases, patches).items():
        x, gradient = cases[name]
        transposed = matrices[name].swapaxes(1, 2)
        np.testing.assert_allclose(out, matrices[name] @ x, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(pulled, transposed @ gradient, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes(name):
    def both(x):
        out, pull = jax.vjp(lambda x: FUNCTIONS[name](x, find(BOUNDARIES, DOCUMENTS, LENGTH)), x)
        return out, *pull(out)

    out, pulled = jax.eval_shape(both, jax.ShapeDtypeStruct((ROWS, LENGTH, WIDTH), jnp.bfloat16))
    assert out.dtype == pulled.dtype == jnp.bfloat16


def pool_densely(scores, values, index, groups):
    inside = index[:, :, None] == jnp.arange(groups)[None, None, :]
    masked = jnp.where(inside[..., None], scores[:, :, None, :], -jnp.inf)
    masked = jnp.where(inside.any(axis=1)[:, None, :, None], masked, 0.0)  # as no group is empty
    weights = jax.nn.softmax(masked, axis=1)
    return jnp.einsum("bngh,bnhk->bghk", weights, values), jax.nn.logsumexp(masked, axis=1)


@pytest.mark.parametrize("size", [1.0, 300.0])
def test_attention_pool_is_dense_softmax(size):
    """With groups of one member and of none, members of no group, and scores that overflow exp."""
    members, groups, heads = 20, 6, 2
    generator = np.random.default_rng(2)
    index = generator.choice([0, 1, 2, 4, groups], size=(ROWS, members))
    index[:, 0] = 3
    index[0] = groups
    filled = (index[:, :, None] == np.arange(groups)).any(axis=1)
    scores = size * generator.normal(size=(ROWS, members, heads)).astype(np.float32)
    values = generator.normal(size=(ROWS, members, heads, 3)).astype(np.float32)
    gradients = (
        generator.normal(size=(ROWS, groups, heads, 3)) * filled[:, :, None, None],
        generator.normal(size=(ROWS, groups, heads)) * filled[:, :, None],
    )
    gradients = tuple(np.float32(gradient) for gradient in gradients)

    @partial(jax.jit, static_argnums=0)
    def both(pool, scores, values, gradients):
        out, pull = jax.vjp(lambda s, v: pool(s, v, index, groups), scores, values)
        return *out, *pull(gradients)

    found = both(attention_pool, scores, values, gradients)
    expected = both(pool_densely, scores, values, gradients)
    for got, wanted in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(got[filled], wanted[filled], rtol=1e-5, atol=1e-5)
    for got, wanted in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert not np.asarray(found[0])[~filled].any()
    empty = np.asarray(found[1])[~filled]
    assert np.isfinite(empty).all()
    assert (np.exp(empty - np.float32(-1e4)) == 0).all()
    noise = np.ones_like(gradients[0]), np.ones_like(gradients[1])
    for pulled in both(attention_pool, scores, values, noise)[2:]:
        assert np.isfinite(pulled).all()
        assert not pulled[index == groups].any()


def test_parts_of_a_pool_make_the_whole():
    """Mean values and log-sum-exps of two halves, as members of a larger group."""
    generator = np.random.default_rng(3)
    scores = generator.normal(size=(1, 8, 2)).astype(np.float32)
    values = generator.normal(size=(1, 8, 2, 3)).astype(np.float32)
    pool = jax.jit(attention_pool, static_argnums=3)
    whole = pool(scores, values, np.zeros((1, 8), np.int32), 1)
    mixed, log_sums = pool(scores, values, np.int32([[0, 0, 0, 1, 1, 1, 1, 1]]), 3)
    parts = pool(log_sums, mixed, np.zeros((1, 3), np.int32), 1)
    for part, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-5)


def read_and_spread(x, boundaries, document_ids):
    """What symbols can learn of one another through patches, in all ways at once."""
    patches = find_patches(boundaries, document_ids, LENGTH)
    index = jnp.where(patches.index == NO_PATCH, LENGTH, patches.index)
    pooled, _ = attention_pool(x[:, :, :1], x[:, :, None, :], index, LENGTH)
    return spread_first(gather_first(x, patches) + pooled[:, :, 0], patches)


def test_packed_documents_do_not_see_each_others_patches():
    run = jax.jit(read_and_spread)
    generator = np.random.default_rng(4)
    x = generator.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    before = run(x, BOUNDARIES, DOCUMENTS)
    for own in (DOCUMENTS == 1, DOCUMENTS == 2, DOCUMENTS == 3):
        assert np.asarray(before)[own].any()
        others = np.where(own, BOUNDARIES, generator.random(BOUNDARIES.shape) < 0.5) & (
            DOCUMENTS > 0
        )
        other_x = np.where(own[:, :, None], x, np.nan)
        after = run(other_x, others, DOCUMENTS)
        np.testing.assert_array_equal(np.asarray(after)[own], np.asarray(before)[own])


def test_memory_is_linear_in_length():
    def temporary_bytes(length):
        def loss(x, boundaries, document_ids):
            patches = find_patches(boundaries, document_ids, length // 4)
            index = jnp.where(patches.index == NO_PATCH, length // 4, patches.index)
            pooled = attention_pool(x[:, :, :1], x[:, :, None, :], index, length // 4)[0][:, :, 0]
            return (spread_first(pooled + gather_first(x, patches), patches) ** 2).sum()

        x = jax.ShapeDtypeStruct((1, length, 2), jnp.float32)
        boundaries = jax.ShapeDtypeStruct((1, length), bool)
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
        compiled = jax.jit(jax.grad(loss)).lower(x, boundaries, ids).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(4096), temporary_bytes(8192)
    assert long < 2.2 * short
    assert long < 8192 * 8192 // 4  # not even one byte for each symbol and patch


def test_patches_are_counted_by_length():
    #                   2     3        1  1  | 5             |  padding
    starts = np.array([[1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 1, *[0] * 12]], bool)
    document_ids = np.array([[1] * 7 + [2] * 5 + [0, 0], [1] * 14])
    found = dict(zip(LENGTHS, np.asarray(count_lengths(starts, document_ids)), strict=True))
    wanted = {"1": 2, "2": 1, "3-4": 1, "5-8": 1, "9-16": 1, "17-32": 0, "33+": 0}
    assert found == wanted


def test_a_row_has_a_slot_for_each_part_of_it_begun():
    sizes = [(16, 4.0), (17, 4.0), (1, 4.0), (0, 2.0), (3, 2), (2.5, 1.0), (99, 1.1 * 3)]
    assert [slots(symbols, size) for symbols, size in sizes] == [4, 5, 1, 1, 2, 3, 30]


def test_overflow_is_a_warning_with_the_capacity_to_set():
    enough = TooFewSlots(symbols_per_slot=6.0)
    assert enough({"overflow": 0.009, "bytes_per_patch": 4.0}) is None
    # 4 bytes for each patch that wanted a slot, and a tenth to spare.
    told = enough({"overflow": 0.2, "bytes_per_patch": 5.5})
    assert "20.0% of the patches" in told and "to 4.00 or less" in told
    # There are slots enough for the mean row already, so it is some rows that need more.
    told = TooFewSlots(symbols_per_slot=3.0)({"overflow": 0.02, "bytes_per_patch": 5.5})
    assert "to 2.40 or less" in told
    # Nearly a boundary for each byte, as from an entropy model with another one's threshold.
    told = enough({"overflow": 0.7, "bytes_per_patch": 3.5})
    assert "change model.segmenter, or set model.bytes_per_slot to 1.00 or less" in told


def test_overflow_of_an_inner_level_names_the_level_and_its_option():
    values = {"overflow/level_2": 0.2, "symbols_per_patch/level_2": 2.2}
    told = TooFewSlots(3.0, "patches_per_slot", level=2)(values)
    assert "of level 2 found no free slot" in told and "their symbols stayed" in told
    assert "set model.patches_per_slot to 1.60 or less" in told


def test_sums_by_length():
    lengths = np.array([[1, 2, 2, 3], [4, 40, 5, 1]])
    found = sum_by_length(np.arange(8.0).reshape(2, 4), lengths)
    np.testing.assert_array_equal(found, [0 + 7, 1 + 2, 3 + 4, 6, 0, 0, 5])
