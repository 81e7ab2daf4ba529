"""H-Net in the format of its authors' code: its tensors and its config.json.

A network is `backbone`, the one inside it `backbone.main_network`, and so on; the innermost has its
stack under one more `main_network`. Linear maps are `[d_out, d_in]`. One tensor holds the kernels
of queries, keys and values, another those of all that a Mamba-2 block computes from its input.
Here each has a kernel of its own, `[d_in, d_out]`, and blocks of a kind that follow one another are
stacked.

The released vocabulary is the 256 bytes, of which 254 is the begin of a document and 255 its end.
A model that is read keeps it (`HNetConfig.published_symbols`); of one with START and END of its
own these are written as 254 and 255, and its vectors of those two bytes are not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, START
from bytelm.models.hnet import BEGIN_BYTE, HNetConfig
from bytelm.models.released.format import (
    SAME,
    TRANSPOSED,
    Form,
    Part,
    Path,
    Tensor,
    WrittenFormat,
    whole,
)
from bytelm.nn.block import BlockConfig
from bytelm.nn.layout import Layout
from bytelm.nn.mamba2 import Mamba2Config
from bytelm.patching.router import RouterPatches

_PER_STAGE = {
    "d_model": "widths",
    "d_intermediate": "mlp_widths",
    "attn_cfg.num_heads": "heads",
    "attn_cfg.rotary_emb_dim": "rotary_widths",
    "attn_cfg.window_size": "windows",
}
"""Our name for each list in config.json that has a number for each stage."""
_SIZES = {
    "ssm_cfg.expand": "expansion",
    "ssm_cfg.d_state": "state_width",
    "ssm_cfg.d_conv": "convolution_width",
}
"""Our name for each number."""
_IGNORED = {"ssm_cfg.chunk_size": 256}
"""A field that only changes speed, with its published value."""
_FIXED: dict[str, Any] = {
    "norm": "rms",
    "mlp": "swiglu",
    "qk_norm": False,
    "rope_theta": 10_000.0,
    "head_width": 64,
    "ngrams": (),
}
"""Our options that every released model has."""
_MLP_MULTIPLE = 128
"""Widths of MLPs are rounded up to multiples of it."""
_PUBLISHED = {
    "hnet_1stage_L": ("m4 [T22] m4", (1024, 1536), (0, 4096)),
    "hnet_1stage_XL": ("m4 [T24] m4", (1024, 2048), (0, 5504)),
    "hnet_2stage_L": ("m4 [T1m4 [T26] m4T1] m4", (1024, 1024, 1536), (0, 2816, 4096)),
    "hnet_2stage_XL": ("m4 [T1m4 [T27] m4T1] m4", (1024, 1536, 2048), (0, 4096, 5504)),
    "hnet_2stage_XL_chinese": ("m4 [T1m4 [T30] m4T1] m4", (1024, 1536, 2048), (0, 4096, 5504)),
    "hnet_2stage_XL_code": ("m4 [T1m4 [T28] m4T1] m4", (1024, 1536, 2048), (0, 4096, 5504)),
}
"""Layout, widths and widths of MLPs of the published models, whose files come without a config."""

_BYTES = Form(SAME.ours, lambda x: np.concatenate([x[:BEGIN_BYTE], x[[START, END]]]))
_LOGITS = Form(np.transpose, lambda x: np.concatenate([x.T[: BYTES - 1], x.T[END:]]))
"""Of the tables of a model with START and END of its own, which is only ever written."""
_CONVOLUTION = Form(lambda x: x[:, 0].T, lambda x: x.T[:, None])
"""`[channels, 1, width]` there, `[width, channels]` here."""


class HNetFormat(WrittenFormat[HNetConfig]):
    """The format of H-Net's authors."""

    name = "H-Net"
    model = HNetConfig

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        return "arch_layout" in saved

    def known_config(self, name: str) -> dict[str, Any] | None:
        if name not in _PUBLISHED:
            return None
        layout, widths, mlp_widths = _PUBLISHED[name]
        config = HNetConfig(
            layout=layout, widths=widths, mlp_widths=mlp_widths, heads=(16,) * len(widths)
        )
        return _config_json(config)

    def read_config(self, saved: Mapping[str, Any], names: Iterable[str]) -> HNetConfig:
        said = flatten_dict(saved, sep=".")
        wanted = ("arch_layout", *_PER_STAGE, *_SIZES)
        problems = [f"{name} is missing" for name in wanted if name not in said]
        problems += [
            f"{name} is unknown"
            for name in said
            if name.startswith(("attn_cfg.", "ssm_cfg.")) and name not in (*wanted, *_IGNORED)
        ]
        problems += [
            f"{name} is {said[name]!r} and no list of whole numbers"
            for name in _PER_STAGE
            if name in said and not _is_list_of_numbers(said[name])
        ]
        sizes = {ours: _one(said[theirs]) for theirs, ours in _SIZES.items() if theirs in said}
        problems += [
            f"{name} is {said[name]!r} and no whole number"
            for name, ours in _SIZES.items()
            if name in said and type(sizes[ours]) is not int
        ]
        if said.get("vocab_size", BYTES) != BYTES:
            problems.append(f"vocab_size is {said['vocab_size']!r} and not {BYTES}")
        if "lm_head.weight" not in names and not said.get("tie_embeddings"):
            problems.append("tie_embeddings is not true and there is no lm_head.weight")
        if problems:
            raise UserError(
                f"the checkpoint is no H-Net that is known: in its config.json, "
                f"{'; '.join(problems)}."
            )
        stages = {ours: tuple(said[theirs]) for theirs, ours in _PER_STAGE.items()}
        inside = len(stages["widths"]) - 2
        stages["mlp_widths"] = tuple(map(_rounded, stages["mlp_widths"]))
        stages["windows"] = tuple(None if x < 0 else x + 1 for x in stages["windows"])
        options = {
            **_FIXED,
            **stages,
            **sizes,
            "layout": _layout(said["arch_layout"]),
            "segmenter": RouterPatches(target=3.0 if inside else 6.0),  # the paper's
            # A slot for every symbol: no boundary is ever ignored, as in the authors' code.
            "bytes_per_slot": 1.0,
            "patches_per_slot": (1.0,) * inside,
            "published_symbols": True,
        }
        try:
            return HNetConfig(**options)
        except UserError as error:
            raise UserError(f"the checkpoint's config.json describes no H-Net: {error}") from None

    def files(self, config: HNetConfig, row_length: int) -> dict[str, dict[str, Any]]:
        _require_published(config)
        return {"config.json": _config_json(config)}

    def note(self, config: HNetConfig) -> str:
        if config.published_symbols:
            return (
                "The released vocabulary is kept: its symbols 254 and 255 are START and END, and "
                "these two bytes, which UTF-8 does not have, cannot be distinguished from them."
            )
        return (
            "START and END are the symbols 254 and 255 there; what the model knows of these two "
            "bytes, which UTF-8 does not have, is not written."
        )

    def read(self, weights: Mapping[str, Any], config: HNetConfig) -> dict[str, Any]:
        if "lm_head.weight" not in weights and "embeddings.weight" in weights:
            # Of a tied model, which becomes one that is not; read_config refuses others.
            weights = {**weights, "lm_head.weight": weights["embeddings.weight"]}
        return super().read(weights, config)

    def tensors(self, config: HNetConfig) -> dict[str, Tensor]:
        own = not config.published_symbols
        table = BYTES, config.widths[0]
        tensors = {
            "embeddings.weight": whole(("embedding", "embedding"), table, _BYTES if own else SAME),
            "lm_head.weight": whole(("head", "kernel"), table, _LOGITS if own else TRANSPOSED),
        }
        for stage, layouts in enumerate(config.stages):
            network = ".".join(["backbone", *["main_network"] * stage])
            path, width = ("stages", str(stage)), config.widths[stage]
            if stage and width > config.widths[stage - 1]:
                pad = whole(("pad",), (width - config.widths[stage - 1],))
                tensors[f"{network}.pad_dimension"] = _under(path, pad)
            parts = {"main_network": "backbone"}
            if len(layouts) == 2:
                parts = {"encoder": "encoder", "decoder": "decoder"}
                for name, tensor in _around_inner_network(width).items():
                    tensors[f"{network}.{name}"] = _under(path, tensor)
            for (theirs, ours), layout in zip(parts.items(), layouts, strict=True):
                for name, tensor in _of_stack(config.stacked(stage, layout)):
                    tensors[f"{network}.{theirs}.{name}"] = _under((*path, ours), tensor)
        return tensors


