"""Every implementation against a NumPy oracle in float64, and what a mask promises."""

import dataclasses
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

HEADS, SIZE = 4, 8
WINDOWS = (None, 5, 130)
MASKS = (
    *(AttentionMask(window=window) for window in WINDOWS),
    AttentionMask(causal=False),
    AttentionMask(causal=False, window=5),
    AttentionMask(causal=False, window=130),
)
ON_CPU = jax.default_backend() == "cpu"
QUICK_TO_COMPILE = {"xla_backend_optimization_level": "0"} if ON_CPU else {}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arrays of one call, and the gradient of its output."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    gradient: np.ndarray
    group_ids: np.ndarray | None


def make_inputs(batch, length, groups, documents, size=SIZE):
    generator = np.random.default_rng(length)
    q, gradient = generator.normal(size=(2, batch, length, HEADS, size)).astype(np.float32)
    k, v = generator.normal(size=(2, batch, length, groups, size)).astype(np.float32)
    if not documents:
        return Inputs(q, k, v, gradient, None)
    # Documents 1, 2, ... of uneven lengths, then padding.
    starts = generator.random((batch, length)) < 8 / length
    group_ids = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    group_ids[:, length - length // 6 :] = 0
    return Inputs(q, k, v, gradient, group_ids)


def oracle(inputs, mask):
    """Output and gradients of q, k and v by the textbook formulas, in float64."""
    q, k, v, gradient = (
        x.astype(np.float64) for x in (inputs.q, inputs.k, inputs.v, inputs.gradient)
    )
    batch, length, heads, size = q.shape
    sharing = heads // k.shape[2]
    k, v = (np.repeat(x, sharing, axis=2) for x in (k, v))
    distance = np.arange(length)[:, None] - np.arange(length)
    visible = np.broadcast_to(distance >= 0 if mask.causal else True, (batch, length, length))
    if mask.window is not None:
        visible = visible & (np.abs(distance) < mask.window)
    if inputs.group_ids is not None:
        visible = visible & (inputs.group_ids[:, :, None] == inputs.group_ids[:, None, :])
    scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(size)
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("bhts,bshk->bthk", weights, v)
    d_weights = np.einsum("bthk,bshk->bhts", gradient, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True))
    d_scores /= np.sqrt(size)
    dq = np.einsum("bhts,bshk->bthk", d_scores, k)
    dk = np.einsum("bhts,bthk->bshk", d_scores, q)
    dv = np.einsum("bhts,bthk->bshk", weights, gradient)
    dk, dv = (x.reshape(batch, length, -1, sharing, size).sum(axis=3) for x in (dk, dv))
    return out, dq, dk, dv


def run(function, inputs, dtype=jnp.float32):
    """Output and gradients of `function(q, k, v, group_ids)`, as `oracle`."""

    @partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def both(q, k, v, gradient, group_ids):
        out, pull = jax.vjp(lambda *qkv: function(*qkv, group_ids), q, k, v)
        return out, *pull(gradient)

    floats = (jnp.asarray(x, dtype) for x in (inputs.q, inputs.k, inputs.v, inputs.gradient))
    return both(*floats, inputs.group_ids)


def assert_equals_oracle(function, inputs, mask, tolerance=2e-5, dtype=jnp.float32):
    for name, got, expected in zip(
        ("output", "dq", "dk", "dv"),
        run(function, inputs, dtype),
        oracle(inputs, mask),
        strict=True,
    ):
        np.testing.assert_allclose(
            np.asarray(got, np.float64), expected, atol=tolerance, rtol=tolerance, err_msg=name
        )


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
    plan = blockwise._Plan(2, block, 2, AttentionMask(window=window), 1.0)
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


@pytest.mark.parametrize("mask", MASKS)
def test_reference_equals_oracle(mask):
    inputs = make_inputs(2, 200, groups=2, documents=True)
    assert_equals_oracle(
        lambda *args: attention(*args[:3], mask, args[3], implementation="reference"), inputs, mask
    )


