"""Decoders of tokens in Hugging Face's formats: Llama, Mistral, Qwen 2, Qwen 3 and OLMo 2.

All are the flat Transformer of `bytelm.models.transformer`. Qwen 2 has biases of queries, keys and
values; Qwen 3 normalises each head of queries and keys; OLMo 2 normalises all heads together, and
what attention and MLP give in place of what they read; Mistral may have a window.

The published tables have a row for each token, and often some more. START is read as the token
`bos_token_id` (without one, as the end), and END is the first `eos_token_id`
(`FlatConfig.end_row`). A model that was trained here has END, START and PAD of its own. It is
written with one further token for the first two: START is only read, and END only predicted.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.models.released.format import (
    SAME,
    TRANSPOSED,
    Form,
    Path,
    Shape,
    Tensor,
    WrittenFormat,
    whole,
)
from bytelm.models.transformer import TransformerConfig

_PLAIN: dict[str, Any] = {
    "qkv_bias": False,
    "qk_norm": False,
    "qk_norm_over": "head",
    "norm_after": False,
}
_KINDS: dict[str, dict[str, Any]] = {
    "llama": _PLAIN,
    "mistral": _PLAIN,
    "qwen2": {**_PLAIN, "qkv_bias": True},
    "qwen3": {**_PLAIN, "qk_norm": True},
    "olmo2": {**_PLAIN, "qk_norm": True, "qk_norm_over": "all", "norm_after": True},
}
"""The options of the blocks of each `model_type`."""
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}
_SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocabulary",
}
"""Our name for each size in config.json."""
_WITHOUT = ("attention_bias", "mlp_bias", "use_sliding_window", "quantization_config")
"""Fields of config.json that must be missing, null or false."""
_SCALING = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)
"""What the rotary positions of Llama 3.1 say, in the order of `rope_scaling`."""
_ROPE_THETA = 10_000.0
"""For a config.json without one."""


class DecoderFormat(WrittenFormat[TransformerConfig]):
    """The formats of all `_KINDS`."""

    name = "Llama, Mistral, Qwen 2, Qwen 3, OLMo 2"
    model = TransformerConfig
    has_tokenizer = True
    absent: ClassVar[Mapping[str, str]] = {
        "lm_head.weight": "without lm_head.weight the head is the embedding, and "
        "tie_word_embeddings in its config.json is not true"
    }

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        return saved.get("model_type") in tuple(_KINDS)

    def read_config(self, saved: Mapping[str, Any], names: Iterable[str]) -> TransformerConfig:
        kind, rope = saved["model_type"], _rope(saved)
        problems = [
            f"{name} is {saved.get(name)!r} and not a whole number above 0"
            for name in _SIZES
            if type(saved.get(name)) is not int or saved[name] < 1
        ]
        numbers = {"rms_norm_eps": saved.get("rms_norm_eps"), "rope_theta": rope["rope_theta"]}
        problems += _no_numbers(numbers)
        problems += [
            f"{name} is {saved[name]!r}, which is not supported"
            for name in _WITHOUT
            if saved.get(name)
        ]
        problems += _unsupported(saved, rope)
        start, end = _special_tokens(saved)
        problems += [
            f"{name} is {saved.get(name)!r} and not a token"
            for name, token in (("bos_token_id", start), ("eos_token_id", end))
            if type(token) is not int and (name == "eos_token_id" or saved.get(name) is not None)
        ]
        if problems:
            raise UserError(
                f"the checkpoint cannot be converted: in its config.json, {'; '.join(problems)}."
            )
        sizes = {ours: saved[theirs] for theirs, ours in _SIZES.items()}
        head_width = saved.get("head_dim") or sizes["width"] // sizes["heads"]
        try:
            return TransformerConfig(
                **sizes,
                **_KINDS[kind],
                head_width=head_width,
                key_value_heads=saved.get("num_key_value_heads"),
                norm_epsilon=saved["rms_norm_eps"],
                rope_theta=rope["rope_theta"],
                rope_scaling=_scaling(rope),
                window=saved.get("sliding_window") if kind == "mistral" else None,
                tied_head=bool(saved.get("tie_word_embeddings")),
                scaled_head=False,
                start_row=start,
                end_row=end,
            )
        except UserError as error:
            raise UserError(f"the checkpoint's config.json describes no model: {error}") from None

    def with_tokens(self, config: TransformerConfig, tokens: Sequence[bytes]) -> TransformerConfig:
        rows, size = config.vocabulary, len(tokens)
        if size > rows:
            raise UserError(
                f"its tokenizer.json has {size} tokens, and the tables of the model {rows} rows; "
                "take the tokenizer.json that the model was published with."
            )
        assert config.start_row is not None and config.end_row is not None
        if max(config.start_row, config.end_row) >= size:
            raise UserError(
                f"eos_token_id or bos_token_id in its config.json is no token of its "
                f"tokenizer.json, which has {size} tokens."
            )
        if text := tokens[config.end_row]:
            raise UserError(
                f"the token {config.end_row}, eos_token_id in its config.json, is the text "
                f"{text!r} in its tokenizer.json and not a special token."
            )
        return replace(config, vocabulary=size, spare_rows=rows - size)

    def row_length(self, saved: Mapping[str, Any]) -> int | None:
        length = saved.get("max_position_embeddings")
        return length if type(length) is int else None

    def files(self, config: TransformerConfig, row_length: int) -> dict[str, dict[str, Any]]:
        start, end = _written_tokens(config)
        special = {"bos_token_id": start, "eos_token_id": end}
        return {
            "config.json": {**_config_json(config, row_length), **special},
            "generation_config.json": special,
        }

    def note(self, config: TransformerConfig) -> str:
        if config.end_row is None:
            return f"START and END are the token {config.vocabulary} there."
        return (
            f"START is the token {config.start_row} and END the token {config.end_row}, as in "
            "the released model."
        )

    def tensors(self, config: TransformerConfig) -> dict[str, Tensor]:
        tensors = _tables(config)
        tensors["model.norm.weight"] = whole(("final_norm", "scale"), (config.width,))
        for block in range(config.depth):
            layer = f"model.layers.{block}"
            for name, path, shape, form in _of_block(config):
                tensor = whole(("stack", "blocks", *path), shape, form)
                tensors[f"{layer}.{name}"] = tensor._replace(block=block)
            # Old files of Llama have the wavelengths.
            wavelengths = Tensor((config.head_width // 2,), (), written=False)
            tensors[f"{layer}.self_attn.rotary_emb.inv_freq"] = wavelengths
        return tensors


def _rope(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of rotary positions; newer versions have it in one object."""
    found: dict[str, Any] = {"rope_theta": saved.get("rope_theta", _ROPE_THETA)}
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(saved.get(name), dict):
            found |= saved[name]
    return found


