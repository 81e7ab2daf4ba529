"""Attention over blocks in XLA against the oracle, and its memory."""

import jax
import jax.numpy as jnp
import pytest

from bytelm.nn.attention import blockwise
from bytelm.nn.attention.attention import AttentionMask, attention
from tests.nn.attention.oracle import HEADS, QUICK_TO_COMPILE, assert_equals_oracle, make_inputs


@pytest.mark.parametrize(
    ("length", "window", "groups", "documents"),
    [
        (1, None, 2, True),
        (7, 5, 4, True),
        (128, None, 4, True),
        (200, None, 2, False),
        (200, 5, 1, True),
        (200, 130, 4, True),
        (257, None, 1, True),
        (257, 130, 2, False),
    ],
)
@pytest.mark.parametrize("in_turn", [True, False])
def test_xla_equals_oracle(length, window, groups, documents, in_turn, monkeypatch):
    if in_turn:
        monkeypatch.setattr(blockwise, "CACHED_SCORES", 0)
    mask, inputs = AttentionMask(window=window), make_inputs(2, length, groups, documents)
    assert_equals_oracle(
        lambda *args: attention(*args[:3], mask, args[3], implementation="xla"), inputs, mask
    )


@pytest.mark.parametrize(
    ("length", "window", "documents"),
    [(150, None, False), (7, 5, True), (257, 5, False), (257, 130, True)],
)
def test_xla_without_causality(length, window, documents, monkeypatch):
    monkeypatch.setattr(blockwise, "CACHED_SCORES", 0)
    mask = AttentionMask(causal=False, window=window)
    inputs = make_inputs(1, length, 2, documents)
    assert_equals_oracle(
        lambda *args: attention(*args[:3], mask, args[3], implementation="xla"), inputs, mask
    )


@pytest.mark.parametrize("documents", [True, False])
def test_xla_with_some_rows_at_a_time(documents, monkeypatch):
    length, window = 200, 130
    block, keys = 104, 208
    monkeypatch.setattr(blockwise, "CACHED_SCORES", 3 * HEADS * block * keys)
    monkeypatch.setattr(blockwise, "FEW_ROWS", 2)
    plan = blockwise._Plan(2, block, 2, AttentionMask(window=window), 1.0, before=0, keys=keys)
    # Three rows find room: two of four are taken together, and five one by one.
    assert [plan.rows_together(rows, HEADS) for rows in (1, 3, 4, 5, 6)] == [1, 3, 2, None, 3]
    mask, inputs = AttentionMask(window=window), make_inputs(4, length, 2, documents)
    assert_equals_oracle(
        lambda *args: attention(*args[:3], mask, args[3], implementation="xla"), inputs, mask
    )


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 150), (False, 150)])
def test_xla_with_loops_over_blocks(causal, window, monkeypatch):
    monkeypatch.setattr(blockwise, "MAX_RUNS", 2)
    monkeypatch.setattr(blockwise, "CACHED_SCORES", 0)
    mask = AttentionMask(causal, window)
    inputs = make_inputs(1, 580, groups=2, documents=True)
    assert_equals_oracle(
        lambda *args: attention(*args[:3], mask, args[3], implementation="xla"), inputs, mask
    )


@pytest.mark.parametrize(
    ("causal", "window", "in_turn"),
    [(True, None, False), (True, None, True), (True, 64, False), (False, 64, True)],
)
def test_memory_is_linear_in_length(causal, window, in_turn, monkeypatch):
    monkeypatch.setattr(blockwise, "MAX_RUNS", 2)
    if in_turn:
        monkeypatch.setattr(blockwise, "CACHED_SCORES", 0)

    def temporary_bytes(length):
        def loss(q, k, v, group_ids):
            mask = AttentionMask(causal, window)
            return attention(q, k, v, mask, group_ids, implementation="xla").sum()

        x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, ids)
        compiled = lowered.compile(compiler_options=QUICK_TO_COMPILE)
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(2048), temporary_bytes(4096)
    assert long < 2.2 * short
    assert long < 4096**2  # not even one byte for each pair


@pytest.mark.parametrize("together", [True, False])
def test_a_scan_over_layers_keeps_no_masks(together, monkeypatch):
    monkeypatch.setattr(blockwise, "MAX_RUNS", 2)
    if not together:
        monkeypatch.setattr(blockwise, "CACHED_SCORES", 0)

    def temporary_bytes(length):
        def loss(x, scales, group_ids):
            def layer(x, scale):
                mixed = attention(scale * x, x, x, AttentionMask(), group_ids)
                return x + mixed, None

            return jax.lax.scan(layer, x, scales)[0].sum()

        x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
        lowered = jax.jit(jax.grad(loss)).lower(x, jax.ShapeDtypeStruct((2,), jnp.float32), ids)
        compiled = lowered.compile(compiler_options=QUICK_TO_COMPILE)
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(4096) < 2.2 * temporary_bytes(2048)


@pytest.mark.parametrize(
    ("causal", "window", "keys"),
    [
        (True, None, [128, 256, 384, 512]),
        (True, 33, [128, 160]),
        (True, 130, [128, 256, 264]),
        (False, 33, [192]),
    ],
)
def test_a_block_meets_the_keys_of_its_window(causal, window, keys):
    mask = AttentionMask(causal, window)
    plan = blockwise._Plan(4, 128, sharing=1, mask=mask, scale=1.0, before=0, keys=4 * 128)
    assert [run.keys for run in plan.runs()] == keys
    assert [run.first for run in plan.runs()[1:]] == [run.last for run in plan.runs()[:-1]]


def test_blocks_after_many_keys_share_a_loop():
    # Two blocks of queries end 30 blocks of keys: prefixes that differ by 3% are not worth two.
    mask = AttentionMask()
    plan = blockwise._Plan(2, 128, sharing=1, mask=mask, scale=1.0, before=28 * 128, keys=30 * 128)
    assert [(run.first, run.last, run.keys) for run in plan.runs()] == [(0, 2, 30 * 128)]
