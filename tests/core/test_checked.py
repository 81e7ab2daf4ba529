"""Values of config fields are converted without loss, or refused with the field's name."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm.core.checked import converted
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, Mixture
from bytelm.experiments.ablation import Ablation
from bytelm.experiments.comparison import Comparison, Contender
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.patching.learned import Band, FlexitokensPatches, GumbelPatches
from bytelm.patching.segmenter import FixedPatches
from bytelm.training.experiment import (
    ExperimentConfig,
    TrainConfig,
    from_saved,
    saved_form,
    to_json,
)
from bytelm.training.loop import train
from bytelm.training.optimizer import AdamW

MODEL = TransformerConfig(width=16, depth=1, head_width=8)


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (lambda: TrainConfig(validate_every=1e3), "validate_every", 1000),
        (lambda: TrainConfig(steps=np.int64(7)), "steps", 7),
        (lambda: TransformerConfig(window=64.0), "window", 64),
        (lambda: AdamW(clip_norm=2), "clip_norm", 2.0),
        (lambda: AdamW(learning_rate=np.float32(0.5)), "learning_rate", 0.5),
        (lambda: AdamW(lr_multipliers=[["head", 2]]), "lr_multipliers", (("head", 2.0),)),
        (lambda: Files(files=[Path("a.txt"), "b.txt"]), "files", ("a.txt", "b.txt")),
        (lambda: DataConfig(cache_dir=Path("/c")), "cache_dir", "/c"),
        (lambda: FixedPatches(3.0), "patch_size", 3),
    ],
)
def test_what_has_one_meaning_is_converted(make, field, value):
    config = make()
    got = getattr(config, field)
    assert got == value and type(got) is type(value)
    hash(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(validate_every=2.5), r"train\.validate_every is 2\.5, .*whole number"),
        (lambda: TrainConfig(steps="4"), r"train\.steps is '4', .*whole number"),
        (lambda: TrainConfig(steps=True), r"train\.steps is True, .*whole number"),
        (lambda: TrainConfig(steps=float("inf")), r"train\.steps is inf, .*whole number"),
        (lambda: TrainConfig(tensorboard=1), r"train\.tensorboard is 1, .*bool"),
        (lambda: TransformerConfig(window="64"), r"model\.window is '64', .*int.* or None"),
        (
            lambda: AdamW(schedule="warmup_stable"),
            r"optimizer\.schedule is 'warmup_stable'.*\(did you mean warmup_stable_decay\?\)",
        ),
        (lambda: AdamW(learning_rate=float("nan")), r"optimizer\.learning_rate is nan"),
        (lambda: AdamW(learning_rate=float("inf")), r"learning_rate is inf, .*finite"),
        (lambda: AdamW(weight_decay=10**400), r"optimizer\.weight_decay is 1000.*finite"),
        (lambda: TrainConfig(steps=2**31), r"train\.steps is 2147483648; it must be below 2\*\*31"),
        (lambda: TransformerConfig(width=2**40), r"model\.width is 1099511627776; .*below"),
        (lambda: MeshConfig(fsdp=2**31), r"mesh\.fsdp is 2147483648; .*below"),
        (lambda: DataConfig(batch_size=1e12), r"data\.batch_size is 1000000000000; .*below"),
        (lambda: DataConfig(workers=5000), r"data\.workers is 5000; choose from 0 to 1024"),
        (
            lambda: AdamW(lr_multipliers=(("head", -1),)),
            r"optimizer\.lr_multipliers gives 'head' the factor -1\.0; .*at least 0",
        ),
        (lambda: DataConfig(cache_dir=""), r"data\.cache_dir is empty, .*leave it out"),
        (lambda: TrainConfig(initial=""), r"train\.initial is empty"),
        (lambda: TransformerConfig(rope_theta=-1.0), r"model\.rope_theta is -1\.0; .*above 0"),
        (lambda: SpaceByteConfig(rope_theta=0.0), r"model\.rope_theta is 0\.0; .*above 0"),
        (
            lambda: SpaceByteConfig(segmenter=GumbelPatches(weight=-1.0)),
            r"model\.segmenter\.weight is -1\.0",
        ),
        (lambda: GateShortening(integral=-1.0), r"model\.shortening\.integral is -1\.0"),
        (lambda: AdamW(learning_rate="1e-3"), r"optimizer\.learning_rate is '1e-3'"),
        (lambda: DataConfig(sequence_length="64"), r"data\.sequence_length is '64'"),
        (lambda: DataConfig(source=Files(files="a.txt")), r"data\.files is 'a\.txt', .*tuple"),
        (
            lambda: DataConfig(source=Files(files=(b"a.txt",))),
            r"data\.files\[0\] is b'a\.txt', .*str",
        ),
        (
            lambda: DataConfig(source=Mixture(sources=(DataConfig(),))),
            r"data\.sources\[0\] is .*SourceConfig",
        ),
        (lambda: MeshConfig(fsdp=None), r"mesh\.fsdp is None"),
        (
            lambda: DynamicPoolingConfig(segmenter="fixed"),
            r"model\.segmenter is 'fixed', .*Segmenter",
        ),
        (lambda: MrT5Config(shortening=3), r"model\.shortening is 3"),
        (lambda: Band("eng", "0.3", 0.1), r"model\.segmenter\.bands\.rate is '0\.3'"),
        (
            lambda: FlexitokensPatches(bands=({"script": "eng"},)),
            r"model\.segmenter\.bands\[0\] is .*Band",
        ),
        (lambda: ExperimentConfig(TransformerConfig), r"config\.model is .*ModelConfig"),
        (lambda: ExperimentConfig(MODEL, data={}), r"config\.data is \{\}, .*DataConfig"),
        (lambda: Ablation(MODEL, {"a": {}}), r"ablation\.base is .*ExperimentConfig"),
        (
            lambda: Ablation(ExperimentConfig(MODEL), {"a": {"train.steps": 1.5}}),
            r"contender a of the ablation: .*train\.steps is 1\.5",
        ),
        (
            lambda: Comparison("t", {"a": Contender(MODEL)}, "a", (1e9,), {}),
            r"contender\.config is .*ExperimentConfig",
        ),
        (
            lambda: Comparison("t", {"a": Contender(ExperimentConfig(MODEL))}, "a", 1e9, {}),
            r"comparison\.budgets is 1000000000\.0, .*tuple",
        ),
    ],
)
def test_any_other_value_is_refused_with_its_field(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_union_takes_its_types_as_they_are():
    assert converted(3, int | str, "x") == 3
    assert converted("3", int | str, "x") == "3"
    assert converted({"a": 1}, Mapping[str, float], "x") == {"a": 1.0}
    with pytest.raises(UserError, match=r"x\['a'\] is 'b'"):
        converted({"a": "b"}, Mapping[str, float], "x")
    with pytest.raises(UserError, match=r"x is b'3', and should be .*int.* or str"):
        converted(b"3", int | str, "x")


def test_nothing_trains_that_cannot_be_loaded(tmp_path):
    @dataclass(frozen=True)
    class Nameless(TransformerConfig):
        extra: int = 3

    with pytest.raises(UserError, match=r"Nameless has no family of its own"):
        train(ExperimentConfig(Nameless(width=16, depth=1, head_width=8)), tmp_path / "run")
    with pytest.raises(UserError, match=r"the config is 'transformer_tiny', .*ExperimentConfig"):
        train("transformer_tiny", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_field_that_json_changes_is_refused(monkeypatch):
    @dataclass(frozen=True)
    class Odd(TransformerConfig):
        family = "odd_of_test"
        anything: Any = None

    try:
        config = Odd(width=16, depth=1, head_width=8)
        assert saved_form(ExperimentConfig(config)).model == config
        for value, message in [({3: 4}, r"config\.model\.anything"), ({3}, "cannot be saved")]:
            odd = dataclasses.replace(config, anything=value)
            with pytest.raises(UserError, match=message):
                saved_form(ExperimentConfig(odd))
    finally:
        Odd.variants.pop("odd_of_test")


def test_a_saved_mixture_is_rebuilt_from_its_sources():
    config = ExperimentConfig(MODEL, DataConfig(source=Mixture(sources=[Files(files=["a"])])))
    assert from_saved(json.loads(to_json(config))) == config
