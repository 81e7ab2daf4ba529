"""H-Net in its authors' format: the same bits there and back, and one sentence for what is not."""

import copy
import dataclasses
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, INPUT_SIZE, OUTPUT_SIZE, START
from bytelm.models.hnet import HNetConfig
from bytelm.models.parameters import abstract_model
from bytelm.models.released.hnet import HNetFormat
from bytelm.patching.segmenter import RulePatches
from bytelm.training.presets import load_preset
from tests.models.golden_hnet import model_parameters

HNET = HNetFormat()
SAVED = {
    "arch_layout": ["m1", ["T1m2", ["t1T1"], "m1T1"], "m2"],
    "d_model": [32, 32, 64],
    "d_intermediate": [0, 128, 256],
    "vocab_size": 256,
    "ssm_cfg": {"chunk_size": 256, "d_conv": 4, "d_state": 8, "expand": 2},
    "attn_cfg": {
        "num_heads": [2, 2, 4],
        "rotary_emb_dim": [8, 4, 8],
        "window_size": [1023, 7, -1],
    },
    "tie_embeddings": False,
}
NAMES = ("embeddings.weight", "lm_head.weight")


def config_of(saved=SAVED):
    return HNET.read_config(saved, NAMES)


def random_weights(config, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=tensor.shape).astype(np.float32 if tensor.wide else dtype)
        for name, tensor in HNET.tensors(config).items()
    }


@pytest.fixture(scope="module")
def config():
    return config_of()


@pytest.fixture
def weights(config):
    return random_weights(config)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_gives_the_same_bits(dtype, config):
    weights = random_weights(config, ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    again = HNET.write(HNET.read(weights, config), config, dtype)
    assert_same(again, weights)
    assert all(tensor.flags.c_contiguous for tensor in again.values())


def test_parameters_are_those_of_the_model(weights, config):
    found, wanted = HNET.read(weights, config), nnx.to_pure_dict(abstract_model(config)[1])
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda ours, leaf: np.testing.assert_equal(ours.shape, leaf.shape), found, wanted)


def test_each_tensor_is_in_its_place(weights, config):
    found, wanted = HNET.read(weights, config), model_parameters(weights, config)
    assert jax.tree.structure(found) == jax.tree.structure(jax.device_get(wanted))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_config_there_and_back(config):
    assert HNET.files(config, 8192) == {"config.json": SAVED}
    assert (config.layout, config.windows) == ("m1 [T1m2 [t1T1] m1T1] m2", (1024, 8, None))
    assert config.published_symbols and config.bytes_per_slot == 1


def test_widths_of_mlps_are_rounded_up():
    assert config_of({**SAVED, "d_intermediate": [0, 100, 129]}).mlp_widths == (0, 128, 256)


def test_a_number_may_be_said_for_each_stage():
    said = {**SAVED, "ssm_cfg": {name: [value] * 3 for name, value in SAVED["ssm_cfg"].items()}}
    assert config_of(said) == config_of()


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [
        ("hnet_1stage_L", 679.4, 214),
        ("hnet_1stage_XL", 1270.8, 226),
        ("hnet_2stage_L", 874.3, 328),
        ("hnet_2stage_XL", 1603.5, 335),
        ("hnet_2stage_XL_chinese", 1755.3, 353),
        ("hnet_2stage_XL_code", 1654.1, 341),
    ],
)
def test_published_models_are_known_by_their_names(name, parameters, tensors):
    found = HNET.tensors(config_of(HNET.known_config(name)))
    assert len(found) == tensors
    assert round(sum(np.prod(x.shape) for x in found.values()) / 1e6, 1) == parameters


@pytest.mark.parametrize("name", ["1stage_l", "1stage_xl", "2stage_l", "2stage_xl_code"])
def test_presets_have_the_published_sizes(name):
    model, stem = (
        load_preset(f"hnet_{name}").model,
        f"hnet_{name.replace('l', 'L').replace('x', 'X')}",
    )
    published = config_of(HNET.known_config(stem))
    for size in ("layout", "widths", "mlp_widths", "heads", "segmenters"):
        assert getattr(model, size) == getattr(published, size)


def test_the_config_of_a_published_model():
    said = HNET.known_config("hnet_2stage_XL")
    assert said["arch_layout"] == ["m4", ["T1m4", ["T27"], "m4T1"], "m4"]
    assert said["attn_cfg"] == {
        "num_heads": [16, 16, 16],
        "rotary_emb_dim": [32, 48, 64],
        "window_size": [1023, 1023, -1],
    }
    assert HNET.known_config("model") is None


def test_tied_embeddings_become_a_head_of_their_own(weights, config):
    tied = {**SAVED, "tie_embeddings": True}
    table = weights["lm_head.weight"] = weights["embeddings.weight"]
    for names in (weights, [name for name in weights if name != "lm_head.weight"]):
        assert HNET.read_config(tied, names) == config
        params = HNET.read({name: weights[name] for name in names}, config)
        np.testing.assert_array_equal(params["head"]["kernel"], table.T)


