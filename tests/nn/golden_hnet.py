"""The golden vectors of H-Net's blocks, with their weights in our layout."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.mamba2 import Mamba2Config
from tests.models.golden import Case

CHUNK = 8
"""Shorter than all rows, and no divisor of most."""


def block_config(case: Case, **changes: Any) -> BlockConfig | Mamba2Config:
    """The config of the case's block."""
    cfg, has_mlp = case.cfg, case.cfg["arch"].isupper()
    shared: dict[str, Any] = dict(
        width=cfg["d_model"],
        depth=1,
        mlp="swiglu" if has_mlp else None,
        mlp_width=128 * -(-cfg["d_intermediate"] // 128) if has_mlp else None,
        norm_epsilon=cfg["norm_eps"],
    )
    if cfg["arch"] in "mM":
        shared |= dict(
            inner=cfg["expand"] * cfg["d_model"],
            head_width=cfg["headdim"],
            state_width=cfg["d_state"],
            convolution_width=cfg["d_conv"],
            chunk=CHUNK,
        )
        return Mamba2Config(**shared | changes)
    window = cfg["window_size"]
    shared |= dict(
        heads=cfg["num_heads"],
        key_value_heads=cfg["num_heads"],
        head_width=cfg["d_model"] // cfg["num_heads"],
        qk_norm=False,
        rope_theta=cfg["rotary_emb_base"],
        rotary_width=cfg["rotary_emb_dim"],
        mask=AttentionMask(window=None if window < 0 else window + 1),
        implementation="auto",
    )
    return BlockConfig(**shared | changes)


def block_parameters(weights: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Of the block, from the weights of one layer."""

    def scale(name: str) -> dict[str, jax.Array]:
        return {"scale": weights[f"{name}.weight"]}

    def dense(weight: jax.Array) -> dict[str, jax.Array]:
        return {"kernel": weight.T}

    parts: dict[str, Any] = {}
    if "mlp.fc1.weight" in weights:
        up, gate = jnp.split(weights["mlp.fc1.weight"], 2)
        down = weights["mlp.fc2.weight"]
        parts["mlp_norm"] = scale("norm2")
        parts["mlp"] = {"up": dense(up), "gate": dense(gate), "down": dense(down)}
    output = dense(weights["mixer.out_proj.weight"])
    if "mixer.Wqkv.weight" in weights:
        names = ("query", "key", "value")
        kernels = map(dense, jnp.split(weights["mixer.Wqkv.weight"], 3))
        attention = {"output": output, **dict(zip(names, kernels, strict=True))}
        return {"attention_norm": scale("norm1"), "attention": attention, **parts}

    inner = weights["mixer.norm.weight"].shape[0]
    state_width = (weights["mixer.conv1d.bias"].shape[0] - inner) // 2
    convolved = np.cumsum([inner, state_width])
    mixer: dict[str, Any] = {
        "step_bias": weights["mixer.dt_bias"],
        "log_rate": weights["mixer.A_log"],
        "skip": weights["mixer.D"],
        "norm": scale("mixer.norm"),
        "output": output,
    }
    borders = np.cumsum([inner, inner, state_width, state_width])
    projections = jnp.split(weights["mixer.in_proj.weight"], borders)
    for name, part in zip(("gate", "value", "key", "query", "step"), projections, strict=True):
        mixer[name] = dense(part)
    kernels = jnp.split(weights["mixer.conv1d.weight"][:, 0].T, convolved, axis=1)
    biases = jnp.split(weights["mixer.conv1d.bias"], convolved)
    for name, kernel, bias in zip(("value", "key", "query"), kernels, biases, strict=True):
        mixer[f"{name}_convolution"] = {"kernel": kernel, "bias": bias}
    return {"mixer_norm": scale("norm1"), "mixer": mixer, **parts}


def block_graph(config: BlockConfig | Mamba2Config, case: Case) -> nnx.GraphDef:
    """The graph of the config's block, which has just the parameters that the weights become."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(block_parameters, case.param))
    assert shapes == jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    return graphdef


def documents(case: Case) -> np.ndarray:
    """The document ids of row 0 when it is packed, `[1, T]`."""
    borders = case.input["packed_cu_seqlens"]
    return np.repeat(np.arange(1, len(borders)), np.diff(borders))[None].astype(np.int32)
