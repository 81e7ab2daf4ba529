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
    gather_last,
    mean_patches,
    positions_in_segment,
    spread_first,
    spread_patches,
    sum_patches,
)

ROWS, LENGTH, WIDTH = 6, 30, 4
find = jax.jit(find_patches, static_argnums=2)


def make_marks(seed=0):
    """Marks and document ids: documents of uneven lengths, whose first symbol need not be marked;
    a row without marks, one without padding, and one of padding alone."""
    generator = np.random.default_rng(seed)
    document_ids = 1 + np.cumsum(generator.random((ROWS, LENGTH)) < 0.12, axis=1, dtype=np.int32)
    document_ids -= document_ids[:, :1] - 1
    padding = np.array([5, 0, 3, 9, LENGTH, 2])[:, None]
    document_ids[np.arange(LENGTH)[None, :] >= LENGTH - padding] = 0
    marks = (generator.random((ROWS, LENGTH)) < 0.4) & (document_ids > 0)
    marks[2] = False
    return marks, document_ids


MARKS, SEGMENTS = make_marks()
FULL = int(MARKS.sum(axis=1).max())
CAPACITIES = (1, 3, FULL, FULL + 4, LENGTH + 5)


def find_slowly(marks, document_ids, capacity, room):
    """What `find_patches` promises, symbol by symbol."""
    of_symbol, count = np.full(marks.shape, NO_PATCH), np.zeros(marks.shape, int)
    at, valid = np.zeros((ROWS, capacity), int), np.zeros((ROWS, capacity), bool)
    of_patch, number = np.zeros((ROWS, capacity), int), np.zeros((ROWS, capacity), int)
    opened, refused = np.zeros(marks.shape, bool), 0
    for row in range(ROWS):
        patches = []  # (symbol, document)
        for t in range(LENGTH):
            if marks[row, t]:
                if len(patches) < min(capacity, room[row]):
                    patches.append((t, document_ids[row, t]))
                    opened[row, t] = True
                else:
                    refused += 1
            count[row, t] = len(patches)
            if patches and document_ids[row, t] and patches[-1][1] == document_ids[row, t]:
                of_symbol[row, t] = len(patches) - 1
        for p, (t, document) in enumerate(patches):
            at[row, p], valid[row, p], of_patch[row, p] = t, True, document
            number[row, p] = sum(d == document for _, d in patches[:p])
    return {
        "at": at,
        "valid": valid,
        "document_ids": of_patch,
        "number": number,
        "opened": opened,
        "count": count,
        "of_symbol": of_symbol,
        "refused": refused,
        "total": valid.sum(axis=1),
    }


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("limited", [False, True])
def test_patches_open_while_there_is_room(capacity, limited):
    room = np.int32([0, 2, 1, 4, 3, 100] if limited else [LENGTH] * ROWS)
    found = find(MARKS, SEGMENTS, capacity, room=room if limited else None)
    expected = find_slowly(MARKS, SEGMENTS, capacity, room)
    number = np.where(found.valid, found.number, 0)
    np.testing.assert_array_equal(number, expected.pop("number"), err_msg="number")
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    (overflow,) = found.statistics
    assert overflow.total == expected["refused"]
    assert overflow.count == expected["refused"] + expected["opened"].sum()
    assert (expected["refused"] > 0) == (limited or capacity < FULL)


def test_a_document_that_finds_no_room_has_no_patch():
    document_ids = np.int32([[1, 1, 1, 2, 2, 3, 0]])
    marks = np.array([[False, True, True, True, False, True, False]])
    found = find(marks, document_ids, 2)
    np.testing.assert_array_equal(found.of_symbol[0], [NO_PATCH, 0, 1, *[NO_PATCH] * 4])
    assert found.refused == 2


def test_positions_in_segment():
    document_ids = np.int32([[1, 1, 2, 2, 2, 0, 0], [3, 4, 4, 4, 4, 4, 5]])
    expected = [[0, 1, 0, 1, 2, 0, 1], [0, 0, 1, 2, 3, 4, 0]]
    np.testing.assert_array_equal(positions_in_segment(document_ids), expected)