def _around_inner_network(width: int) -> dict[str, Tensor]:
    """The router's tensors and those of the projection that passes by the inner network."""
    square = (width, width)
    residual = whole(("residual", "kernel"), square, TRANSPOSED)
    return {
        "routing_module.q_proj_layer.weight": whole(
            ("segmenter", "query", "kernel"), square, TRANSPOSED
        ),
        "routing_module.k_proj_layer.weight": whole(
            ("segmenter", "key", "kernel"), square, TRANSPOSED
        ),
        "residual_proj.weight": residual._replace(wide=True),
        "residual_proj.bias": whole(("residual", "bias"), (width,))._replace(wide=True),
    }


def _of_stack(configs: Sequence[BlockConfig | Mamba2Config]) -> Iterator[tuple[str, Tensor]]:
    layer = 0
    for index, config in enumerate(configs):
        path = ("stacks", str(index), "blocks")
        for block in range(config.depth):
            for name, tensor in _of_block(config).items():
                yield f"layers.{layer}.{name}", _under(path, tensor)._replace(block=block)
            layer += 1
    yield "rmsnorm.weight", whole(("norm", "scale"), (configs[0].width,))


def _of_block(config: BlockConfig | Mamba2Config) -> dict[str, Tensor]:
    width, hidden = config.width, config.hidden
    if isinstance(config, Mamba2Config):
        tensors, norm = _of_mamba(config), "mixer_norm"
    else:
        tensors, norm = _of_attention(width), "attention_norm"
    tensors["norm1.weight"] = whole((norm, "scale"), (width,))
    if hidden:
        tensors["norm2.weight"] = whole(("mlp_norm", "scale"), (width,))
        kernels = (_kernel(("mlp", part), hidden) for part in ("up", "gate"))
        tensors["mlp.fc1.weight"] = Tensor((2 * hidden, width), tuple(kernels))
        down = whole(("mlp", "down", "kernel"), (width, hidden), TRANSPOSED)
        tensors["mlp.fc2.weight"] = down
    return tensors


