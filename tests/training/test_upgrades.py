import dataclasses
import json

import optax
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import (
    DataConfig,
    Files,
    MergeAbc,
    Mixture,
    NextByte,
    Pairs,
    PythonLibrary,
    SpanCorruption,
    Tfds,
)
from bytelm.models import ModelConfig
from bytelm.models.blt import BLTConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.mamba import MambaConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.learned import GumbelPatches
from bytelm.patching.segmenter import FixedPatches, RulePatches
from bytelm.training.experiment import ExperimentConfig, as_saved, from_saved
from bytelm.training.optimizer import AdamW
from bytelm.training.upgrades import (
    SCHEMA,
    move,
    move_parameters,
    moved_parameters,
    restore_parameters,
    upgraded,
)

CONFIG = ExperimentConfig(SpaceByteConfig(bytes_per_slot=5.0))

OLD_DATA = {
    "dataset": "python_stdlib",
    "data_dir": None,
    "train_split": None,
    "validation_split": None,
    "test_split": None,
    "files": [],
    "validation_files": [],
    "test_files": [],
    "text_key": None,
    "target_key": None,
    "script": None,
    "script_key": None,
    "held_out": 0.1,
    "skip_bad": False,
    "weight": 1.0,
    "mixture": [],
    "task": "next_byte",
    "sequence_length": 64,
    "target_length": None,
    "noise_density": 0.15,
    "mean_span": 20.0,
    "batch_size": 2,
    "read": "packed",
    "scripts": [],
    "unigram": None,
    "tokenizer": "t.json",
    "stochastok": 0.1,
    "piece_bytes": None,
    "cache_dir": None,
    "workers": 0,
}
"""The data of a config as commit 635aa20 saved it."""


def test_a_saved_config_has_its_schema():
    saved = as_saved(CONFIG)
    assert saved["schema"] == SCHEMA and from_saved(saved) == CONFIG


def test_a_config_without_a_number_is_the_oldest():
    saved = as_saved(CONFIG) | {"data": OLD_DATA}
    del saved["schema"]
    del saved["train"]["budget"], saved["train"]["initial_differences"]
    saved["model"]["bytes_per_patch"] = saved["model"].pop("bytes_per_slot")
    before = json.dumps(saved)
    config = from_saved(saved)
    assert config.model == CONFIG.model
    assert config.data.source.split_above is None and config.train.budget is None
    assert json.dumps(saved) == before


def test_regular_expressions_of_the_optimizer_become_roles_or_stay():
    saved = {"schema": 2, "optimizer": {"decayed": ["kernel$"], "lr_multipliers": [["head", 2]]}}
    optimizer = upgraded(saved)["optimizer"]
    # All kernels that there were then.
    assert set(optimizer["decayed"]) == {*AdamW().decayed} - {"convolution"}
    assert optimizer["lr_multipliers"] == [["(?:head)", 2]] and not optimizer["fan_in_scaling"]
    saved = {"schema": 2, "optimizer": {"decayed": ["norm", "scale$"]}}
    assert upgraded(saved)["optimizer"]["decayed"] == ["(?:norm)", "scale$"]


def test_an_optimiser_has_its_own_fields():
    for kind, there in (("adamw", False), ("muon", True)):
        saved = {"optimizer": {"name": kind, "momentum": 0.95}}
        assert ("momentum" in upgraded(saved)["optimizer"]) == there


def test_rows_of_all_shards_were_shuffled_together():
    saved = as_saved(CONFIG) | {"schema": 12}
    del saved["data"]["task"]["shuffled_shards"]
    assert from_saved(saved) == CONFIG


@pytest.mark.parametrize("family", [SpaceByteConfig, TransformerConfig, MambaConfig])
def test_models_without_ngrams_and_published_blocks(family):
    config = ExperimentConfig(family())
    saved = as_saved(config) | {"schema": 7}
    del saved["optimizer"]["lazy_tables"]
    for name in ("ngrams", "ngram_functions", "ngram_rows"):
        del saved["model"][name]
    for name in ("norm_epsilon", "scaled_head", "end_row", "qkv_bias", "norm_after"):
        saved["model"].pop(name, None)
    assert from_saved(saved) == config


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (DynamicPoolingConfig, "inner_norms"),
        (BLTConfig, "published_symbols"),
        (TransformerConfig, "rope_scaling"),
    ],
)
def test_models_without_parts_of_released_models(family, name):
    config = ExperimentConfig(family())
    saved = as_saved(config) | {"schema": 8}
    del saved["model"][name]
    assert from_saved(saved) == config


def test_sources_that_keep_repeated_documents():
    config = dataclasses.replace(CONFIG, data=DataConfig(source=Files(files=("a.txt",))))
    saved = as_saved(config) | {"schema": 11}
    del saved["data"]["source"]["deduplicate"]
    assert from_saved(saved) == config


def test_a_newer_config_is_refused():
    with pytest.raises(
        UserError, match=rf"schema {SCHEMA + 1}, and .* up to {SCHEMA}; use a newer"
    ):
        from_saved({**as_saved(CONFIG), "schema": SCHEMA + 1})
    for schema in ("1", True, -1, None, 1.0):
        with pytest.raises(UserError, match="which is no whole number"):
            from_saved({**as_saved(CONFIG), "schema": schema})


