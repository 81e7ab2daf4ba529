"""The golden vectors of H-Net: their configurations, weights and documents in our layout."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bytelm.core.vocabulary import BYTES, END, UNSCORED
from bytelm.models import Batch
from bytelm.models.hnet import HNet, HNetConfig
from bytelm.nn.layout import Layout
from bytelm.nn.stack import MixedStack
from bytelm.patching.levels import Segmentation, Symbols
from bytelm.patching.router import RouterPatches
from tests.models.golden import Case
from tests.nn.golden_hnet import CHUNK, block_parameters


def golden_config(cfg: Mapping[str, Any], **changes: Any) -> HNetConfig:
    """The model of a case's configuration, with a slot for every symbol."""

    def of_stages(name: str) -> list[Any]:
        return json.loads(cfg[name])

    inside = len(of_stages("d_model")) - 2
    targets = json.loads(cfg.get("ratio_loss_N", json.dumps([6.0] * (inside + 1))))
    weight = cfg.get("ratio_loss_weight", 0.03)
    outer, *inner = (RouterPatches(target=target, weight=weight) for target in targets)
    windows = of_stages("attn_cfg.window_size")
    options: dict[str, Any] = dict(
        compute_dtype="float32",
        layout=cfg["arch_layout"],
        widths=of_stages("d_model"),
        mlp_widths=[128 * -(-width // 128) for width in of_stages("d_intermediate")],
        heads=of_stages("attn_cfg.num_heads"),
        rotary_widths=of_stages("attn_cfg.rotary_emb_dim"),
        windows=[None if window < 0 else window + 1 for window in windows],
        expansion=cfg["ssm_cfg.expand"],
        state_width=cfg["ssm_cfg.d_state"],
        convolution_width=cfg["ssm_cfg.d_conv"],
        chunk=CHUNK,
        segmenter=outer,
        inner_segmenters=tuple(inner),
        bytes_per_slot=1.0,
        patches_per_slot=(1.0,) * inside,
        published_symbols=True,
    )
    return HNetConfig(**options | changes)


def model_parameters(weights: Mapping[str, jax.Array], config: HNetConfig) -> dict[str, Any]:
    """Of the model, from the weights by their official names."""
    stages = {}
    for stage, layouts in enumerate(config.stages):
        network = ".".join(["backbone", *["main_network"] * stage])
        parts: dict[str, Any] = {}
        if f"{network}.pad_dimension" in weights:
            parts["pad"] = weights[f"{network}.pad_dimension"]
        if len(layouts) == 1:
            parts["backbone"] = stack_parameters(weights, f"{network}.main_network", layouts[0])
        else:
            for name, layout in zip(("encoder", "decoder"), layouts, strict=True):
                parts[name] = stack_parameters(weights, f"{network}.{name}", layout)
            router = f"{network}.routing_module"
            parts["segmenter"] = {
                "query": {"kernel": weights[f"{router}.q_proj_layer.weight"].T},
                "key": {"kernel": weights[f"{router}.k_proj_layer.weight"].T},
            }
            parts["residual"] = {
                "kernel": weights[f"{network}.residual_proj.weight"].T,
                "bias": weights[f"{network}.residual_proj.bias"],
            }
        stages[str(stage)] = parts
    embedding = weights["embeddings.weight"]
    head = weights.get("lm_head.weight", embedding).T
    return {"embedding": {"embedding": embedding}, "head": {"kernel": head}, "stages": stages}


def stack_parameters(
    weights: Mapping[str, jax.Array], prefix: str, layout: Layout
) -> dict[str, Any]:
    """Of a `MixedStack`."""
    stacks, first = {}, 0
    for index, (_, count) in enumerate(layout.parts):
        blocks = []
        for layer in range(first, first + count):
            start = f"{prefix}.layers.{layer}."
            names = (name for name in weights if name.startswith(start))
            blocks.append(block_parameters({name[len(start) :]: weights[name] for name in names}))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
        stacks[str(index)] = {"blocks": stacked}
        first += count
    return {"stacks": stacks, "norm": {"scale": weights[f"{prefix}.rmsnorm.weight"]}}


@functools.cache
def golden_graph(case: Case, config: HNetConfig) -> nnx.GraphDef:
    """The graph of the model, which has just the parameters that the weights become."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    parameters = functools.partial(model_parameters, config=config)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(parameters, case.param))
    assert shapes == jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    return graphdef


def document_ids(case: Case) -> np.ndarray:
    """Int32 `[B, T]`, as the case's mode divides its rows."""
    tokens = case.input["tokens"]
    if "cu_seqlens" in case.input:
        lengths = np.diff(case.input["cu_seqlens"])
        return np.repeat(np.arange(1, len(lengths) + 1), lengths)[None].astype(np.int32)
    return case.input.get("mask", np.ones(tokens.shape)).astype(np.int32)


def golden_batch(case: Case) -> Batch:
    return Batch(
        case.input["tokens"],
        np.where(case.input["targets"] < 0, UNSCORED, case.input["targets"]).astype(np.int32),
        document_ids(case),
    )


def official_logits(logits: jax.Array) -> jax.Array:
    """Of the 256 published symbols, `[B, T, BYTES]`: END is their byte 255."""
    return jnp.concatenate([logits[:, :, : BYTES - 1], logits[:, :, END:]], axis=2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """What our model makes of a case."""

    logits: Any  # [B, T, BYTES], of the published symbols
    nats: Any  # [B, T], 0 where there is no target
    loss: Any
    auxiliary: Any  # by name
    stacks: Any  # inputs and outputs of all stacks, in the order in which they run
    cuts: tuple[Segmentation, ...]


def evaluate(
    case: Case, config: HNetConfig, *, gradients: bool = True
) -> tuple[Result, dict[str, Any]]:
    """The result, and the gradients of the loss by the official names if they are wanted."""
    graphdef, run_stack, forward = golden_graph(case, config), MixedStack.__call__, HNet.forward

    def run(weights: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Result]:
        stacks, cuts = [], []

        def recorded(self: MixedStack, x: jax.Array, *args: Any, **options: Any) -> jax.Array:
            y = run_stack(self, x, *args, **options)
            stacks.append((x, y))
            return y

        def cut(self: HNet, symbols: Symbols) -> Any:
            found = forward(self, symbols)
            cuts.extend(found[2])
            return found

        model = nnx.merge(graphdef, model_parameters(weights, config))
        with (
            mock.patch.object(MixedStack, "__call__", recorded),
            mock.patch.object(HNet, "forward", cut),
        ):
            output = model(batch)
        logits, scored = official_logits(output.logits), batch.targets >= 0
        targets = jnp.where(scored, batch.targets, 0)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        nats = jnp.where(scored, nats, 0)
        auxiliary = [loss.weight * loss.value for loss in output.auxiliary_losses.values()]
        loss = nats.sum() / scored.sum() + sum(auxiliary)
        return loss, Result(logits, nats, loss, output.auxiliary_losses, stacks, tuple(cuts))

    if not gradients:
        return jax.device_get(jax.jit(run)(case.param, golden_batch(case)))[1], {}
    gradient = jax.jit(jax.grad(run, has_aux=True))
    grad, result = jax.device_get(gradient(case.param, golden_batch(case)))
    return result, grad