def dense(name, patches):
    """The `[B, out, in]` matrix that a function multiplies its input with."""
    capacity, symbols = patches.at.shape[1], np.arange(LENGTH)
    if name in ("sum_patches", "mean_patches", "gather_last"):
        inside = patches.of_symbol[:, None, :] == np.arange(capacity)[None, :, None]
        if name == "mean_patches":
            return inside / np.maximum(inside.sum(axis=2, keepdims=True), 1)
        last = np.where(inside, symbols, -1).max(axis=2, keepdims=True)
        return inside & (symbols == last) if name == "gather_last" else inside
    if name in ("gather_first", "spread_first"):
        first = (patches.at[:, :, None] == symbols) & patches.valid[:, :, None]
        return first if name == "gather_first" else first.swapaxes(1, 2)
    shift = int(name[-1])
    matrix = np.zeros((ROWS, LENGTH, capacity), bool)
    for row, t in np.argwhere(patches.of_symbol != NO_PATCH):
        source = patches.of_symbol[row, t] - shift
        if source >= 0 and patches.document_ids[row, source] == SEGMENTS[row, t]:
            matrix[row, t, source] = True
    return matrix


FUNCTIONS = {
    "gather_first": gather_first,
    "spread_first": spread_first,
    "gather_last": gather_last,
    "sum_patches": sum_patches,
    "mean_patches": mean_patches,
    "spread_patches 0": spread_patches,
    "spread_patches 1": partial(spread_patches, shift=1),
    "spread_patches 2": partial(spread_patches, shift=2),
}


@pytest.mark.parametrize("capacity", [1, 3, FULL, LENGTH + 5])
def test_functions_and_gradients_are_dense_products(capacity):
    patches = jax.device_get(find(MARKS, SEGMENTS, capacity))
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
        out, pull = jax.vjp(lambda x: FUNCTIONS[name](x, find(MARKS, SEGMENTS, LENGTH)), x)
        return out, *pull(out)

    out, pulled = jax.eval_shape(both, jax.ShapeDtypeStruct((ROWS, LENGTH, WIDTH), jnp.bfloat16))
    assert out.dtype == (jnp.float32 if name == "mean_patches" else jnp.bfloat16)
    assert pulled.dtype == jnp.bfloat16


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


def read_and_spread(x, marks, document_ids):
    """What symbols can learn of one another through patches, in all ways at once."""
    patches = find_patches(marks, document_ids, LENGTH)
    index = jnp.where(patches.of_symbol == NO_PATCH, LENGTH, patches.of_symbol)
    pooled, _ = attention_pool(x[:, :, :1], x[:, :, None, :], index, LENGTH)
    parts = [gather(x, patches) for gather in (gather_first, gather_last, mean_patches)]
    together = sum(parts) + pooled[:, :, 0]
    return spread_patches(together, patches) + spread_patches(together, patches, shift=1)


def test_packed_documents_do_not_see_each_others_patches():
    run = jax.jit(read_and_spread)
    generator = np.random.default_rng(4)
    x = generator.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    before = run(x, MARKS, SEGMENTS)
    for own in (SEGMENTS == 1, SEGMENTS == 2, SEGMENTS == 3):
        assert np.asarray(before)[own].any()
        other_marks = np.where(own, MARKS, generator.random(MARKS.shape) < 0.5) & (SEGMENTS > 0)
        other_x = np.where(own[:, :, None], x, np.nan)
        after = run(other_x, other_marks, SEGMENTS)
        np.testing.assert_array_equal(np.asarray(after)[own], np.asarray(before)[own])


def test_memory_is_linear_in_length():
    def temporary_bytes(length):
        def loss(x, marks, document_ids):
            patches = find_patches(marks, document_ids, length // 4)
            index = jnp.where(patches.of_symbol == NO_PATCH, length // 4, patches.of_symbol)
            pooled = attention_pool(x[:, :, :1], x[:, :, None, :], index, length // 4)[0][:, :, 0]
            gathers = (gather_first, gather_last, sum_patches, mean_patches)
            together = pooled + sum(gather(x, patches) for gather in gathers)
            spread = spread_patches(together, patches, shift=1) + spread_first(together, patches)
            return (spread**2).sum()

        x = jax.ShapeDtypeStruct((1, length, 2), jnp.float32)
        marks = jax.ShapeDtypeStruct((1, length), bool)
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
        compiled = jax.jit(jax.grad(loss)).lower(x, marks, ids).compile()
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


def test_overflow_is_a_warning_with_the_capacity_to_set():
    enough = TooFewSlots(symbols_per_slot=6.0)
    assert enough({"overflow": 0.009, "bytes_per_patch": 4.0}) is None
    # 4 bytes for each patch that wanted a slot, and a tenth to spare.
    told = enough({"overflow": 0.2, "bytes_per_patch": 5.5})
    assert "20.0% of the patches" in told and "to 4.00 or less" in told
    # There are slots enough for the mean row already, so it is some rows that need more.
    told = TooFewSlots(symbols_per_slot=3.0)({"overflow": 0.02, "bytes_per_patch": 5.5})
    assert "to 2.40 or less" in told