def data_of(**changes):
    saved = as_saved(CONFIG) | {"data": OLD_DATA | {"tokenizer": None, "stochastok": 0.0} | changes}
    del saved["schema"]
    return from_saved(saved).data


def test_sources_and_tasks_of_old_configs():
    shape = {"sequence_length": 64, "batch_size": 2}
    own = {"held_out": 0.1, "split_above": None}
    saved = as_saved(CONFIG) | {"data": OLD_DATA}
    del saved["schema"]
    task = NextByte(tokenizer="t.json", stochastok=0.1)
    assert from_saved(saved).data == DataConfig(PythonLibrary(**own), task, **shape)
    assert data_of(dataset="lm1b", text_key="x").source == Tfds(dataset="lm1b", text_key="x", **own)
    files = data_of(files=["a"], skip_bad=True, target_key="b", task="pairs", target_length=9)
    assert files == DataConfig(
        Files(files=("a",), skip_bad=True, target_key="b", **own), Pairs(target_length=9), **shape
    )
    source = {name: OLD_DATA[name] for name in list(OLD_DATA)[:15]}
    mixture = [source | {"files": ["a"], "weight": 3.0}, source | {"dataset": "lm1b"}]
    assert data_of(mixture=mixture, piece_bytes=None).source == Mixture(
        (Files(files=("a",), weight=3.0, **own), Tfds(dataset="lm1b", **own))
    )
    assert data_of(piece_bytes=5).task == NextByte(shard_bytes=5)
    assert data_of(task="span_corruption", mean_span=9.0).task == SpanCorruption(mean_span=9.0)
    assert data_of(task="merge_abc").task == MergeAbc()


@pytest.mark.parametrize(
    "wrong", [None, [], "x", {"model": 3}, {"data": {"mixture": 3}}, {"train": []}]
)
def test_what_is_no_config_is_for_loading_to_refuse(wrong):
    upgraded(wrong)
    with pytest.raises(UserError, match="config"):
        from_saved(wrong)


def test_moved_values():
    config = {"a": {"b": 1}, "c": {}}
    move(config, "a.b", "c.d")
    move(config, "a.none", "c.e")
    assert config == {"a": {}, "c": {"d": 1}}


MOVES = (("predictor", "segmenter"), ("boundary_norm", "segmenter/norm"), ("a/b", "c"))
OLD = {"predictor": {"out": 1}, "boundary_norm": {"scale": 2}, "a": {"b": 3, "d": 4}, "rest": 5}
NEW = {"segmenter": {"out": 1, "norm": {"scale": 2}}, "a": {"d": 4}, "c": 3, "rest": 5}


def test_parameters_move_and_come_back():
    assert move_parameters(OLD, MOVES) == NEW
    assert restore_parameters(NEW, MOVES) == OLD


def test_what_an_optimiser_keeps_of_parameters_moves_with_them():
    state = (optax.ScaleByAdamState(0, OLD, OLD), {"muon": optax.EmptyState()})
    moved = (optax.ScaleByAdamState(0, NEW, NEW), {"muon": optax.EmptyState()})
    assert move_parameters(state, MOVES) == moved
    assert restore_parameters(moved, MOVES) == state


def test_a_model_without_the_parameters_stays_as_it_is():
    assert restore_parameters({"embedding": 1, "blocks": {"out": 2}}, MOVES) == {
        "embedding": 1,
        "blocks": {"out": 2},
    }


@pytest.mark.parametrize(
    ("family", "before", "segmenter"),
    [
        ("spacebyte", {"boundary": "spacelike", "stride": None}, RulePatches("spacelike")),
        ("spacebyte", {"boundary": "fixed", "stride": 6}, FixedPatches(6)),
        ("hat", {"boundary": "whitespace", "longest_word": 9}, RulePatches("whitespace", 9)),
        ("hat2", {"boundary": "fixed", "longest_word": 9}, FixedPatches(9)),
        (
            "dynamic_pooling",
            {"boundary": {"kind": "whitespace", "characters": "space"}},
            RulePatches("space"),
        ),
        ("dynamic_pooling", {"boundary": {"kind": "spacelike"}}, RulePatches("spacelike")),
        ("dynamic_pooling", {"boundary": {"kind": "fixed", "stride": 5}}, FixedPatches(5)),
        (
            "dynamic_pooling",
            {
                "boundary": {
                    "kind": "gumbel",
                    "rate": 0.3,
                    "hidden": None,
                    "weight": 1.0,
                    "published": False,
                    "temperature": 0.5,
                }
            },
            GumbelPatches(0.3),
        ),
    ],
)
def test_boundaries_become_segmenters(family, before, segmenter):
    config = ExperimentConfig(ModelConfig.variants[family](segmenter=segmenter))
    saved = as_saved(config)
    del saved["model"]["segmenter"]
    saved["model"] |= before
    saved["schema"] = 3
    assert from_saved(saved) == config


def test_parameters_of_other_families_stay():
    assert moved_parameters({"model": {"family": "mrt5"}}) == ()
    assert ("predictor", "segmenter/predictor") in moved_parameters(
        {"model": {"family": "dynamic_pooling"}}
    )
    assert moved_parameters(as_saved(CONFIG)) == ()
