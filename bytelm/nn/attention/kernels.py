"""Attention by fused kernels: cuDNN on NVIDIA GPUs, splash attention on TPUs.

Arguments and results are as in `attention`; a window is less than T.
"""

import jax
import jax.numpy as jnp

from bytelm.core.hlo_costs import PAIRS
from bytelm.nn.attention.blockwise import FILLER, KEPT, fill_last_block
from bytelm.nn.attention.mask import AttentionMask

CODE_SCORE = 512.0
"""Added to a score for each bit of the group ids that agrees, subtracted for each that differs.

One differing bit lowers a key's score by 1024 against keys of the same group, far beyond the range
of scores, so its weight is exactly 0. With 24 bits, float32 scores are still exact to 0.001, well
below the rounding of bfloat16.
"""
CODE_BITS = 24
"""Channels for the group ids where a device has a part of a row, which may be any of its ids."""
SPLASH_BLOCK = 512
"""Most positions in a block of splash attention. Blocks are multiples of 128, a TPU's lanes."""


def cudnn_supports(
    q: jax.Array, group_ids: jax.Array | None, *, exchanges_keys: bool = False
) -> bool:
    """Whether cuDNN's fused attention supports this dtype and head size on this GPU."""
    device = jax.devices()[0]
    if not device.device_kind.startswith("NVIDIA") or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    capability = float(device.compute_capability)
    most = 256 if capability >= 9.0 else 128 if capability >= 8.0 else 0
    bits = CODE_BITS if exchanges_keys else 0 if group_ids is None else _code_bits(q.shape[1])
    size = q.shape[-1] + bits
    return size % 8 == 0 and size <= most


def cudnn_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group_ids: jax.Array | None,
    mask: AttentionMask,
    before: int = 0,
) -> jax.Array:
    """Flash attention of cuDNN.

    cuDNN has no group ids, and a [T, T] mask would cost what the kernel saves. So q and k get a few
    more channels with the bits of the group id as signs. Keys of the same group all gain the same
    score, which the softmax cancels; the weight of all others becomes 0.

    Its masks are for as many queries as keys: where there are more keys, queries are added.
    """
    length, size = q.shape[1], q.shape[-1]
    scale = size**-0.5
    q = jnp.pad(q, ((0, 0), (before, k.shape[1] - before - length), (0, 0), (0, 0)))
    if group_ids is not None:
        bits = _code_bits(length) if k.shape[1] == length else CODE_BITS
        q, k = (_append_code(x, group_ids, bits, (CODE_SCORE / scale) ** 0.5) for x in (q, k))
        v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, bits)))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=mask.causal,
        local_window_size=_local_window(mask),
        scale=scale,
        implementation="cudnn",
    )
    return out[:, before : before + length, :, :size]


def _local_window(mask: AttentionMask) -> tuple[int, int] | None:
    """How many positions are seen before and after one; None without a window."""
    if mask.window is None:
        return None
    return mask.window - 1, 0 if mask.causal else mask.window - 1


def _code_bits(length: int) -> int:
    """Channels for the group ids 0 to T of a row, a multiple of 8 as cuDNN requires."""
    return 8 * -(-length.bit_length() // 8)


def _append_code(x: jax.Array, group_ids: jax.Array, bits: int, value: float) -> jax.Array:
    """Appends a channel for each bit of the group id: `value` if it is set, else `-value`."""
    ones = (group_ids[:, :, None, None] >> jnp.arange(bits)[None, None, None, :]) & 1
    code = jnp.where(ones == 1, value, -value).astype(x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(code, (*x.shape[:3], bits))], axis=-1)


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group_ids: jax.Array | None,
    mask: AttentionMask,
    before: int = 0,
) -> jax.Array:
    """TPU splash attention."""
    # Imported here, because loading Pallas would slow every start on other hardware.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    length, heads = q.shape[1:3]
    block = min(SPLASH_BLOCK, 128 * -(-length // 128))
    q, k, v, group_ids = fill_last_block(block, q, k, v, group_ids, mask, before)
    k, v, group_ids = _fill_keys(block, k, v, group_ids)
    shape = (q.shape[1], k.shape[1])
    head_mask: splash_attention_mask.Mask
    if window := _local_window(mask):
        head_mask = splash_attention_mask.LocalMask(shape, window, offset=before)
    elif mask.causal:
        head_mask = splash_attention_mask.CausalMask(shape, offset=before)
    else:
        head_mask = splash_attention_mask.FullMask(shape)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([head_mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=KEPT,
    )
    segments = None
    if group_ids is not None:
        own = group_ids[:, before : before + q.shape[1]]
        segments = splash_attention_kernel.SegmentIds(own, group_ids)
    q = (q * q.shape[-1] ** -0.5).astype(q.dtype)
    with jax.named_scope(f"{PAIRS}{mask.pairs(before + length) - mask.pairs(before):.0f}"):
        out = jax.vmap(kernel)(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)), segments)
    return out.transpose(0, 2, 1, 3)[:, :length].astype(q.dtype)


def _fill_keys(
    block: int, k: jax.Array, v: jax.Array, group_ids: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Pads keys to a multiple of `block`. Without group ids there are no more of them than queries,
    which `fill_last_block` has padded.
    """
    more = -k.shape[1] % block
    k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (k, v))
    if group_ids is not None:
        group_ids = jnp.pad(group_ids, ((0, 0), (0, more)), constant_values=FILLER)
    return k, v, group_ids
