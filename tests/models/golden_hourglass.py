"""Golden vectors of the hourglass: dynamic token pooling and FLEXITOKENS, their weights in ours.

The authors read and predict all their symbols alike, so that the model of a case has their
vocabulary in place of ours; `golden` says where the files are.
"""

import json
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bytelm.core.vocabulary import UNSCORED
from bytelm.models import Batch, dynamic_pooling
from bytelm.models.dynamic_pooling import DynamicPooling, DynamicPoolingConfig
from bytelm.nn.stack import Stack
from bytelm.patching import learned
from bytelm.patching.learned import (
    Band,
    EntropyPatches,
    FlexitokensPatches,
    GumbelPatches,
    LearnedSegmenter,
)
from bytelm.patching.predictor import binomial_prior
from bytelm.patching.segmenter import FixedPatches, RulePatches, RuleSegmenter
from tests.models import golden


class BinomialFlexitokens(FlexitokensPatches):
    """The alternative that FLEXITOKENS is compared with: a binomial prior for each script."""

    def loss(self, boundaries, seen):
        rates = jnp.array([band.rate for band in self.bands])[seen.scripts[:, 0]]
        return binomial_prior(boundaries.values, seen.counted, rates), seen.counted.sum()


def segmenter(cfg):
    """The case's segmenter."""
    if "scripts" in cfg:
        names = cfg["scripts"].split(",")
        bands = zip(names, cfg["script_alpha"], cfg["script_sigma"], strict=True)
        return (BinomialFlexitokens if cfg["use_binomial"] else FlexitokensPatches)(
            temperature=cfg["temp"],
            width=cfg["s_lower_bound"],
            bands=tuple(Band(*band) for band in bands),
            hidden=cfg["d_inner"],
            published=True,
        )
    options = {"hidden": cfg["d_inner"], "published": True}
    kinds = {
        "whitespaces": lambda: RulePatches("space"),
        "fixed": lambda: FixedPatches(cfg["fixed_sf"]),
        "gumbel": lambda: GumbelPatches(cfg["prior"], temperature=cfg["temp"], **options),
        "entropy": lambda: EntropyPatches(left=cfg["spikes_left"], **options),
    }
    return kinds[cfg["boundaries_type"]]()


def config(case):
    """The case's model."""
    cfg = case.cfg
    pre, (shortened,), post = json.loads(cfg["model_config"].replace("(", "[").replace(",)", "]"))
    return DynamicPoolingConfig(
        compute_dtype="float32",
        bytes_per_slot=1.0,
        head_width=cfg["d_head"],
        heads=cfg["n_head"],
        mlp=cfg["activation_function"],
        width=cfg["d_model"],
        mlp_width=cfg["d_inner"],
        pre_depth=pre,
        backbone_depth=shortened,
        post_depth=post,
        segmenter=segmenter(cfg),
        boundary_gradient="published",
        published_blocks=True,
    )


def stack_parameters(weights, prefix):
    """Of a `Stack` of `RelativeBlock`s, from the layers `prefix.0`, `prefix.1` and so on."""
    depth = len({name.split(".")[2] for name in weights if name.startswith(prefix)})

    def stacked(name):
        return jnp.stack([weights[f"{prefix}.{layer}.{name}"] for layer in range(depth)])

    def dense(name):
        return {"kernel": stacked(f"{name}.weight").swapaxes(1, 2), "bias": stacked(f"{name}.bias")}

    def norm(name):
        return {"scale": stacked(f"{name}.weight"), "bias": stacked(f"{name}.bias")}

    joint = dense("dec_attn.qkv_net")
    kernels, biases = (jnp.split(joint[part], 3, axis=-1) for part in ("kernel", "bias"))
    query, key, value = ({"kernel": k, "bias": b} for k, b in zip(kernels, biases, strict=True))
    return {
        "blocks": {
            "query": query,
            "key": key,
            "value": value,
            "distance": dense("dec_attn.r_net"),
            "output": dense("dec_attn.o_net"),
            "attention_norm": norm("dec_attn.layer_norm"),
            "up": dense("pos_ff.CoreNet.0"),
            "down": dense("pos_ff.CoreNet.3"),
            "mlp_norm": norm("pos_ff.layer_norm"),
        }
    }


def linear(weights, name):
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def predictor_parameters(weights):
    """Of a `BoundaryPredictor`; none where the case has none."""
    names = [name for name in weights if name.endswith("boundary_predictor.0.weight")]
    if not names:
        return {}
    prefix = names[0].removesuffix(".0.weight")
    up, down = linear(weights, f"{prefix}.0"), linear(weights, f"{prefix}.2")
    return {"segmenter": {"predictor": {"up": up, "down": down}}}