def _of_attention(width: int) -> dict[str, Tensor]:
    kernels = (_kernel(("attention", part), width) for part in ("query", "key", "value"))
    output = ("attention", "output", "kernel")
    return {
        "mixer.Wqkv.weight": Tensor((3 * width, width), tuple(kernels)),
        "mixer.out_proj.weight": whole(output, (width, width), TRANSPOSED),
    }


def _of_mamba(config: Mamba2Config) -> dict[str, Tensor]:
    inner, state, heads = config.inner, config.state_width, config.heads
    convolved = {"value": inner, "key": state, "query": state}
    inputs = {"gate": inner, **convolved, "step": heads}
    projections = (_kernel(("mixer", part), rows) for part, rows in inputs.items())

    def convolution(leaf: str, form: Form) -> tuple[Part, ...]:
        paths = {part: ("mixer", f"{part}_convolution", leaf) for part in convolved}
        return tuple(Part(paths[part], rows, form) for part, rows in convolved.items())

    channels = sum(convolved.values())
    kernel = (channels, 1, config.convolution_width)
    return {
        "mixer.in_proj.weight": Tensor((sum(inputs.values()), config.width), tuple(projections)),
        "mixer.conv1d.weight": Tensor(kernel, convolution("kernel", _CONVOLUTION)),
        "mixer.conv1d.bias": Tensor((channels,), convolution("bias", SAME)),
        "mixer.dt_bias": whole(("mixer", "step_bias"), (heads,)),
        "mixer.A_log": whole(("mixer", "log_rate"), (heads,)),
        "mixer.D": whole(("mixer", "skip"), (heads,))._replace(wide=True),
        "mixer.norm.weight": whole(("mixer", "norm", "scale"), (inner,)),
        "mixer.out_proj.weight": whole(
            ("mixer", "output", "kernel"), (config.width, inner), TRANSPOSED
        ),
    }


