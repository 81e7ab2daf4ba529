"""ByT5 and MrT5 in the format of Hugging Face's T5: its tensors and its config.json.

T5 has one tensor for each block, linear maps `[d_out, d_in]`, and tables in the order of its ids.
Here blocks are stacked, kernels are `[d_in, d_out]`, and tables are in the order of our symbols
(`encoder_decoder.T5_IDS`). MrT5 also has the tensors of its delete gate, named after the block that
follows it, and fields of its own in config.json, as in its authors' code.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.models.encoder_decoder import T5_IDS, VOCABULARY
from bytelm.models.released.format import SAME, TRANSPOSED, Form, Tensor, WrittenFormat, whole
from bytelm.models.t5.blocks import BUCKETS, FARTHEST
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening

_SYMBOLS = np.argsort(T5_IDS)
"""The row of our tables for each T5 id."""
_SIZES = {
    "d_model": "width",
    "num_layers": "encoder_depth",
    "num_decoder_layers": "decoder_depth",
    "num_heads": "heads",
    "d_kv": "head_width",
    "d_ff": "mlp_width",
}
"""Our name for each size in config.json."""
_FIXED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "relative_attention_num_buckets": BUCKETS,
    "relative_attention_max_distance": FARTHEST,
    "layer_norm_epsilon": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
"""Fields of config.json that every ByT5 has."""
_T5_DEFAULTS = {"vocab_size": 32128, "feed_forward_proj": "relu", "tie_word_embeddings": True}
"""T5's defaults for fields missing from config.json, where they differ from a ByT5's."""
_TYPES = ("t5", "mrt5")
"""Values of `model_type`."""
_GENERATION = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
_TOKENIZER = {
    "tokenizer_class": "ByT5Tokenizer",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "extra_ids": 125,
}
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Other names of `shared.weight`, which files may have in addition to it or in its place."""
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
"""A tensor of old files that T5 does not use."""
_GATE_NAME = re.compile(r"encoder\.block\.(\d+)\.delete_gate\.")
"""The start of the names of a delete gate's tensors, with its block."""


_TABLE = Form(lambda x: x[T5_IDS], lambda x: x[_SYMBOLS])
_HEAD = Form(lambda x: x[T5_IDS].T, lambda x: x.T[_SYMBOLS])
_ONE_ROW = Form(lambda x: x[0], lambda x: x[None])


class T5Format(WrittenFormat[ByT5Config]):
    """Hugging Face's T5."""

    name = "T5"
    model = ByT5Config
    absent: ClassVar[Mapping[str, str]] = {
        "lm_head.weight": "without lm_head.weight the embeddings are tied, unlike ByT5's"
    }

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        return saved.get("model_type", "t5" if "d_kv" in saved else None) in _TYPES

    def read_config(self, saved: Mapping[str, Any], names: Iterable[str]) -> ByT5Config:
        """An `MrT5Config` if there is a delete gate."""
        said = {"model_type": "t5", **_FIXED, **_T5_DEFAULTS, **saved}
        # In newer versions of Hugging Face's code, this field says whether the head is T5 v1.1's.
        said["tie_word_embeddings"] = said.get("scale_decoder_outputs", said["tie_word_embeddings"])
        said["num_decoder_layers"] = said.get("num_decoder_layers") or said.get("num_layers")
        blocks = sorted({int(found[1]) for name in names if (found := _GATE_NAME.match(name))})
        wanted = dict(_FIXED)
        floor = said.get("sigmoid_mask_scale")
        floor = floor if isinstance(floor, int | float) else GateShortening.floor
        if blocks:
            wanted |= _gate_fields(floor)
            said |= {name: wanted[name] for name in _gate_fields(floor) if said.get(name) is None}
        differing = [
            f"{name} is {said[name]!r} and not {value!r}"
            for name, value in wanted.items()
            if said[name] != value
        ]
        differing += [
            f"{name} is {said.get(name)!r} and not a whole number"
            for name in _SIZES
            if type(said.get(name)) is not int
        ]
        if said["model_type"] not in _TYPES:
            differing.insert(0, f"model_type is {said['model_type']!r} and not 't5' or 'mrt5'")
        if said["model_type"] == "mrt5" and not blocks:
            differing.append("model_type is 'mrt5' and there are no tensors of a delete gate")
        if len(blocks) > 1:
            differing.append(f"there are delete gates at blocks {', '.join(map(str, blocks))}")
        if differing:
            raise UserError(
                f"the checkpoint is not a ByT5 or MrT5: in its config.json, {'; '.join(differing)}."
            )
        sizes = {ours: said[theirs] for theirs, ours in _SIZES.items()}
        # The class of MrT5's released folders always has it, and saves no such field.
        softmax1 = bool(said.get("use_softmax1", said["model_type"] == "mrt5"))
        if not blocks:
            return ByT5Config(**sizes, softmax1=softmax1)
        gate = GateShortening(floor=floor, noise=bool(said.get("use_gumbel_noise")))
        return MrT5Config(**sizes, softmax1=softmax1, gate_depth=blocks[0], shortening=gate)

    def files(self, config: ByT5Config, row_length: int) -> dict[str, dict[str, Any]]:
        # START and the targets of a row. Without a length, `transformers` stops after 19 bytes.
        return {
            "config.json": _config_json(config),
            "generation_config.json": {**_GENERATION, "max_length": 1 + row_length},
            "tokenizer_config.json": _TOKENIZER,
        }

    def lost(self, config: ByT5Config) -> str:
        if not (isinstance(config, MrT5Config) or config.softmax1):
            return ""
        return (
            "transformers computes it as a plain T5, without the delete gate and softmax1; the "
            "code of MrT5's authors has both"
        )

    def tensors(self, config: ByT5Config) -> dict[str, Tensor]:
        width, table = config.width, (VOCABULARY, config.width)
        embedding = whole(("embedding", "embedding"), table, _TABLE)
        tensors = {
            "shared.weight": embedding,
            "lm_head.weight": whole(("head", "kernel"), table, _HEAD),
        }
        tensors |= dict.fromkeys(_COPIES, embedding._replace(written=False))
        tensors[_UNUSED] = Tensor((BUCKETS, config.heads), (), written=False)
        for side, depth in (("encoder", config.encoder_depth), ("decoder", config.decoder_depth)):
            biases = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            tensors[biases] = whole((f"{side}_bias", "table"), (BUCKETS, config.heads))
            tensors[f"{side}.final_layer_norm.weight"] = whole((f"{side}_norm", "scale"), (width,))
            for block in range(depth):
                for name, path, shape, form in _of_block(config, cross=side == "decoder"):
                    tensor = whole((side, "blocks", *path), shape, form)._replace(block=block)
                    tensors[f"{side}.block.{block}.layer.{name}.weight"] = tensor
        if isinstance(config, MrT5Config):
            _gate(config)
            gate = f"encoder.block.{config.gate_depth}.delete_gate"
            tensors |= {
                f"{gate}.layer_norm.weight": whole(("shortener", "norm", "scale"), (width,)),
                f"{gate}.feed_forward.weight": whole(("shortener", "kernel"), (1, width), _ONE_ROW),
                f"{gate}.feed_forward.bias": whole(("shortener", "bias"), (1,), _ONE_ROW),
            }
        return tensors