@pytest.fixture
def splash_interpreted(monkeypatch):
    """Splash attention in Pallas's interpreter, which any backend can run."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    interpreted = partial(splash.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash, "make_splash_mha", interpreted)


@pytest.fixture
def cudnn_in_xla(monkeypatch):
    """The computation that cuDNN is asked for, in XLA."""
    plain = jax.nn.dot_product_attention

    def unfused(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return plain(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", unfused)


@pytest.mark.parametrize(
    ("length", "causal", "window", "groups", "documents"),
    [(200, True, None, 2, True), (257, True, 130, 1, False), (257, False, 130, 1, True)],
)
def test_splash_equals_oracle(length, causal, window, groups, documents, splash_interpreted):
    inputs = make_inputs(1, length, groups, documents)
    mask = AttentionMask(causal, window)
    splash = partial(kernels.splash_attention, mask=mask)
    assert_equals_oracle(splash, inputs, mask)


@pytest.mark.parametrize(
    ("length", "causal", "window", "groups", "documents"),
    [(200, True, None, 2, True), (257, True, 130, 1, False), (257, False, 130, 1, True)],
)
def test_documents_as_channels_equal_oracle(
    length, causal, window, groups, documents, cudnn_in_xla
):
    inputs = make_inputs(2, length, groups, documents)
    mask = AttentionMask(causal, window)
    unfused = partial(kernels.cudnn_attention, mask=mask)
    assert_equals_oracle(unfused, inputs, mask, tolerance=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("documents", [False, True])
def test_gpu_equals_oracle(mask, documents):
    looks_ahead = mask.window is not None and not mask.causal  # which cuDNN cannot
    for implementation in ("auto", "xla") if looks_ahead else ("auto", "cudnn", "xla"):
        for length, groups in ((128, 4), (200, 2), (257, 1)):
            inputs = make_inputs(2, length, groups, documents, 64)
            assert_equals_oracle(
                lambda *args, implementation=implementation: attention(
                    *args[:3], mask, args[3], implementation=implementation
                ),
                inputs,
                mask,
                tolerance=5e-2,
                dtype=jnp.bfloat16,
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
    plan = blockwise._Plan(4, 128, sharing=1, mask=AttentionMask(causal, window), scale=1.0)
    assert [run.keys for run in plan.runs()] == keys
    assert [run.first for run in plan.runs()[1:]] == [run.last for run in plan.runs()[:-1]]


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


def test_rows_that_the_mesh_does_not_divide():
    mask, inputs = AttentionMask(), make_inputs(3, 20, groups=1, documents=True)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        assert_equals_oracle(lambda *args: attention(*args[:3], mask, args[3]), inputs, mask)


def abstract_inputs(dtype=jnp.bfloat16):
    q = jax.ShapeDtypeStruct((2, 300, 4, 64), dtype)
    k = jax.ShapeDtypeStruct((2, 300, 2, 64), dtype)
    return q, k, k, jax.ShapeDtypeStruct((2, 300), jnp.int32)


def lowered(platform, implementation, window):
    """The program for a platform that this machine need not have, forward and backward."""

    def loss(q, k, v, group_ids):
        mask = AttentionMask(window=window)
        out = attention(q, k, v, mask, group_ids, implementation=implementation)
        return out.astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*abstract_inputs())
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("window", [None, 130])
def test_splash_lowers_for_tpu(window):
    program = lowered("tpu", "splash", window)
    assert program.count("tpu_custom_call") >= 3  # forward, and the gradients of q and of k and v
    assert "300x300" not in program


@pytest.mark.parametrize("window", [None, 130])
def test_cudnn_lowers_for_cuda(window, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    program = lowered("cuda", "cudnn", window)
    assert "__cudnn$fmhaSoftmax(" in program
    assert "__cudnn$fmhaSoftmaxBackward(" in program
    # cuDNN counts the position itself, as we do.
    assert f"sliding_window_length\\22: {window or 0}" in program
    assert "300x300" not in program


def attend_to_cache(
    q, k_cache, v_cache, positions, key_positions, mask, *, query_groups, key_groups
):
    new = NewPositions(None, positions, query_groups, key_positions, key_groups)
    return cached_attention(q, k_cache, v_cache, new.visible(mask))


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
