"""The config.json of a BLT in Hugging Face's format: read, and written."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bytelm.core.errors import UserError
from bytelm.models.blt import BLTConfig
from bytelm.models.entropy_patches import (
    PUBLISHED_START,
    PUBLISHED_SYMBOLS,
    EntropyModelPatches,
)
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.block import BlockConfig

_EPSILON = BLTConfig.norm_epsilon
_PARTS = ("encoder_config", "decoder_config", "global_config", "patcher_config")
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
)
_FIXED: dict[str, Any] = {
    "patching_mode": "entropy",
    "tie_word_embeddings": False,
    "vocab_size": PUBLISHED_SYMBOLS,
}
"""Fields of config.json that every model has."""
_OPTIONS: dict[str, Any] = {"mlp": "swiglu", "qk_norm": False}
"""Our options that every model has, its patcher too."""
_LAYOUT: dict[str, Any] = {
    "pooling": ("max",),
    "encoder_cross": "last",
    "encoder_patches": 1,
    "decoder_patches": 1,
    "cross_heads": None,
    "norm": "rms",
    "published_symbols": True,
}
"""Our further options that every model has."""
_PATCHER: dict[str, Any] = {
    # Their ids are its tokens: the last one takes the place of END, so that all are outputs.
    "vocabulary": PUBLISHED_SYMBOLS - 1,
    "spare_rows": 1,
    "end_row": PUBLISHED_SYMBOLS - 1,
    "start_row": PUBLISHED_START,
    "tied_head": False,
    "qkv_bias": False,
    "norm_after": False,
    "ngrams": (),
}
"""Further options of every patcher."""


def read_config(saved: Mapping[str, Any]) -> BLTConfig:
    """The config of a checkpoint; UserError, which names the differences, for another one."""
    _require_known(saved)
    encoder, decoder, backbone, patcher = (saved[part] for part in _PARTS)
    longest = saved.get("max_patch_length")
    segmenter = EntropyModelPatches(
        threshold=saved["patching_threshold"],
        longest_patch=longest if longest and longest > 0 else None,
        published_symbols=True,
        model=TransformerConfig(
            **_OPTIONS,
            **_PATCHER,
            width=patcher["hidden_size"],
            depth=patcher["num_hidden_layers"],
            heads=patcher["num_attention_heads"],
            key_value_heads=patcher["num_key_value_heads"],
            head_width=patcher["hidden_size"] // patcher["num_attention_heads"],
            mlp_width=patcher["intermediate_size"],
            window=patcher.get("sliding_window"),
            norm_epsilon=patcher["rms_norm_eps"],
            rope_theta=_theta(patcher),
        ),
    )
    try:
        return BLTConfig(
            **_OPTIONS,
            **_LAYOUT,
            scaled_init=False,
            local_width=encoder["hidden_size"],
            head_width=encoder["hidden_size"] // encoder["num_attention_heads"],
            local_key_value_heads=encoder["num_key_value_heads"],
            local_mlp_width=encoder["intermediate_size"],
            encoder_depth=encoder["num_hidden_layers"],
            decoder_depth=decoder["num_hidden_layers"],
            decoder_cross="all" if decoder.get("cross_attn_all_layers") else "first",
            window=saved.get("local_attention_window_len"),
            vectors=saved["cross_attn_k"],
            global_width=backbone["hidden_size"],
            global_depth=backbone["num_hidden_layers"],
            global_head_width=backbone["hidden_size"] // backbone["num_attention_heads"],
            global_key_value_heads=backbone["num_key_value_heads"],
            global_mlp_width=backbone["intermediate_size"],
            ngrams=tuple(saved["encoder_hash_byte_group_size"]),
            ngram_functions=saved["encoder_hash_byte_group_nb_functions"],
            ngram_rows=saved["encoder_hash_byte_group_vocab"],
            rope_theta=_theta(encoder),
            segmenter=segmenter,
            bytes_per_slot=1.0,  # no patch is ever refused
        )
    except UserError as error:
        raise UserError(f"the checkpoint's config.json describes no BLT: {error}") from None


def _require_known(saved: Mapping[str, Any]) -> None:
    """Raises UserError for a config.json that asks for what we do not have."""
    parts = {name: saved.get(name) for name in _PARTS}
    problems = [f"{name} is no object" for name, part in parts.items() if type(part) is not dict]
    sizes: list[tuple[str, Any]] = [
        (f"{name}.{field}", part.get(field))
        for name, part in parts.items()
        if isinstance(part, dict)
        for field in _SIZES
    ]
    names = (
        "cross_attn_k",
        "encoder_hash_byte_group_vocab",
        "encoder_hash_byte_group_nb_functions",
    )
    sizes += [(name, saved.get(name)) for name in names]
    problems += [
        f"{n} is {value!r} and not a whole number" for n, value in sizes if not _is_size(value)
    ]
    groups, longest = saved.get("encoder_hash_byte_group_size"), saved.get("max_patch_length")
    if not isinstance(groups, list) or not groups or not all(map(_is_size, groups)):
        problems.append(f"encoder_hash_byte_group_size is {groups!r} and no list of whole numbers")
    if longest is not None and type(longest) is not int:
        problems.append(f"max_patch_length is {longest!r} and not a whole number")
    numbers = [("patching_threshold", saved.get("patching_threshold"))]
    for name, part in parts.items():
        if isinstance(part, dict):
            numbers.append((f"{name}.rms_norm_eps", part.get("rms_norm_eps")))
            numbers.append((f"{name}.rope_theta", _theta(part)))
    problems += [f"{n} is {x!r} and not a number" for n, x in numbers if not _is_number(x)]
    wanted: list[tuple[str, Any, Any]] = [
        (name, saved.get(name, value), value) for name, value in _FIXED.items()
    ]
    if not problems:
        encoder, decoder, backbone, patcher = (saved[name] for name in _PARTS)
        wanted += _agreements(saved, encoder, decoder, backbone, patcher)
        if encoder.get("cross_attn_all_layers") and encoder["num_hidden_layers"] > 1:
            problems.append(
                "encoder_config.cross_attn_all_layers is true, of which transformers computes only "
                "the last"
            )
    problems += [
        f"{n} is {found!r} and not {value!r}" for n, found, value in wanted if found != value
    ]
    if problems:
        raise UserError(
            f"the checkpoint is no BLT that is known: in its config.json, {'; '.join(problems)}."
        )


def _agreements(
    saved: Mapping[str, Any], encoder: Any, decoder: Any, backbone: Any, patcher: Any
) -> Iterator[tuple[str, Any, Any]]:
    """Fields of parts that must have a value, with what they have."""
    for field in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        yield f"decoder_config.{field}", decoder[field], encoder[field]
    window = saved.get("local_attention_window_len")
    yield "encoder_config.sliding_window", encoder.get("sliding_window", window), window
    parts = zip(_PARTS, (encoder, decoder, backbone, patcher), strict=True)
    for name, part in parts:
        heads, width = part["num_attention_heads"], part["hidden_size"]
        yield f"{name}.head_dim", part.get("head_dim") or width // heads, width / heads
        yield f"{name}.hidden_act", part.get("hidden_act", "silu"), "silu"
        yield f"{name}.rope_type", _rope(part).get("rope_type", "default"), "default"
        if part is not patcher:
            yield f"{name}.rms_norm_eps", part.get("rms_norm_eps"), _EPSILON
            yield f"{name}.rope_theta", _theta(part), _theta(encoder)


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _rope(part: Mapping[str, Any]) -> Mapping[str, Any]:
    said = part.get("rope_parameters") or part.get("rope_scaling")
    return said if isinstance(said, dict) else {}


def _theta(part: Mapping[str, Any]) -> Any:
    return _rope(part).get("rope_theta", part.get("rope_theta"))


def _require_storable(config: BLTConfig) -> None:
    """Raises UserError for options that the format cannot store."""
    segmenter = config.segmenter
    problems = [
        f"model.{name} is {getattr(config, name)!r} and not {value!r}"
        for name, value in {**_OPTIONS, **_LAYOUT}.items()
        if getattr(config, name) != value
    ]
    if config.decoder_cross == "none" or not config.ngrams or config.rope_theta is None:
        problems.append("it has no cross-attention in the decoder, no n-grams or no rotation")
    if not isinstance(segmenter, EntropyModelPatches) or not segmenter.published_symbols:
        problems.append("its patches are not those of a released entropy model")
    elif segmenter.rise is not None or segmenter.threshold is None or segmenter.reset:
        problems.append("model.segmenter has a rise, a reset or no threshold")
    elif not isinstance(segmenter.model, TransformerConfig) or any(
        getattr(segmenter.model, name) != value for name, value in {**_OPTIONS, **_PATCHER}.items()
    ):
        problems.append("its entropy model has other blocks than the released ones")
    if problems:
        raise UserError(f"the format of BLT cannot store the model: {'; '.join(problems)}.")


def config_json(config: BLTConfig, row_length: int) -> dict[str, Any]:
    """The config.json of a model, but for its special ids; UserError if it has no place in it."""
    _require_storable(config)
    patches, k = config.segmenter, config.vectors
    assert isinstance(patches, EntropyModelPatches)
    patcher = patches.model
    assert isinstance(patcher, TransformerConfig)
    local, backbone = config.local_block(1), config.global_block()
    common = {"vocab_size": PUBLISHED_SYMBOLS, "max_position_embeddings": row_length}
    crossing = {**common, "cross_attn_k": k, "hidden_size_global": config.global_width}
    return {
        "architectures": ["BltForCausalLM"],
        "model_type": "blt",
        **_FIXED,
        "cross_attn_k": k,
        "encoder_hash_byte_group_nb_functions": config.ngram_functions,
        "encoder_hash_byte_group_size": list(config.ngrams),
        "encoder_hash_byte_group_vocab": config.ngram_rows,
        "local_attention_window_len": config.window,
        "max_patch_length": patches.longest_patch,
        "max_position_embeddings": row_length,
        "patch_in_forward": True,
        "patching_threshold": patches.threshold,
        "use_cache": False,
        "encoder_config": {
            **_part("encoder", local, config.encoder_depth),
            **crossing,
            "cross_attn_all_layers": False,
            "sliding_window": config.window,
        },
        "decoder_config": {
            **_part("decoder", local, config.decoder_depth),
            **crossing,
            "cross_attn_all_layers": config.decoder_cross == "all",
        },
        "global_config": {
            **_part("global", backbone, config.global_depth),
            "max_position_embeddings": row_length,
        },
        "patcher_config": {
            **_part("patcher", patcher.blocks, patcher.depth),
            **common,
            "sliding_window": patcher.window,
        },
    }


def _part(name: str, block: BlockConfig, depth: int) -> dict[str, Any]:
    types = {"encoder": "blt_local_encoder", "decoder": "blt_local_decoder"}
    types |= {"global": "blt_global_transformer", "patcher": "blt_patcher"}
    epsilon = block.norm_epsilon
    return {
        "model_type": types[name],
        "hidden_act": "silu",
        "hidden_size": block.width,
        "intermediate_size": block.hidden,
        "num_attention_heads": block.heads,
        "num_key_value_heads": block.key_value_heads,
        "num_hidden_layers": depth,
        "head_dim": block.head_width,
        "rms_norm_eps": epsilon,
        "rope_parameters": {"rope_theta": block.rope_theta, "rope_type": "default"},
        "dropout": 0.0,
    }
