import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.core.config_json import mapped
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.experiments.comparison import Comparison
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.parameters import abstract_model, roles_of
from bytelm.nn.mesh import path_name
from bytelm.training.cost import row_flops
from bytelm.training.experiment import ExperimentConfig, to_json
from bytelm.training.presets import (
    ablation_names,
    comparison_names,
    load_preset,
    preset_names,
    run_file,
)

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.py")]
ABLATIONS = {name for name in FILES if name.startswith("ablations/")}
COMPARISONS = {name for name in FILES if name.startswith("comparison/")}
NAMES = [name for name in FILES if name not in ABLATIONS | COMPARISONS]

OWN = """
from bytelm.training.experiment import ExperimentConfig
from bytelm.models.transformer import TransformerConfig

config = ExperimentConfig(model=TransformerConfig(width={width}))
"""


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_found_and_loads_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name in preset_names()
    assert isinstance(load_preset(name), ExperimentConfig)


def test_large_presets_do_not_train_on_the_default_text():
    # There is no dataset of code.
    for name in set(NAMES) - {"hnet_2stage_xl_code"}:
        config = load_preset(name)
        symbols = config.data.batch_size * config.data.sequence_length * (config.train.steps or 0)
        assert symbols < 1e8 or config.data.source != DataConfig().source, name


def test_ablations_are_no_presets():
    assert set(ablation_names()) == ABLATIONS != set()
    assert not set(ablation_names()) & set(preset_names())
    with pytest.raises(UserError, match=r"boundaries\.py defines no ExperimentConfig"):
        load_preset("ablations/boundaries")


def test_comparisons_are_no_presets():
    assert set(comparison_names()) == COMPARISONS != set()
    assert not set(comparison_names()) & {*preset_names(), *ablation_names()}


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_contenders_of_a_comparison_take_about_as_many_flops_for_a_byte(name):
    comparison = run_file(CONFIGS / f"{name}.py", "comparison", Comparison)
    entropy_model = load_preset("entropy_tiny").model  # where a run of it is named
    costs = {}
    for contender, declared in comparison.contenders.items():
        config = declared.config
        model = mapped(
            config.model, EntropyModelPatches, lambda patches: replace(patches, model=entropy_model)
        )
        costs[contender] = row_flops(replace(config, model=model)) * config.data.batch_size
    assert max(costs.values()) < 1.6 * min(costs.values()), costs


def test_presets_of_the_working_directory_add_names_and_take_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text(OWN.format(width=64))
    other = tmp_path / "configs" / "transformer_tiny.py"
    other.write_text("raise RuntimeError('the folder one stands in must not run')")
    (tmp_path / "configs" / "_shared.py").write_text("")
    assert {"mine", "transformer_tiny"} <= set(preset_names())
    assert "_shared" not in preset_names()
    assert load_preset("mine").model.width == 64
    message = r"preset transformer_tiny is bytelm's own, not configs/transformer_tiny\.py of this"
    with pytest.warns(UserWarning, match=message):
        config = load_preset("transformer_tiny")
    assert config == load_preset(str(CONFIGS / "transformer_tiny.py"))
    other.write_bytes((CONFIGS / "transformer_tiny.py").read_bytes())
    assert load_preset("transformer_tiny") == config  # one file twice is no surprise


def test_a_preset_can_import_from_its_own_folder(tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "shared_sizes_of_test.py").write_text("width = 192")
    text = "from shared_sizes_of_test import width\n" + OWN.format(width=64)
    (folder / "own.py").write_text(text.replace("width=64", "width=width"))
    before = list(sys.path)
    assert load_preset(str(folder / "own.py")).model.width == 192
    assert sys.path == before and not any(folder.glob("own*.pyc"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx.y", r"own\.py, line 2: failed with AttributeError"),
        ("x = 1\nx = = 2", r"own\.py: failed with SyntaxError"),
        (OWN.format(width="'64'"), r"own\.py, line 5: model\.width is '64', .*int"),
        (OWN.format(width="64, widht=3"), r"own\.py, line 5: .*unexpected keyword .*'widht'"),
    ],
)
def test_a_preset_that_fails_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_preset(str(path))


def test_a_file_of_ones_own_works_by_path(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN.format(width=192))
    config = load_preset(str(path))
    assert config.model.width == 192
    saved = tmp_path / "config.json"
    saved.write_text(to_json(config))
    assert load_preset(str(saved)) == config


def test_an_unknown_preset_is_named_with_its_like(tmp_path, monkeypatch):
    message = r"no preset 'transformer_tyni' \(did you mean transformer_tiny, .* or "
    with pytest.raises(UserError, match=message):
        load_preset("transformer_tyni")
    with pytest.raises(UserError, match=r"no preset 'megabyte' \(did you mean .*megabyte_tiny"):
        load_preset("megabyte")
    with pytest.raises(UserError, match=r"no preset 'zzz'; there are .*transformer_tiny") as error:
        load_preset("zzz")
    assert "spacebyte_30b" not in str(error.value) and "--help lists" in str(error.value)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").touch()
    with pytest.raises(UserError, match=r"no preset 'mine' \(did you mean mine\.py\?\)"):
        load_preset("mine")


@pytest.mark.parametrize("name", ["none.py", "none.json"])
def test_a_missing_file_is_named(name):
    with pytest.raises(UserError, match=f"no config file {name}"):
        load_preset(name)


@pytest.mark.parametrize("text", ["", "config = 3", "config = {'width': 3}"])
def test_a_file_that_defines_no_config_is_named(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(UserError, match=r"own\.py defines no ExperimentConfig named `config`"):
        load_preset(str(path))


@pytest.mark.parametrize("name", ["megabyte_1e19_p8", "spacebyte_1e18/d384_256_l8"])
def test_published_learning_rates_are_scaled_by_the_inputs_of_each_layer(name):
    config = load_preset(name)
    shapes = nnx.to_pure_dict(abstract_model(config.model)[1])
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape[-2:], np.float32), shapes)
    factors = config.optimizer._multiply(ones, roles_of(config.model))
    for path, found in jax.tree.leaves_with_path(factors):
        is_kernel = path_name(path).endswith("kernel")
        assert found.flat[0] == pytest.approx(found.shape[-2] ** -0.5 if is_kernel else 1.0)