def _config_json(config: ByT5Config) -> dict[str, Any]:
    """The config.json of a model; UserError if T5's format cannot store it.

    `transformers` has neither delete gates nor `use_softmax1`, and ignores their fields.
    """
    said = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "tokenizer_class": "ByT5Tokenizer",
        "is_encoder_decoder": True,
        "use_cache": True,
        "dropout_rate": 0.1,
        "initializer_factor": 1.0,
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        **_FIXED,
        "use_softmax1": config.softmax1,
    }
    if isinstance(config, MrT5Config):
        gate = _gate(config)
        said |= {
            "architectures": ["MrT5ForConditionalGeneration"],
            "model_type": "mrt5",
            "delete_gate_layer": config.gate_depth,
            **_gate_fields(gate.floor),
            "use_gumbel_noise": gate.noise,
        }
    return said


def _gate_fields(floor: float) -> dict[str, Any]:
    """Fields of config.json for a delete gate that has this value when closed."""
    return {
        "deletion_type": "scaled_sigmoid",
        "gate_layer_norm": True,
        "sigmoid_mask_scale": floor,
        "deletion_threshold": floor / 2,
    }


def _gate(config: MrT5Config) -> GateShortening:
    """The gate that shortens the rows; UserError for other kinds, which T5 lacks."""
    if isinstance(config.shortening, GateShortening):
        return config.shortening
    raise UserError(
        f"model.shortening.kind is {config.shortening.kind}, which T5's format cannot store; only "
        "ByT5, and MrT5 with a gate, can be converted to it."
    )


def _of_block(
    config: ByT5Config, *, cross: bool
) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...], Form]]:
    """The tensors of one block: name in it, path, shape in T5's layout, and change of layout."""
    width, inner = config.width, config.heads * config.head_width
    branches = [("attention", "SelfAttention"), ("cross", "EncDecAttention")][: 2 if cross else 1]
    for layer, (ours, theirs) in enumerate(branches):
        yield f"{layer}.layer_norm", (f"{ours}_norm", "scale"), (width,), SAME
        for part in ("query", "key", "value", "output"):
            shape = (width, inner) if part == "output" else (inner, width)
            yield f"{layer}.{theirs}.{part[0]}", (ours, part, "kernel"), shape, TRANSPOSED
    layer = len(branches)
    yield f"{layer}.layer_norm", ("mlp_norm", "scale"), (width,), SAME
    for part, theirs in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
        shape = (width, config.mlp_width) if part == "down" else (config.mlp_width, width)
        yield f"{layer}.DenseReluDense.{theirs}", ("mlp", part, "kernel"), shape, TRANSPOSED
