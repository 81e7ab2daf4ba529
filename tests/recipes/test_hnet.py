"""Presets and learning rates of H-Net, against the paper's figures and the authors' helper."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from bytelm.models.hnet import HNetConfig
from bytelm.models.parameters import count_parameters, roles_of
from bytelm.nn.mesh import path_name
from bytelm.recipes.hnet import PUBLISHED_DECAY, lr_multipliers, published_multipliers
from bytelm.training.optimizer import AdamW
from bytelm.training.presets import load_preset
from tests.models.golden_hnet import golden_config, model_parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("hnet_1stage_l", 679.4),
        ("hnet_1stage_xl", 1270.8),
        ("hnet_2stage_l", 874.3),
        ("hnet_2stage_xl", 1603.5),
        ("hnet_2stage_xl_chinese", 1755.3),
        ("hnet_2stage_xl_code", 1654.1),
    ],
)
def test_presets_have_the_released_sizes(name, millions):
    config = load_preset(name).model
    # END, START and PAD, and the output END, are ours.
    own = 4 * config.widths[0]
    assert (count_parameters(config)[0] - own) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("hnet_1stage_l", (2.63, 0.88)),
        ("hnet_1stage_xl", (3.03, 0.88)),
        ("hnet_2stage_l", (2.63, 1.52, 0.71)),
        ("hnet_2stage_xl", (3.03, 1.43, 0.71)),
    ],
)
def test_presets_have_the_learning_rates_of_the_paper(name, factors):
    *inner, (_, outer) = load_preset(name).optimizer.lr_multipliers
    found = (outer, *(factor for _, factor in inner))
    assert found == pytest.approx(factors, abs=0.005)


@pytest.mark.parametrize(
    ("name", "text", "steps"),
    [
        ("hnet_1stage_l", "c4/en", 219_000),
        ("hnet_space_xl", "c4/en", 219_000),
        ("spacebyte_pp_l", "c4/en", 219_000),
        ("mamba_185m", "c4/en", 219_000),
        ("hnet_2stage_xl_chinese", "wiki40b/zh-cn", 101_000),
        ("hnet_2stage_xl_code", "python_stdlib", 101_000),
    ],
)
def test_presets_read_as_much_text_as_published(name, text, steps):
    config = load_preset(name)
    assert config.data.source.label == text
    assert config.train.steps == pytest.approx(steps, rel=0.005)


def test_targets_set_the_learning_rates():
    assert lr_multipliers((8, 8), (4.0,))[0] == ("^stages/1/", pytest.approx((4.6 / 4) ** 0.5))


def paths(name):
    """The files of this name among the golden vectors, for `parametrize`."""
    directory = os.environ.get("BYTELM_GOLDEN_DIR")
    if directory is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason="BYTELM_GOLDEN_DIR is not set"))]
    return sorted(Path(directory, "hnet").glob(name))


@pytest.mark.parametrize("path", paths("param_groups_*.json"))
def test_golden_groups_of_parameters(path):
    saved = json.loads(path.read_text())
    config = _config(saved["config"])
    names = list(saved["parameters"])
    # Each weight is its number, so that every one of our parameters shows where it comes from.
    shapes = _official_shapes(config, names)
    weights = {name: np.full(shapes[name], number) for number, name in enumerate(names)}
    numbers = jax.tree.map(np.asarray, model_parameters(weights, config))
    optimizer = AdamW(
        decayed=PUBLISHED_DECAY, lr_multipliers=published_multipliers(saved["lr_multiplier"])
    )
    roles = roles_of(config)
    decayed = dict(jax.tree.leaves_with_path(optimizer._is_decayed(roles)))
    factors = optimizer._multiply(jax.tree.map(lambda _: np.float32(1.0), roles), roles)
    seen = set()
    for (path, factor), values in zip(
        jax.tree.leaves_with_path(factors), jax.tree.leaves(numbers), strict=True
    ):
        for number in np.unique(values):
            group = saved["parameters"][names[number]]
            assert factor == pytest.approx(group["lr_multiplier"]), path_name(path)
            assert decayed[path] == ("weight_decay" not in group), path_name(path)
            seen.add(number)
    assert seen == set(range(len(names)))


def _config(saved) -> HNetConfig:
    cfg = {key: json.dumps(saved[key]) for key in ("arch_layout", "d_model", "d_intermediate")}
    cfg |= {f"attn_cfg.{key}": json.dumps(value) for key, value in saved["attn_cfg"].items()}
    cfg |= {f"ssm_cfg.{key}": value for key, value in saved["ssm_cfg"].items()}
    return golden_config(cfg)


def _official_shapes(config, names):
    """Of each weight by its official name."""
    shapes = {}
    for name in names:
        depth = name.count("main_network")
        stage = min(depth, len(config.widths) - 1)
        width = config.widths[stage]
        inner = config.expansion * width
        state, heads = config.state_width, config.expansion * width // config.head_width
        hidden = config.mlp_widths[stage]
        is_attention = name.replace("out_proj", "Wqkv") in names
        ends = {
            "embeddings.weight": (256, width),
            "lm_head.weight": (256, width),
            "pad_dimension": (width - config.widths[stage - 1],),
            "mixer.dt_bias": (heads,),
            "mixer.A_log": (heads,),
            "mixer.D": (heads,),
            "mixer.in_proj.weight": (2 * inner + 2 * state + heads, width),
            "mixer.conv1d.weight": (inner + 2 * state, 1, config.convolution_width),
            "mixer.conv1d.bias": (inner + 2 * state,),
            "mixer.norm.weight": (inner,),
            "mixer.Wqkv.weight": (3 * width, width),
            "mixer.out_proj.weight": (width, width if is_attention else inner),
            "mlp.fc1.weight": (2 * hidden, width),
            "mlp.fc2.weight": (width, hidden),
            "proj_layer.weight": (width, width),
            "residual_proj.weight": (width, width),
            "residual_proj.bias": (width,),
        }
        shapes[name] = next((s for end, s in ends.items() if name.endswith(end)), (width,))
    return shapes
