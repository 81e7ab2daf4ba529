"""The models of LCA-MBP (arXiv 2608.15454) that predict single bytes: a flat one and a pooled one.

`bytes-*` is the flat Transformer, and `fxt-*` dynamic token pooling with today's blocks and no
norms in between. Layout and symbols are those of the authors' code: its config.json holds all
options of the training, `model_config` is "[blocks before, (on patches,), after, multi-byte]", and
the ids are ByT5's without its sentinels: 0 padding, 1 the end of a document, 2 unknown, b + 3 for
byte b, then `<en>` and `<eot>`. Documents follow one another without a begin, so the end of the one
before stands for START.

The flat model keeps its tables, in the order of our symbols (`FlatConfig.end_row`). The pooled one
has rows of ours: START and END get that of the end, and the rows of padding, unknown and the two
markers, which no text has, are dropped. The authors draw boundaries in evaluation; here they are
rounded. These formats are only read.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.released.format import (
    SAME,
    TRANSPOSED,
    Form,
    Path,
    ReleasedFormat,
    Shape,
    Tensor,
    whole,
)
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.learned import FlexitokensPatches

_SIZES = {
    "lm_hidden_dim": "width",
    "lm_inter_dim": "mlp_width",
    "lm_n_heads": "heads",
}
"""Our name for each size in config.json."""
_FIXED: dict[str, Any] = {
    "lm_attn_scaling": 1.0,
    "lm_tie_weights": False,
    "use_group_attn": False,
}
"""Fields of config.json that all these models have."""
_OPTIONS: dict[str, Any] = {"mlp": "swiglu", "qk_norm": False}
_BYTE_IDS = np.arange(BYTES) + 3
_PADDING, _END, _UNKNOWN, _MARKERS = 0, 1, 2, BYTES + 3
"""Ids of the special symbols; markers are all ids from the last on."""
_READ = [*_BYTE_IDS, _END, _END, _PADDING]
"""The ids of our symbols: bytes, END, START and PAD."""
_SAID = _READ[: BYTES + 1]
_EMBEDDING, _HEAD = "token_embedding.weight", "head.weight"
_PREDICTOR = "script_to_bp_layers.<en>.boundary_predictor"
_WAVELENGTHS = "rotary_embd.inv_freq"
_EPSILON = 1e-6
"""Of the norms of the pooled model."""


@dataclass(frozen=True)
class _Depths:
    before: int
    patches: int
    after: int
    multi_byte: int

    @property
    def is_flat(self) -> bool:
        return self.patches == self.after == self.multi_byte == 0


def _depths(saved: Mapping[str, Any]) -> _Depths | None:
    """The blocks of a config.json; None if it has no such field."""
    try:
        before, (patches,), after, multi_byte = ast.literal_eval(str(saved.get("model_config")))
    except (ValueError, TypeError, SyntaxError):
        return None
    found = (before, patches, after, multi_byte)
    return _Depths(*found) if all(type(depth) is int for depth in found) else None


def _is_of_lca(saved: Mapping[str, Any]) -> bool:
    return "lm_hidden_dim" in saved and _depths(saved) is not None


def _common(saved: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Options that both kinds have; UserError for problems, here and found before."""
    wanted = (*_SIZES, "lm_vocab_size", "lm_n_kv_heads", "lm_max_position_embeddings")
    problems = [
        *problems,
        *(
            f"{name} is {saved.get(name)!r} and not a whole number"
            for name in wanted
            if type(saved.get(name)) is not int
        ),
        *(
            f"{name} is {saved[name]!r} and not {value!r}"
            for name, value in _FIXED.items()
            if saved.get(name, value) != value
        ),
        *(
            f"{name} is {saved.get(name)!r} and not a number"
            for name in ("lm_re_base", "lm_rms_eps")
            if type(saved.get(name)) not in (int, float)
        ),
    ]
    size = saved.get("lm_vocab_size")
    if type(size) is int and size < _MARKERS:
        problems.append(f"lm_vocab_size is {size}, too few for the ids of bytes")
    if problems:
        raise UserError(
            f"the checkpoint is no model of LCA-MBP that is known: in its config.json, "
            f"{'; '.join(problems)}."
        )
    sizes = {ours: saved[theirs] for theirs, ours in _SIZES.items()}
    head_width = sizes["width"] // sizes["heads"]
    return {**_OPTIONS, **sizes, "head_width": head_width, "rope_theta": saved["lm_re_base"]}


class FlatLcaFormat(ReleasedFormat[TransformerConfig]):
    """`bytes-base` and `bytes-sft`."""

    name = "the flat byte model of LCA-MBP"
    model = TransformerConfig

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        depths = _depths(saved)
        return _is_of_lca(saved) and depths is not None and depths.is_flat

    def read_config(self, saved: Mapping[str, Any], names: Iterable[str]) -> TransformerConfig:
        depths, options = _depths(saved), _common(saved, [])
        assert depths is not None
        return TransformerConfig(
            **options,
            depth=depths.before,
            key_value_heads=saved["lm_n_kv_heads"],
            norm_epsilon=saved["lm_rms_eps"],
            start_row=BYTES,
            end_row=BYTES,
            spare_rows=saved["lm_vocab_size"] - BYTES,
        )

    def row_length(self, saved: Mapping[str, Any]) -> int | None:
        return _row_length(saved)

    def note(self, config: TransformerConfig) -> str:
        return "START and END are the end of a document there; the ids that no text has are kept."

    def tensors(self, config: TransformerConfig) -> dict[str, Tensor]:
        rows = config.table_rows[0]
        order = np.array([*_BYTE_IDS, _END, _PADDING, _UNKNOWN, *range(_MARKERS, rows)])
        back = np.argsort(order)
        shape, scale = (rows, config.width), ("final_norm", "scale")
        read = Form(lambda x: x[order], lambda x: x[back])
        said = Form(lambda x: x[order].T, lambda x: x.T[back])
        tensors = {
            _EMBEDDING: whole(("embedding", "embedding"), shape, read),
            _HEAD: whole(("head", "kernel"), shape, said),
            "norm.weight": whole(scale, (config.width,)),
        }
        kinds = {"stack": (0, config.depth)}
        return tensors | _stacks(config, config.width, config.blocks.key_value_heads, kinds)