def parameters(weights):
    """From the golden weights, by name, to the parameters of our model."""
    return {
        "embedding": {"embedding": weights["word_emb.weight"]},
        "pre": stack_parameters(weights, "layers.0"),
        "backbone": stack_parameters(weights, "layers.1"),
        "post": stack_parameters(weights, "layers.2"),
        "content_bias": weights["r_w_bias"],
        "position_bias": weights["r_r_bias"],
        "null_group": weights["null_group"][0, 0],
        "down_norm": {"scale": weights["down_ln.weight"], "bias": weights["down_ln.bias"]},
        "head": linear(weights, "final_cast"),
        **predictor_parameters(weights),
    }


def batch(case):
    """The case's rows, one document each; the last positions are scored."""
    if "input_ids" in case.input:
        rows = case.input["input_ids"]
        ids = rows[:, 1:]
        targets = np.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=UNSCORED)
        scripts = np.broadcast_to(rows[:, :1] - case.cfg["first_script_id"], ids.shape)
        return Batch(ids, targets, np.ones_like(ids), scripts)
    ids, targets = case.input["data"].T, case.input["target"].T
    unscored = ids.shape[1] - targets.shape[1]
    targets = np.pad(targets, ((0, 0), (unscored, 0)), constant_values=UNSCORED)
    return Batch(ids, targets, np.ones_like(ids))


def evaluate(case) -> dict[str, Any]:
    """What our model makes of a case, by the names of the golden results; and gradients.

    Arrays are row-first. `stacks` are input and output of the three stacks, `boundaries` the
    segmenter's, `shortened` what the backbone's norm is given.
    """
    size = case.cfg["n_token"]
    recorded: dict[str, Any] = {}
    run_stack, slots = Stack.__call__, DynamicPooling._with_null
    find = {kind: kind.__call__ for kind in (LearnedSegmenter, RuleSegmenter)}
    whole = "input_ids" in case.input

    def stack(self, x, *args, **kwargs):
        y = run_stack(self, x, *args, **kwargs)
        recorded.setdefault("stacks", []).append((x, y))
        return y

    def found(self, *args, **kwargs):
        boundaries, carry = find[type(self)](self, *args, **kwargs)
        recorded["boundaries"] = boundaries._asdict()
        return boundaries, carry

    def counted(rows):
        # FLEXITOKENS counts the boundaries of all positions, also that of the last symbol.
        return rows.document_ids > 0 if whole else rows.targets != UNSCORED

    def shortened(self, y, null, dtype):
        null_group = self.null_group[...][None, None]
        recorded["shortened"] = jnp.where(null[:, :, None], null_group, y)
        return slots(self, y, null, dtype)

    def run(weights, rows):
        graphdef, _ = nnx.split(nnx.eval_shape(lambda: config(case).build(nnx.Rngs(0))))
        recorded.clear()
        output = nnx.merge(graphdef, parameters(weights))(rows)
        scored = rows.targets != UNSCORED
        nats = optax.softmax_cross_entropy_with_integer_labels(
            output.logits, jnp.where(scored, rows.targets, 0)
        )
        loss = jnp.where(scored, nats, 0).sum() / scored.sum()
        boundaries = sum(output.auxiliary_losses.values(), start=jnp.zeros(()))
        result = {
            "logits": output.logits,
            "loss_per_token": nats,
            "loss": loss,
            "loss_boundaries": boundaries,
            "total_loss": loss + boundaries,
            "starts": output.patch_starts,
            **recorded,
        }
        return loss + boundaries, result

    uniforms = case.input.get("uniforms")
    with (
        mock.patch.multiple(dynamic_pooling, INPUT_SIZE=size, OUTPUT_SIZE=size),
        mock.patch.object(learned, "uniforms", lambda *_: uniforms),
        mock.patch.object(Stack, "__call__", stack),
        mock.patch.object(LearnedSegmenter, "__call__", found),
        mock.patch.object(RuleSegmenter, "__call__", found),
        mock.patch.object(DynamicPooling, "counted", staticmethod(counted)),
        mock.patch.object(DynamicPooling, "_with_null", shortened),
    ):
        check_shapes(case)
        grad, result = jax.jit(jax.grad(run, has_aux=True))(case.param, batch(case))
    return jax.device_get({**result, "grad": grad})


def check_shapes(case):
    state = nnx.state(nnx.eval_shape(lambda: config(case).build(nnx.Rngs(0))))
    wanted = jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    assert jax.tree.map(jnp.shape, jax.eval_shape(parameters, case.param)) == wanted


def is_full(file):
    return "param.word_emb.weight" in file


def cases(folder, wanted=is_full):
    return golden.cases(folder, wanted)
