"""BLT in Hugging Face's format, with its entropy model, there the patcher.

Their symbols are 260: 0 fills rows, 1 is START, 2 END, 3 a delimiter of subwords, b + 4 byte b. A
converted model keeps rows for all of them (`BLTConfig.published_symbols`, and the same of its
segmenter), so that tensors come back bit for bit, and the entropies of the patcher are over all 260
as there. No text has 0 and 3; the model's probability of 0, 1 and 3 is divided among the others.

Linear maps are `[d_out, d_in]`. Rotary positions rotate neighbouring channels of queries and keys
there, and channels half a head apart here, so their rows are in another order.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bytelm.models.blt import BLTConfig
from bytelm.models.entropy_patches import (
    PUBLISHED_END,
    PUBLISHED_FIRST,
    PUBLISHED_START,
    PUBLISHED_SYMBOLS,
)
from bytelm.models.released.blt_config import config_json, read_config
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
from bytelm.nn.block import BlockConfig

_FILLER, _DELIMITER = 0, 3
_BYTES = range(PUBLISHED_FIRST, PUBLISHED_SYMBOLS)
_ORDER = np.array([*_BYTES, PUBLISHED_END, PUBLISHED_START, _FILLER, _DELIMITER])
"""Their id of each row of our tables: bytes, END, START, PAD, and the rest."""
_BACK = np.argsort(_ORDER)
_TABLE = Form(lambda x: x[_ORDER], lambda x: x[_BACK])
_HEAD = Form(lambda x: x[_ORDER].T, lambda x: x.T[_BACK])


class BLTFormat(WrittenFormat[BLTConfig]):
    """Hugging Face's BLT."""

    name = "BLT"
    model = BLTConfig

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        return saved.get("model_type") == "blt"

    def read_config(self, saved: Mapping[str, Any], names: Iterable[str]) -> BLTConfig:
        return read_config(saved)

    def row_length(self, saved: Mapping[str, Any]) -> int | None:
        length = saved["encoder_config"].get("max_position_embeddings")
        return length if type(length) is int else None

    def files(self, config: BLTConfig, row_length: int) -> dict[str, dict[str, Any]]:
        special = {"bos_token_id": PUBLISHED_START, "eos_token_id": PUBLISHED_END}
        special["pad_token_id"] = _FILLER
        return {
            "config.json": {**config_json(config, row_length), **special},
            # Its cache does not work.
            "generation_config.json": {**special, "use_cache": False},
        }

    def note(self, config: BLTConfig) -> str:
        return (
            f"START is the symbol {PUBLISHED_START} and END {PUBLISHED_END} there; the symbols "
            f"{_FILLER} and {_DELIMITER}, which no text has, are kept."
        )

    def tensors(self, config: BLTConfig) -> dict[str, Tensor]:
        d, width, keys = config.local_width, config.global_width, config.vectors
        table = (PUBLISHED_SYMBOLS, d)
        tables = len(config.ngrams) * config.ngram_functions * config.ngram_rows
        project = "patch_embedding_projection.weight"
        tensors = {
            "local_encoder.embed_tokens.weight": whole(("embedding", "embedding"), table, _TABLE),
            "encoder_hash_tok_embedding.weight": whole(
                ("embedding", "ngrams", "table"), (tables, d)
            ),
            f"local_encoder.{project}": _kernel(("to_queries",), keys * d, d),
            f"local_decoder.{project}": _kernel(("to_decoder",), keys * d, width),
            "local_decoder.norm.weight": whole(("final_norm", "scale"), (d,)),
        }
        if config.patch_width != width:
            name = "global_transformer.token_embedding_projection.weight"
            tensors[name] = _kernel(("to_global",), width, config.patch_width)
        encoder = ("encoder", "0")
        tensors |= _stack("local_encoder", (*encoder, "stack"), config.encoder_block())
        tensors |= _cross("local_encoder", 0, (*encoder, "cross"), d)
        tensors |= _stack("global_transformer", ("backbone",), config.global_block())
        tensors |= _stack("local_decoder", ("decoder",), config.decoder_block())
        if config.decoder_cross == "first":
            tensors |= _cross("local_decoder", 0, ("decoder_cross",), d)
        else:
            for block in range(config.decoder_depth):
                found = _cross("local_decoder", block, ("decoder", "blocks", "cross"), d)
                tensors |= {n: tensor._replace(block=block) for n, tensor in found.items()}
        tensors |= _patcher(config.segmenter)
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
        return tensors | {"lm_head.weight": whole(("head", "kernel"), table, _HEAD)}


