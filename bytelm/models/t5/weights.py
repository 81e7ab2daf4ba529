"""ByT5 and MrT5 in the format of Hugging Face's T5: its tensors and its config.json.

T5 has one tensor for each block, linear maps `[d_out, d_in]`, and tables in the order of its ids.
Here blocks are stacked, kernels are `[d_in, d_out]`, and tables are in the order of our symbols
(`encoder_decoder.T5_IDS`). Values are only rearranged, so converting there and back gives the same
bits. MrT5 also has the tensors of its delete gate, named after the block that follows it, and
fields of its own in config.json, as in its authors' code.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bytelm.core.errors import UserError
from bytelm.models.encoder_decoder import T5_IDS, VOCABULARY
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
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Other names of `shared.weight`, which files may have in addition to it or in its place."""
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
"""A tensor of old files that T5 does not use."""
_GATE_NAME = re.compile(r"encoder\.block\.(\d+)\.delete_gate\.")
"""The start of the names of a delete gate's tensors, with its block."""


class _Form(NamedTuple):
    """A change of layout: `ours` converts from T5's layout to ours, `theirs` back."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


_SAME = _Form(lambda x: x, lambda x: x)
_KERNEL = _Form(np.transpose, np.transpose)
_TABLE = _Form(lambda x: x[T5_IDS], lambda x: x[_SYMBOLS])
_HEAD = _Form(lambda x: x[T5_IDS].T, lambda x: x.T[_SYMBOLS])
_ONE_ROW = _Form(lambda x: x[0], lambda x: x[None])


class _Tensor(NamedTuple):
    """Where a tensor of T5 is stored here."""

    path: tuple[str, ...]  # of our parameter
    shape: tuple[int, ...]  # in T5's format
    form: _Form  # its change of layout
    block: int | None = None  # its index in a stacked parameter; None in one that is not stacked


def from_t5(weights: Mapping[str, np.ndarray], config: ByT5Config) -> dict[str, Any]:
    """Our parameters, a nested dict of float32 arrays, from T5's tensors of any dtype.

    Raises UserError, which names the tensors that are missing, unexpected or of another shape.
    """
    tensors = _tensors(config)
    weights = _with_shared(weights)
    _check(weights, tensors)
    found = defaultdict(list)
    for name, tensor in tensors.items():
        found[tensor.path].append(tensor.form.ours(np.asarray(weights[name], np.float32)))
    stacked = {tensor.path for tensor in tensors.values() if tensor.block is not None}
    return unflatten_dict(
        {
            path: np.stack(arrays) if path in stacked else np.asarray(arrays[0])
            for path, arrays in found.items()
        }
    )


def to_t5(params: Mapping[str, Any], config: ByT5Config) -> dict[str, np.ndarray]:
    """T5's tensors, in C order, from our parameters; UserError if they have no form in T5."""
    ours = flatten_dict(params)
    weights = {}
    for name, tensor in _tensors(config).items():
        value = np.asarray(ours[tensor.path])
        value = value if tensor.block is None else value[tensor.block]
        weights[name] = np.ascontiguousarray(tensor.form.theirs(value))
    return weights


def config_from_t5(saved: Mapping[str, Any], names: Iterable[str]) -> ByT5Config:
    """The config of a checkpoint, an `MrT5Config` if it has a delete gate.

    From its config.json and the names of its tensors. Raises UserError, which names the
    differences, for another architecture.
    """
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
    if said["model_type"] not in ("t5", "mrt5"):
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
    softmax1 = bool(said.get("use_softmax1"))
    if not blocks:
        return ByT5Config(**sizes, softmax1=softmax1)
    gate = GateShortening(floor=floor, noise=bool(said.get("use_gumbel_noise")))
    return MrT5Config(**sizes, softmax1=softmax1, gate_depth=blocks[0], shortening=gate)


def config_to_t5(config: ByT5Config) -> dict[str, Any]:
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


def _tensors(config: ByT5Config) -> dict[str, _Tensor]:
    """All of T5's tensors for the model, by name; those of a stack in the order of its blocks."""
    width, table = config.width, (VOCABULARY, config.width)
    tensors = {
        "shared.weight": _Tensor(("embedding", "embedding"), table, _TABLE),
        "lm_head.weight": _Tensor(("head", "kernel"), table, _HEAD),
    }
    for side, depth in (("encoder", config.encoder_depth), ("decoder", config.decoder_depth)):
        biases = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        tensors[biases] = _Tensor((f"{side}_bias", "table"), (BUCKETS, config.heads), _SAME)
        norm = _Tensor((f"{side}_norm", "scale"), (width,), _SAME)
        tensors[f"{side}.final_layer_norm.weight"] = norm
        for block in range(depth):
            for name, tensor in _of_block(config, cross=side == "decoder"):
                path = (side, "blocks", *tensor.path)
                name = f"{side}.block.{block}.layer.{name}.weight"
                tensors[name] = tensor._replace(path=path, block=block)
    if isinstance(config, MrT5Config):
        _gate(config)
        gate = f"encoder.block.{config.gate_depth}.delete_gate"
        tensors |= {
            f"{gate}.layer_norm.weight": _Tensor(("shortener", "norm", "scale"), (width,), _SAME),
            f"{gate}.feed_forward.weight": _Tensor(("shortener", "kernel"), (1, width), _ONE_ROW),
            f"{gate}.feed_forward.bias": _Tensor(("shortener", "bias"), (1,), _ONE_ROW),
        }
    return tensors


def _of_block(config: ByT5Config, *, cross: bool) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of one block, with their names in it."""
    width, inner = config.width, config.heads * config.head_width
    branches = [("attention", "SelfAttention"), ("cross", "EncDecAttention")][: 2 if cross else 1]
    for layer, (ours, theirs) in enumerate(branches):
        yield f"{layer}.layer_norm", _Tensor((f"{ours}_norm", "scale"), (width,), _SAME)
        for part in ("query", "key", "value", "output"):
            shape = (width, inner) if part == "output" else (inner, width)
            yield f"{layer}.{theirs}.{part[0]}", _Tensor((ours, part, "kernel"), shape, _KERNEL)
    layer = len(branches)
    yield f"{layer}.layer_norm", _Tensor(("mlp_norm", "scale"), (width,), _SAME)
    for part, theirs in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
        shape = (width, config.mlp_width) if part == "down" else (config.mlp_width, width)
        name = f"{layer}.DenseReluDense.{theirs}"
        yield name, _Tensor(("mlp", part, "kernel"), shape, _KERNEL)


def _with_shared(weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors, with the embedding under its own name if it has only another one."""
    copies = [weights[name] for name in _COPIES if name in weights]
    return {"shared.weight": copies[0], **weights} if copies else weights


def _check(weights: Mapping[str, np.ndarray], tensors: Mapping[str, _Tensor]) -> None:
    missing = [name for name in tensors if name not in weights]
    unexpected = [
        name for name in weights if name not in tensors and name not in (*_COPIES, _UNUSED)
    ]
    differing = [
        f"{name} has the shape {list(weights[name].shape)} and not {list(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    differing += [
        f"{name} differs from the other embeddings, though T5 shares them"
        for name in _COPIES
        if name in weights
        and not np.array_equal(weights[name], weights["shared.weight"], equal_nan=True)
    ]
    problems = [
        f"{what}{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in (("missing ", missing), ("unexpected ", unexpected), ("", differing))
        if names
    ]
    if "lm_head.weight" in missing:
        problems.append("without lm_head.weight the embeddings are tied, unlike ByT5's")
    if problems:
        raise UserError(f"the tensors do not fit its config.json: {'; '.join(problems)}.")
