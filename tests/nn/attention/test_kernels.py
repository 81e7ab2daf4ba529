"""Kernels of TPUs and GPUs against the oracle, and their programs."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from bytelm.nn.attention import kernels
from bytelm.nn.attention.attention import AttentionMask, attention
from tests.nn.attention.oracle import (
    MASKS,
    assert_equals_oracle,
    make_inputs,
)


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