def _kernel(path: Path, rows: int, columns: int, form: Form = TRANSPOSED) -> Tensor:
    return whole((*path, "kernel"), (rows, columns), form)


def _of_pairs(head_width: int) -> Form:
    """The kernel of queries or keys, whose rows are the channels of heads."""
    order = np.r_[0:head_width:2, 1:head_width:2]

    def moved(x: np.ndarray, order: np.ndarray) -> np.ndarray:
        return x.reshape(-1, head_width, x.shape[1])[:, order].reshape(x.shape)

    return Form(lambda x: moved(x, order).T, lambda x: moved(x.T, np.argsort(order)))


def _stack(name: str, path: Path, config: BlockConfig) -> dict[str, Tensor]:
    """The tensors of the blocks of a part."""
    tensors = {}
    for block in range(config.depth):
        for part, (inner, shape, form) in _of_block(config).items():
            tensor = whole((*path, "blocks", *inner), shape, form)._replace(block=block)
            tensors[f"{name}.layers.{block}.{part}.weight"] = tensor
    return tensors


def _of_block(config: BlockConfig) -> dict[str, tuple[Path, Shape, Form]]:
    """The tensors of one block: path, shape in the format, and change of layout."""
    width, hidden = config.width, config.hidden
    inner, shared = config.heads * config.head_width, config.key_value_heads * config.head_width
    pairs, attention = _of_pairs(config.head_width), "attention"
    return {
        "input_layernorm": (("attention_norm", "scale"), (width,), SAME),
        "post_attention_layernorm": (("mlp_norm", "scale"), (width,), SAME),
        "self_attn.q_proj": ((attention, "query", "kernel"), (inner, width), pairs),
        "self_attn.k_proj": ((attention, "key", "kernel"), (shared, width), pairs),
        "self_attn.v_proj": ((attention, "value", "kernel"), (shared, width), TRANSPOSED),
        "self_attn.o_proj": ((attention, "output", "kernel"), (width, inner), TRANSPOSED),
        "mlp.gate_proj": (("mlp", "gate", "kernel"), (hidden, width), TRANSPOSED),
        "mlp.up_proj": (("mlp", "up", "kernel"), (hidden, width), TRANSPOSED),
        "mlp.down_proj": (("mlp", "down", "kernel"), (width, hidden), TRANSPOSED),
    }


def _cross(name: str, number: int, path: Path, width: int) -> dict[str, Tensor]:
    """The tensors of a cross-attention."""
    found = {
        f"{part[0]}_proj": _kernel((*path, part), width, width)
        for part in ("query", "key", "value", "output")
    }
    for part in ("query", "key"):
        found[f"{part[0]}_norm"] = whole((*path, f"{part}_norm", "scale"), (width,))
    return {f"{name}.cross_attn_layers.{number}.{n}.weight": x for n, x in found.items()}


def _patcher(segmenter: Any) -> dict[str, Tensor]:
    """The tensors of the entropy model."""
    config = segmenter.model
    path, table = ("segmenter", "model"), (PUBLISHED_SYMBOLS, config.width)
    return {
        "patcher.embed_tokens.weight": whole((*path, "embedding", "embedding"), table),
        "patcher.lm_head.weight": whole((*path, "head", "kernel"), table, TRANSPOSED),
        "patcher.norm.weight": whole((*path, "final_norm", "scale"), (config.width,)),
        **_stack("patcher", (*path, "stack"), config.blocks),
    }
