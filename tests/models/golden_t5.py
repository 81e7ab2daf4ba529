"""Golden ByT5 and MrT5: the authors' weights in our layout, and what our models make of them."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import PAD, START, UNSCORED
from bytelm.models import Batch
from bytelm.models.encoder_decoder import T5_IDS
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from tests.models import golden

SYMBOLS = np.argsort(T5_IDS).astype(np.int32)
"""Our symbol for each T5 id."""


def is_mrt5(file: Any) -> bool:
    return "cfg.delete_gate_layer" in file and "in.input_ids" in file


def is_byt5(file: Any) -> bool:
    return "cfg.delete_gate_layer" not in file and "in.input_ids" in file


def config(case: golden.Case, *, softmax1: bool = False) -> ByT5Config:
    cfg = case.cfg
    sizes = {
        "width": cfg["d_model"],
        "encoder_depth": cfg["num_layers"],
        "decoder_depth": cfg["num_decoder_layers"],
        "heads": cfg["num_heads"],
        "head_width": cfg["d_kv"],
        "mlp_width": cfg["d_ff"],
        "softmax1": softmax1,
    }
    if "delete_gate_layer" not in cfg:
        return ByT5Config(**sizes)
    # The authors' loss is of the mean gate times alpha.
    gate = GateShortening(floor=cfg["sigmoid_mask_scale"], weight=cfg["alpha"])
    return MrT5Config(**sizes, gate_depth=cfg["delete_gate_layer"], shortening=gate)


def parameters(weights: dict[str, jax.Array], config: ByT5Config) -> dict[str, Any]:
    """Our parameters from weights by their names in Hugging Face's T5."""

    def stack(side: str, depth: int, cross: bool) -> dict[str, Any]:
        def stacked(name: str) -> jax.Array:
            return jnp.stack([weights[f"{side}.block.{i}.layer.{name}"] for i in range(depth)])

        def dense(name: str) -> dict[str, jax.Array]:
            return {"kernel": stacked(f"{name}.weight").swapaxes(1, 2)}

        def attention(name: str) -> dict[str, Any]:
            parts = {"query": "q", "key": "k", "value": "v", "output": "o"}
            return {ours: dense(f"{name}.{theirs}") for ours, theirs in parts.items()}

        def norm(layer: int) -> dict[str, jax.Array]:
            return {"scale": stacked(f"{layer}.layer_norm.weight")}

        mlp = 2 if cross else 1
        block = {
            "attention_norm": norm(0),
            "attention": attention("0.SelfAttention"),
            "mlp_norm": norm(mlp),
            "mlp": {
                "gate": dense(f"{mlp}.DenseReluDense.wi_0"),
                "up": dense(f"{mlp}.DenseReluDense.wi_1"),
                "down": dense(f"{mlp}.DenseReluDense.wo"),
            },
        }
        if cross:
            block |= {"cross_norm": norm(1), "cross": attention("1.EncDecAttention")}
        return {"blocks": block}

    table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found = {
        "embedding": {"embedding": weights["shared.weight"][T5_IDS]},
        "head": {"kernel": weights["lm_head.weight"][T5_IDS].T},
        "encoder": stack("encoder", config.encoder_depth, False),
        "decoder": stack("decoder", config.decoder_depth, True),
        "encoder_bias": {"table": weights[f"encoder.{table}"]},
        "decoder_bias": {"table": weights[f"decoder.{table}"]},
        "encoder_norm": {"scale": weights["encoder.final_layer_norm.weight"]},
        "decoder_norm": {"scale": weights["decoder.final_layer_norm.weight"]},
    }
    if isinstance(config, MrT5Config):
        gate = f"encoder.block.{config.gate_depth}.delete_gate"
        found["shortener"] = {
            "norm": {"scale": weights[f"{gate}.layer_norm.weight"]},
            "kernel": weights[f"{gate}.feed_forward.weight"][0],
            "bias": weights[f"{gate}.feed_forward.bias"][0],
        }
    return found


def batch(case: golden.Case) -> Batch:
    """The case's rows in our symbols. A padding id that no mask hides becomes START."""
    ids, labels = case.input["input_ids"], case.input["labels"]
    mask = case.input.get("attention_mask", np.ones_like(ids))
    inputs = np.where(mask > 0, SYMBOLS[ids], PAD)
    scored = labels >= 0
    targets = np.where(scored, SYMBOLS[np.where(scored, labels, 0)], UNSCORED)
    # Their decoder reads the padding id, the same as at the start, where there is no label.
    read = np.where(scored, targets, START)
    decoder_ids = np.pad(read[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    arrays = (decoder_ids, targets, scored)
    return Batch(*(x.astype(np.int32) for x in arrays), inputs=inputs.astype(np.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """What our model makes of a case.

    `grad` is of the loss with the auxiliary ones, of soft deletion with the ordinary softmax.
    """

    logits: Any
    loss: Any
    total_loss: Any
    states: Any
    reading: Any
    gate_logits: Any
    gate_input: Any
    grad: Any


@functools.cache
def evaluate(path: Any, *, hard: bool = False, softmax1: bool = False) -> Result:
    case = golden.load(path)
    ours = config(case, softmax1=softmax1)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ours.build(nnx.Rngs(0))))
    make = functools.partial(parameters, config=ours)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(make, case.param))
    assert shapes == jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    rows = batch(case)

    def run(weights: dict[str, jax.Array]) -> tuple[jax.Array, Result]:
        model = nnx.merge(graphdef, make(weights))
        reading = model.read(rows.inputs)
        encoded = model.encode(reading, rows.inputs.shape[1] if hard else None)
        logits = model.decode(rows.ids, encoded)
        scored = rows.targets != UNSCORED
        nats = -jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.maximum(rows.targets, 0)[..., None], axis=2
        )[..., 0]
        loss = jnp.where(scored, nats, 0).sum() / scored.sum()
        total = loss + sum(reading.losses.values())
        gate_logits = model.shortener.logits(reading.states) if reading.losses else None
        return total, Result(
            logits, loss, total, encoded.states, reading, gate_logits, reading.states, None
        )

    if hard or softmax1:
        return jax.device_get(jax.jit(run)(case.param)[1])
    grad, result = jax.device_get(jax.jit(jax.grad(run, has_aux=True))(case.param))
    return dataclasses.replace(result, grad=grad)


def by_t5_id(logits: np.ndarray) -> np.ndarray:
    """Logits `[..., 384]` in the order of T5's ids."""
    return logits[..., SYMBOLS]
