import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from bytelm.comparison.comparison import Comparison
from bytelm.config import ExperimentConfig, to_json
from bytelm.errors import UserError
from bytelm.presets import (
    ablation_names,
    comparison_names,
    load_preset,
    preset_names,
    run_file,
)
from bytelm.training.loop import row_flops
from bytelm.training.sharding import path_name

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.py")]
ABLATIONS = {name for name in FILES if name.startswith("ablations/")}
COMPARISONS = {name for name in FILES if name.startswith("comparison/")}
NAMES = [name for name in FILES if name not in ABLATIONS | COMPARISONS]

OWN = """
from bytelm.config import ExperimentConfig
from bytelm.models.transformer import TransformerConfig

config = ExperimentConfig(model=TransformerConfig(width={width}))
"""


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_found_and_loads_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name in preset_names()
    assert isinstance(load_preset(name), ExperimentConfig)


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
    costs = {}
    for contender, declared in comparison.contenders.items():
        data = declared.config.data
        costs[contender] = row_flops(declared.config) * data.batch_size
    assert max(costs.values()) < 1.6 * min(costs.values()), costs


def test_presets_of_the_working_directory_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text(OWN.format(width=64))
    (tmp_path / "configs" / "transformer_tiny.py").write_text(OWN.format(width=128))
    (tmp_path / "configs" / "_shared.py").write_text("")
    assert {"mine", "transformer_tiny"} <= set(preset_names())
    assert "_shared" not in preset_names()
    assert load_preset("mine").model.width == 64
    assert load_preset("transformer_tiny").model.width == 128


def test_a_file_of_ones_own_works_by_path(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN.format(width=192))
    config = load_preset(str(path))
    assert config.model.width == 192
    saved = tmp_path / "config.json"
    saved.write_text(to_json(config))
    assert load_preset(str(saved)) == config


def test_an_unknown_preset_is_named_with_its_like():
    message = r"no preset 'transformer_tyni' \(did you mean transformer_tiny\?\)"
    with pytest.raises(UserError, match=message):
        load_preset("transformer_tyni")
    with pytest.raises(UserError, match=r"no preset 'zzz'; there are .*transformer_tiny"):
        load_preset("zzz")


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
    model = nnx.eval_shape(lambda: config.model.build(nnx.Rngs(0)))
    for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model))):
        name = path_name(path)
        factors = (f for p, f in config.optimizer.lr_multipliers if re.search(p, name))
        expected = leaf.shape[-2] ** -0.5 if name.endswith("kernel") else 1.0
        assert next(factors, 1.0) == pytest.approx(expected), name