def _rope_type(rope: Mapping[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type", "default"))


def _scaling(rope: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(rope[name] for name in _SCALING) if _rope_type(rope) == "llama3" else ()


def _unsupported(saved: Mapping[str, Any], rope: Mapping[str, Any]) -> list[str]:
    scaling = _rope_type(rope)
    problems = [
        f"{name} is {saved[name]!r} and no object"
        for name in ("rope_scaling", "rope_parameters")
        if saved.get(name) is not None and not isinstance(saved[name], dict)
    ]
    if scaling == "llama3":
        problems += _no_numbers({name: rope.get(name) for name in _SCALING})
    elif scaling != "default":
        problems.append(
            f"rotary positions are scaled in a way (rope_type {scaling!r}) that is not supported"
        )
    rotated = rope.get("partial_rotary_factor", saved.get("partial_rotary_factor", 1.0))
    if rotated not in (None, 1.0):
        problems.append(f"partial_rotary_factor is {rotated!r} and not 1")
    if saved.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act is {saved['hidden_act']!r} and not 'silu'")
    layers = saved.get("layer_types") or []
    if not isinstance(layers, list):
        problems.append(f"layer_types is {layers!r} and no list")
    elif saved["model_type"] != "mistral" and any(name != "full_attention" for name in layers):
        names = sorted(set(map(str, layers)))
        problems.append(f"layer_types has {', '.join(names)}, and not only full_attention")
    return problems


def _no_numbers(fields: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {value!r} and not a number"
        for name, value in fields.items()
        if type(value) not in (int, float) or not math.isfinite(value)
    ]


def _special_tokens(saved: Mapping[str, Any]) -> tuple[Any, Any]:
    """The tokens that are START and END."""
    end = saved.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    start = saved.get("bos_token_id")
    return end if start is None else start, end


def _written_tokens(config: TransformerConfig) -> tuple[int | None, int | None]:
    if config.end_row is None:
        return config.vocabulary, config.vocabulary
    return config.start_row, config.end_row


def _kind(config: TransformerConfig) -> str:
    """The `model_type` of a model; UserError if no format can store it."""
    wanted = {name: getattr(config, name) for name in _PLAIN}
    if not config.qk_norm:
        wanted["qk_norm_over"] = "head"
    kinds = [kind for kind, options in _KINDS.items() if options == wanted]
    problems = [f"model.{name} is {value!r}" for name, value in wanted.items()]
    problems = [] if kinds else [f"no format has all of {', '.join(problems)}"]
    if config.window is not None:
        kinds = [kind for kind in kinds if kind == "mistral"]
        problems += [] if kinds else ["model.window is set, which only Mistral's has"]
    if config.mlp != "swiglu":
        problems.append(f"model.mlp is {config.mlp!r} and not 'swiglu'")
    if config.rope_theta is None:
        problems.append("model.rope_theta is not set")
    if config.ngrams:
        problems.append(f"model.ngrams is {config.ngrams} and not empty")
    if problems:
        raise UserError(
            f"the formats of {DecoderFormat.name} cannot store the model: {'; '.join(problems)}."
        )
    return kinds[0]


def _config_json(config: TransformerConfig, row_length: int) -> dict[str, Any]:
    kind, heads, scaling = _kind(config), config.blocks.heads, None
    if config.rope_scaling:
        *factors, length = config.rope_scaling
        numbers = (*factors, int(length))
        scaling = {"rope_type": "llama3", **dict(zip(_SCALING, numbers, strict=True))}
    said = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": heads,
        "num_key_value_heads": config.blocks.key_value_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.blocks.hidden,
        "hidden_act": "silu",
        "vocab_size": _rows(config),
        "max_position_embeddings": row_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": _is_tied(config),
        "attention_bias": False,
    }
    if kind == "mistral":
        said["sliding_window"] = config.window
    return said


def _rows(config: TransformerConfig) -> int:
    """Rows of the published tables; a model with symbols of its own has one for START and END."""
    return config.vocabulary + 1 if config.end_row is None else config.table_rows[1]


def _is_tied(config: TransformerConfig) -> bool:
    """Whether the embedding in the file is the head too."""
    return config.tied_head and not config.scaled_head and config.end_row is not None


def _tables(config: TransformerConfig) -> dict[str, Tensor]:
    shape, table = (_rows(config), config.width), ("embedding", "embedding")
    rows = SAME
    if config.end_row is None:
        size, start = config.symbols.size, config.symbols.start
        rows = _only_written(lambda x: np.concatenate([x[:size], x[start : start + 1]]))
    embedding = whole(table, shape, rows)
    head = whole(("head", "kernel"), shape, TRANSPOSED)
    if _is_tied(config):
        head = embedding._replace(written=False)
    elif config.tied_head:
        scale = np.float32(config.width**-0.5 if config.scaled_head else 1.0)
        outputs = config.table_rows[1]
        head = whole(table, shape, _only_written(lambda x: x[:outputs] * scale))
    return {"model.embed_tokens.weight": embedding, "lm_head.weight": head}


def _only_written(theirs: Any) -> Form:
    """The form of a table of a model that was trained here, which is never read."""
    return Form(SAME.ours, theirs)


def _of_block(config: TransformerConfig) -> Iterator[tuple[str, Path, Shape, Form]]:
    """The tensors of one block: name in it, path, shape in the format, and change of layout."""
    width, hidden, head = config.width, config.blocks.hidden, config.head_width
    inner, shared = config.blocks.heads * head, config.blocks.key_value_heads * head
    names = ("input_layernorm", "post_attention_layernorm")
    if config.norm_after:
        names = ("post_attention_layernorm", "post_feedforward_layernorm")
    for name, norm in zip(names, ("attention_norm", "mlp_norm"), strict=True):
        yield f"{name}.weight", (norm, "scale"), (width,), SAME
    for part, rows in (("query", inner), ("key", shared), ("value", shared)):
        name = f"self_attn.{part[0]}_proj"
        yield f"{name}.weight", ("attention", part, "kernel"), (rows, width), TRANSPOSED
        if config.qkv_bias:
            yield f"{name}.bias", ("attention", part, "bias"), (rows,), SAME
    output = ("attention", "output", "kernel")
    yield "self_attn.o_proj.weight", output, (width, inner), TRANSPOSED
    if config.qk_norm:
        for part, channels in (("query", inner), ("key", shared)):
            channels = channels if config.qk_norm_over == "all" else head
            path = ("attention", f"{part}_norm", "scale")
            yield f"self_attn.{part[0]}_norm.weight", path, (channels,), SAME
    for part in ("gate", "up", "down"):
        shape = (width, hidden) if part == "down" else (hidden, width)
        yield f"mlp.{part}_proj.weight", ("mlp", part, "kernel"), shape, TRANSPOSED