def test_symbols_of_our_own_are_written_as_the_published_ones(config):
    ours = dataclasses.replace(config, published_symbols=False)
    shapes = nnx.to_pure_dict(abstract_model(ours)[1])
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    table = np.arange(INPUT_SIZE * 32, dtype=np.float32).reshape(INPUT_SIZE, 32)
    kernel = np.arange(32 * OUTPUT_SIZE, dtype=np.float32).reshape(32, OUTPUT_SIZE)
    params["embedding"]["embedding"], params["head"]["kernel"] = table, kernel
    found = HNET.write(params, ours)
    assert {name: found[name].shape for name in NAMES} == dict.fromkeys(NAMES, (BYTES, 32))
    for theirs, symbol in ((0, 0), (253, 253), (254, START), (255, END)):
        np.testing.assert_array_equal(found["embeddings.weight"][theirs], table[symbol])
    for theirs, symbol in ((0, 0), (254, 254), (255, END)):
        np.testing.assert_array_equal(found["lm_head.weight"][theirs], kernel[:, symbol])
    assert "is not written" in HNET.note(ours) and "vocabulary is kept" in HNET.note(config)


def refused(action):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(name, value):
    """The config.json with one field changed, or without it for a value of None."""
    saved = copy.deepcopy(SAVED)
    *part, leaf = name.split(".")
    place = saved[part[0]] if part else saved
    if value is None:
        del place[leaf]
    else:
        place[leaf] = value
    return saved


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("d_model", None, "d_model is missing"),
        ("ssm_cfg", None, "ssm_cfg.expand is missing; ssm_cfg.d_state is missing"),
        ("attn_cfg.window_size", None, "attn_cfg.window_size is missing"),
        ("attn_cfg.window_size", 7, "attn_cfg.window_size is 7 and no list of whole numbers"),
        ("d_intermediate", [0, "x", 1], "d_intermediate is [0, 'x', 1] and no list"),
        ("attn_cfg.scale", 2, "attn_cfg.scale is unknown"),
        ("ssm_cfg.expand", [2, 2, 4], "ssm_cfg.expand is [2, 2, 4] and no whole number"),
        ("vocab_size", 50257, "vocab_size is 50257 and not 256"),
        ("arch_layout", ["m1", ["Q1"], "m1"], "describes no H-Net: a part of model.layout is 'Q1'"),
        ("d_model", [32, 32], "describes no H-Net: model.widths has 2 values"),
        ("d_model", [64, 32, 32], "describes no H-Net: model.widths (64, 32, 32) become smaller"),
    ],
)
def test_another_config(name, value, said):
    assert said in refused(lambda: config_of(changed(name, value)))


def test_a_missing_head():
    said = "tie_embeddings is not true and there is no lm_head.weight"
    assert said in refused(lambda: HNET.read_config(SAVED, ["embeddings.weight"]))


def test_tensors_that_do_not_fit(weights, config):
    name = "backbone.main_network.main_network.main_network.layers.1.mlp.fc1.weight"
    del weights[name]
    weights["backbone.pad_dimension"] = np.zeros(32, np.float32)
    weights["backbone.residual_proj.bias"] = np.zeros(31, np.float32)
    message = refused(lambda: HNET.read(weights, config))
    assert f"missing {name}" in message and "unexpected backbone.pad_dimension" in message
    assert "backbone.residual_proj.bias has the shape [31] and not [32]" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": "layer"}, "model.norm is 'layer' and not 'rms'"),
        ({"qk_norm": True}, "model.qk_norm is True and not False"),
        ({"head_width": 32}, "model.head_width is 32 and not 64"),
        ({"mlp_widths": (0, 128, 96)}, "an MLP has 96 channels, no multiple of 128"),
        ({"segmenter": RulePatches("spacelike"), "inner_segmenters": ()}, "a segmenter is rule"),
        ({"ngrams": (3,), "ngram_rows": 7}, "model.ngrams is (3,) and not ()"),
    ],
)
def test_models_that_the_format_cannot_store(changes, said, config):
    other = dataclasses.replace(config, **changes)
    message = refused(lambda: HNET.files(other, 8192))
    assert said in message and re.match("H-Net's format cannot store the model: ", message)


def test_a_width_of_heads_is_stored_without_mamba():
    config = HNetConfig(layout="T1 [T1] T1", widths=(32, 64), head_width=16, mlp_widths=(128, 128))
    said = HNET.files(config, 8192)["config.json"]
    assert said["attn_cfg"]["num_heads"] == [2, 4]
    assert HNET.read_config(said, NAMES).heads == (2, 4)
