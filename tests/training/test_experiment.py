import json

import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, Mixture, PythonLibrary
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import (
    ExperimentConfig,
    TrainConfig,
    from_saved,
    load_json,
    to_json,
)
from bytelm.training.optimizer import Muon
from bytelm.training.presets import load_preset, preset_names

RICH = ExperimentConfig(
    model=TransformerConfig(width=64, window=7, scan=True, remat="dots"),
    data=DataConfig(source=Mixture(sources=(Files(files=("a", "b")), PythonLibrary(weight=2.5)))),
    optimizer=Muon(lr_multipliers=(("head", 0.5), ("embed", 2.0))),
    mesh=MeshConfig(data=2, tensor=4),
    train=TrainConfig(wandb_project="project"),
)


def changed(path, value):
    """RICH as saved, with `value` at `path`; `...` takes the key away."""
    saved = json.loads(to_json(RICH))
    *parents, key = path.split(".")
    place = saved
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return saved


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_rebuilt_from_its_json(name):
    config = load_preset(name)
    assert from_saved(json.loads(to_json(config))) == config


def test_every_kind_of_value_is_rebuilt(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(to_json(RICH))
    config = load_json(path)
    assert config == RICH
    assert type(config.model) is TransformerConfig
    assert type(config.data.source_configs[1]) is PythonLibrary
    hash(config)


def test_whole_numbers_serve_as_floats_and_become_them():
    config = from_saved(changed("optimizer.clip_norm", 2))
    assert config.optimizer.clip_norm == 2 and type(config.optimizer.clip_norm) is float


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.depht", 3, r"unknown key config\.model\.depht \(did you mean depth\?\)"),
        ("extra", {}, r"unknown key config\.extra"),
        ("model.depth", ..., r"lacks the key config\.model\.depth"),
        ("train", ..., r"lacks the key config\.train"),
        (
            "data.source.sources.0.weight",
            ...,
            r"lacks the key config\.data\.source\.sources\[0\]\.weight",
        ),
        ("model.depth", 2.5, r"config\.model\.depth is 2\.5.*int"),
        ("model.depth", True, r"config\.model\.depth is True.*int"),
        ("model.depth", None, r"config\.model\.depth is None.*int"),
        ("model.window", "7", r"config\.model\.window is '7'.*int"),
        ("model.tied_head", 1, r"config\.model\.tied_head is 1.*bool"),
        ("model.mlp", "tanh", r"config\.model\.mlp is 'tanh'.*'swiglu', 'geglu', 'gelu', 'relu'"),
        ("model", [], r"config\.model is \[\] .* object"),
        ("model.family", "rnn", r"config\.model\.family is 'rnn'.* has .*transformer"),
        ("model.family", ..., r"config\.model\.family is None"),
        ("data.source.sources", "a", r"config\.data\.source\.sources is 'a', .*tuple"),
        ("data.source.sources.0.files", ["a.txt", 3], r"sources\[0\]\.files\[1\] is 3.*str"),
        ("optimizer.lr_multipliers", [["a", 1.0, 2]], r"config\.optimizer\.lr_multipliers\[0\] is"),
        ("optimizer.learning_rate", "fast", r"config\.optimizer\.learning_rate is 'fast'.*float"),
        ("mesh.fsdp", 0, r"mesh\.fsdp is 0"),
    ],
)
def test_a_wrong_saved_config_is_named(path, value, message):
    with pytest.raises(UserError, match=message):
        from_saved(changed(path, value))


@pytest.mark.parametrize("text", [b"{", b"\xff"])
def test_a_broken_file_is_named(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"config\.json is not a readable JSON config"):
        load_json(path)
    with pytest.raises(UserError, match=r"none\.json is not a readable JSON config"):
        load_json(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["steps", "accumulation", "keep", "max_skipped", "log_every"])
def test_counts_of_training_start_at_one(name):
    with pytest.raises(UserError, match=rf"train\.{name} is 0; it must be at least 1"):
        TrainConfig(**{name: 0})
    assert TrainConfig(sample_bytes=0, seed=0).seed == 0