class PooledLcaFormat(ReleasedFormat[DynamicPoolingConfig]):
    """`fxt-3x-base` and `fxt-3x-sft`."""

    name = "the dynamic pooling of LCA-MBP"
    model = DynamicPoolingConfig

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        return _is_of_lca(saved)

    def read_config(self, saved: Mapping[str, Any], names: Iterable[str]) -> DynamicPoolingConfig:
        depths = _depths(saved)
        assert depths is not None
        wanted = {
            "boundaries_type": "gumbel",
            "activation_function": "gelu",
            "lm_rms_eps": _EPSILON,
            "lm_n_kv_heads": saved.get("lm_n_heads"),
        }
        problems = [
            f"{name} is {saved.get(name)!r} and not {value!r}"
            for name, value in wanted.items()
            if saved.get(name) != value
        ]
        if depths.multi_byte:
            problems.append(f"there are {depths.multi_byte} multi-byte blocks, which are not done")
        options = _common(saved, problems)
        return DynamicPoolingConfig(
            **options,
            pre_depth=depths.before,
            backbone_depth=depths.patches,
            post_depth=depths.after,
            segmenter=FlexitokensPatches(hidden=options["mlp_width"]),
            inner_norms=False,
            bytes_per_slot=1.0,  # no boundary is ever ignored
        )

    def row_length(self, saved: Mapping[str, Any]) -> int | None:
        return _row_length(saved)

    def note(self, config: DynamicPoolingConfig) -> str:
        return (
            "START and END are the end of a document there; the ids that no text has are dropped, "
            "and boundaries are rounded and not drawn."
        )

    def read(self, weights: Mapping[str, Any], config: DynamicPoolingConfig) -> dict[str, Any]:
        kept = {_EMBEDDING: _READ, _HEAD: _SAID}
        tables = {
            name: np.asarray(weights[name])[rows]
            for name, rows in kept.items()
            if name in weights and weights[name].shape[0] >= _MARKERS
        }
        return super().read({**weights, **tables}, config)

    def tensors(self, config: DynamicPoolingConfig) -> dict[str, Tensor]:
        width, hidden = config.width, config.mlp_width
        assert hidden is not None
        vector = Form(lambda x: x[0, 0], lambda x: x[None, None])
        tensors = {
            _EMBEDDING: whole(("embedding", "embedding"), (len(_READ), width)),
            _HEAD: whole(("head", "kernel"), (len(_SAID), width), TRANSPOSED),
            "norm.weight": whole(("final_norm", "scale"), (width,)),
            "null_group": whole(("null_group",), (1, 1, width), vector),
        }
        layers = {"0": ("up", hidden, width), "2": ("down", 1, hidden)}
        for number, (part, rows, columns) in layers.items():
            path, name = ("segmenter", "predictor", part), f"{_PREDICTOR}.{number}"
            kernel = whole((*path, "kernel"), (rows, columns), TRANSPOSED)
            tensors[f"{name}.weight"] = kernel
            tensors[f"{name}.bias"] = whole((*path, "bias"), (rows,))
        depths = (config.pre_depth, config.backbone_depth, config.post_depth)
        kinds = dict(zip(("pre", "backbone", "post"), enumerate(depths), strict=True))
        heads = config.global_block().heads
        return tensors | _stacks(config, width, heads, kinds)


def _row_length(saved: Mapping[str, Any]) -> int:
    length: int = saved["lm_max_position_embeddings"]
    return length


def _stacks(
    config: TransformerConfig | DynamicPoolingConfig,
    width: int,
    shared_heads: int,
    stacks: Mapping[str, tuple[int, int]],
) -> dict[str, Tensor]:
    """The tensors of stacks, given by name with their number in the format and their depth."""
    wavelengths = Tensor((config.head_width // 2,), (), written=False)
    tensors = {_WAVELENGTHS: wavelengths}
    hidden, shared = config.mlp_width, shared_heads * config.head_width
    assert hidden is not None
    for stack, (number, depth) in stacks.items():
        for block in range(depth):
            for name, path, shape, form in _of_block(width, shared, hidden):
                tensor = whole((stack, "blocks", *path), shape, form)._replace(block=block)
                tensors[f"blocks.{number}.{block}.{name}.weight"] = tensor
    return tensors


def _of_block(width: int, shared: int, hidden: int) -> Iterator[tuple[str, Path, Shape, Form]]:
    """The tensors of one block: name in it, path, shape in the format, and change of layout."""
    for number, norm in enumerate(("attention_norm", "mlp_norm"), 1):
        yield f"norm{number}", (norm, "scale"), (width,), SAME
    rows = {"query": width, "key": shared, "value": shared, "output": width}
    for part, count in rows.items():
        name = "attn.out_proj" if part == "output" else f"attn.{part[0]}_proj"
        yield name, ("attention", part, "kernel"), (count, width), TRANSPOSED
    for part in ("gate", "up", "down"):
        shape = (width, hidden) if part == "down" else (hidden, width)
        yield f"mlp.{part}_proj", ("mlp", part, "kernel"), shape, TRANSPOSED