def _kernel(path: Path, rows: int) -> Part:
    return Part((*path, "kernel"), rows, TRANSPOSED)


def _under(path: Path, tensor: Tensor) -> Tensor:
    """The tensor, with its parameters below a path."""
    parts = (part._replace(path=(*path, *part.path)) for part in tensor.parts)
    return tensor._replace(parts=tuple(parts))


def _rounded(mlp_width: int) -> int:
    return -(-mlp_width // _MLP_MULTIPLE) * _MLP_MULTIPLE


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)


def _one(value: Any) -> Any:
    """The value that all stages have, if there is a list with one for each."""
    return value[0] if isinstance(value, list) and value == value[:1] * len(value) else value


def _layout(arch_layout: Any) -> str:
    """Our way to write a layout, for example "m4 [T22] m4" for ["m4", ["T22"], "m4"]."""
    if not isinstance(arch_layout, list):
        return str(arch_layout)
    parts = (f"[{_layout(part)}]" if isinstance(part, list) else str(part) for part in arch_layout)
    return " ".join(parts)


def _config_json(config: HNetConfig) -> dict[str, Any]:
    *outer, (backbone,) = config.stages
    arch_layout: list[Any] = [_text(backbone)]
    for encoder, decoder in reversed(outer):
        arch_layout = [_text(encoder), arch_layout, _text(decoder)]
    stages = range(len(config.stages))
    windows = map(config.stage_window, stages)
    said = {
        "arch_layout": arch_layout,
        "d_model": list(config.widths),
        "d_intermediate": [max(each.hidden for each in _blocks(config, s)) for s in stages],
        "vocab_size": BYTES,
        **_IGNORED,
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "attn_cfg.num_heads": [config.attention_heads(stage) for stage in stages],
        "attn_cfg.rotary_emb_dim": [config.rotary_width(stage) for stage in stages],
        "attn_cfg.window_size": [-1 if window is None else window - 1 for window in windows],
        "tie_embeddings": False,
    }
    return unflatten_dict(said, sep=".")


def _require_published(config: HNetConfig) -> None:
    """Raises UserError for options that the format cannot store."""
    blocks = [each for stage in range(len(config.stages)) for each in _blocks(config, stage)]
    has_mamba = any(isinstance(each, Mamba2Config) for each in blocks)
    differing = [
        f"model.{name} is {getattr(config, name)!r} and not {wanted!r}"
        for name, wanted in _FIXED.items()
        if getattr(config, name) != wanted and (has_mamba or name != "head_width")
    ]
    differing += [
        f"an MLP has {hidden} channels, no multiple of {_MLP_MULTIPLE}"
        for hidden in sorted({each.hidden for each in blocks})
        if hidden % _MLP_MULTIPLE
    ]
    differing += [
        f"a segmenter is {kind} and not {RouterPatches.kind}"
        for kind in sorted({each.kind for each in config.segmenters})
        if kind != RouterPatches.kind
    ]
    if differing:
        raise UserError(f"H-Net's format cannot store the model: {'; '.join(differing)}.")


def _blocks(config: HNetConfig, stage: int) -> list[BlockConfig | Mamba2Config]:
    """The blocks of a stage."""
    return [each for layout in config.stages[stage] for each in config.stacked(stage, layout)]


def _text(layout: Layout) -> str:
    return "".join(f"{letter}{count}" for letter, count in layout.parts)
