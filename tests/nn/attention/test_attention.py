"""What a mask promises in every implementation, on a mesh too, and attention to a cache."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from bytelm.core.errors import UserError
from bytelm.nn.attention import blockwise, kernels
from bytelm.nn.attention.attention import AttentionMask, attention, cached_attention
from bytelm.nn.state import NewPositions
from tests.nn.attention.oracle import (
    MASKS,
    QUICK_TO_COMPILE,
    assert_equals_oracle,
    make_inputs,
    oracle,
)


@pytest.mark.parametrize("mask", MASKS)
def test_reference_equals_oracle(mask):
    inputs = make_inputs(2, 200, groups=2, documents=True)
    assert_equals_oracle(
        lambda *args: attention(*args[:3], mask, args[3], implementation="reference"), inputs, mask
    )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("implementation", ["xla", "xla in turn", "documents as channels"])
def test_hidden_positions_change_no_bit(mask, implementation, monkeypatch, cudnn_in_xla):
    """Whatever stands where a position may not look, its output has the same bits."""
    length, middle = 300, 150
    if implementation == "xla in turn":
        monkeypatch.setattr(blockwise, "CACHED_SCORES", 0)
    inputs = make_inputs(1, length, groups=2, documents=False)
    group_ids = np.repeat(np.int32([1, 2, 3]), length // 3)[None, :]
    if implementation.startswith("xla"):
        attend = partial(attention, mask=mask, implementation="xla")
    else:
        attend = partial(kernels.cudnn_attention, mask=mask)
    attend = jax.jit(attend, compiler_options=QUICK_TO_COMPILE)
    before = attend(inputs.q, inputs.k, inputs.v, group_ids=group_ids)[:, middle]
    reach = (mask.window or length) - 1
    last = middle if mask.causal else min(199, middle + reach)
    seen = np.arange(max(100, middle - reach), last + 1)
    noise = np.full(length, 30.0, np.float32)
    noise[seen] = 0.0
    k, v = (x + noise[None, :, None, None] for x in (inputs.k, inputs.v))
    np.testing.assert_array_equal(attend(inputs.q, k, v, group_ids=group_ids)[:, middle], before)
    for end in (seen[0], seen[-1]):
        v = inputs.v.copy()
        v[:, end] += 1.0
        assert (attend(inputs.q, inputs.k, v, group_ids=group_ids)[:, middle] != before).any()


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 60), (False, 40)])
def test_gradient_reaches_only_what_is_seen(causal, window):
    inputs = make_inputs(1, 200, groups=2, documents=False)
    mask, position = AttentionMask(causal, window), 150

    def output(k, v):
        return attention(inputs.q, k, v, mask, implementation="xla")[:, position].sum()

    first = 0 if window is None else position - window + 1
    last = position if causal else position + window - 1
    for gradient in jax.jit(jax.grad(output, (0, 1)))(inputs.k, inputs.v):
        reached = np.flatnonzero(np.any(np.asarray(gradient) != 0, axis=(0, 2, 3)))
        np.testing.assert_array_equal(reached, np.arange(first, last + 1))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("implementation", ["xla", "splash"])
def test_divided_over_a_mesh(implementation, causal, splash_interpreted):
    """Rows over `data` and `fsdp`, heads over `tensor`: the numbers of one device."""
    mask, inputs = AttentionMask(causal, 100), make_inputs(4, 130, groups=2, documents=True)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        assert_equals_oracle(
            lambda *args: attention(*args[:3], mask, args[3], implementation=implementation),
            inputs,
            mask,
        )


def by_positions(shards):
    """A mesh that divides positions by `shards`, and rows by the other devices."""
    shape, axes = (1, 8 // shards, shards, 1), ("data", "fsdp", "sequence", "tensor")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 4)


@pytest.mark.parametrize(
    ("mask", "shards"),
    [
        (AttentionMask(), 2),  # positions are exchanged for heads
        (AttentionMask(), 4),  # more than there are heads
        (AttentionMask(window=5), 4),
        (AttentionMask(window=70), 4),  # the keys of three neighbours
        (AttentionMask(causal=False), 4),
        (AttentionMask(causal=False, window=5), 4),
    ],
)
def test_divided_by_positions(mask, shards, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", 16)  # several for each device
    inputs = make_inputs(4, 130, groups=2, documents=True)
    with jax.set_mesh(by_positions(shards)):
        assert_equals_oracle(
            lambda *args: attention(*args[:3], mask, args[3], implementation="xla"), inputs, mask
        )


@pytest.mark.parametrize("implementation", ["reference", "splash", "cudnn"])
def test_kernels_take_more_keys_than_queries(implementation, splash_interpreted, cudnn_in_xla):
    inputs, mask = make_inputs(4, 130, groups=2, documents=True), AttentionMask(window=40)
    with jax.set_mesh(by_positions(2)):
        assert_equals_oracle(
            lambda *args: attention(*args[:3], mask, args[3], implementation=implementation),
            inputs,
            mask,
            # Scores are exact to 0.001 next to the code of the group.
            tolerance=4e-3 if implementation == "cudnn" else 2e-5,
        )


def test_rows_that_the_mesh_does_not_divide():
    mask, inputs = AttentionMask(), make_inputs(3, 20, groups=1, documents=True)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        assert_equals_oracle(lambda *args: attention(*args[:3], mask, args[3]), inputs, mask)


def attend_to_cache(
    q, k_cache, v_cache, positions, key_positions, mask, *, query_groups, key_groups
):
    entries = key_positions.shape[1]
    new = NewPositions(None, positions, query_groups, key_positions, key_groups, entries)
    return cached_attention(q, [k_cache], [v_cache], new.visible(mask), new.used)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_cached_equals_whole(window, dtype):
    """Positions from every split on, over a cache whose slots are in no order and partly empty."""
    length, slots = 9, 12
    mask, inputs = AttentionMask(window=window), make_inputs(2, length, groups=2, documents=False)
    expected = oracle(inputs, mask)[0]
    generator = np.random.default_rng(0)
    order = np.stack([generator.permutation(slots)[:length] for _ in range(2)])
    rows = np.arange(2)[:, None]
    k_cache, v_cache = np.full((2, 2, slots, *inputs.k.shape[2:]), 1e3, np.float32)
    k_cache[rows, order], v_cache[rows, order] = inputs.k, inputs.v
    k_cache, v_cache = (jnp.asarray(x.swapaxes(1, 2), dtype) for x in (k_cache, v_cache))
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (2, length))
    zeros = np.zeros((2, slots), np.int32)
    attend = jax.jit(partial(attend_to_cache, mask=mask, key_groups=zeros))
    tolerance = 2e-5 if dtype == jnp.float32 else 3e-2

    for split in range(length):
        # A piece of all that is new: what is old is filler.
        new = np.where(positions >= split, positions, -1)
        key_positions = np.full((2, slots), -1, np.int32)
        key_positions[rows, order] = positions
        out = attend(inputs.q, k_cache, v_cache, new, key_positions, query_groups=zeros[:, :length])
        assert np.isfinite(out).all()
        np.testing.assert_allclose(
            out[:, split:], expected[:, split:], atol=tolerance, rtol=tolerance
        )
        # One position, with the slots of those after it still empty.
        key_positions[rows, order] = np.where(positions <= split, positions, -1)
        one = slice(split, split + 1)
        out = attend(
            inputs.q[:, one],
            k_cache,
            v_cache,
            positions[:, one],
            key_positions,
            query_groups=zeros[:, one],
        )
        np.testing.assert_allclose(out, expected[:, one], atol=tolerance, rtol=tolerance)


def test_parts_past_the_entries_in_use_are_not_read():
    """To read them would change no bit, so a row does not depend on longer rows."""
    inputs = make_inputs(2, 12, groups=2, documents=False)
    keys, values = (x.swapaxes(1, 2) for x in (inputs.k, inputs.v))
    parts = [[x[:, :, :4], x[:, :, 4:8], x[:, :, 8:]] for x in (keys, values)]
    visible = np.broadcast_to(np.arange(12) < [[[3]], [[7]]], (2, 1, 12))
    attend = jax.jit(cached_attention)
    expected = attend(inputs.q[:, 6:7], *parts, visible, 12)
    mask = AttentionMask()
    np.testing.assert_allclose(expected[1, 0], oracle(inputs, mask)[0][1, 6], atol=2e-5)
    np.testing.assert_array_equal(attend(inputs.q[:, 6:7], *parts, visible, 8), expected)
    parts = [[*first, np.full_like(last, np.nan)] for *first, last in parts]
    np.testing.assert_array_equal(attend(inputs.q[:, 6:7], *parts, visible, 8), expected)
    alone = attend(inputs.q[:, 6:7], *parts, visible, 4)
    np.testing.assert_array_equal(alone[0], expected[0])


@pytest.mark.parametrize("window", [None, 3])
def test_cached_segments_are_documents_of_the_whole(window):
    mask, inputs = AttentionMask(window=window), make_inputs(2, 12, groups=2, documents=True)
    k_cache, v_cache = (x.swapaxes(1, 2) for x in (inputs.k, inputs.v))
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), (2, 12))
    segments = {"query_groups": inputs.group_ids, "key_groups": inputs.group_ids}
    out = attend_to_cache(inputs.q, k_cache, v_cache, positions, positions, mask, **segments)
    np.testing.assert_allclose(out, oracle(inputs, mask)[0], atol=2e-5)


def test_dtype_and_auto():
    inputs = make_inputs(1, 20, groups=2, documents=False)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (inputs.q, inputs.k, inputs.v))
    out = attention(q, k, v, AttentionMask())
    assert out.dtype == jnp.bfloat16
    expected = oracle(inputs, AttentionMask())[0]
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=3e-2)


def test_wrong_masks():
    with pytest.raises(UserError, match="window is 0"):
        AttentionMask(window=0)
