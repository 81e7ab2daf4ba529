"""ByT5 and MrT5 in T5's format: the same bits there and back, and one sentence for what is not."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START
from bytelm.models.released.t5 import T5Format
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening, RandomShortening
from tests.models import golden, golden_t5, tiny_t5

T5 = T5Format()


def config_json(config):
    return T5.files(config, 189)["config.json"]


@pytest.fixture(params=tiny_t5.CASES)
def saved(request):
    return tiny_t5.CASES[request.param]


@pytest.fixture
def weights(saved):
    return tiny_t5.weights(saved)


@pytest.fixture
def config(saved, weights):
    return T5.read_config(saved, weights)


def test_there_and_back_gives_the_same_bits(weights, config):
    tiny_t5.assert_same(T5.write(T5.read(weights, config), config), weights)


def test_parameters_are_those_of_the_model(weights, config):
    model = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    wanted = nnx.to_pure_dict(nnx.split(model)[1])
    found = T5.read(weights, config)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda ours, leaf: np.testing.assert_equal(ours.shape, leaf.shape), found, wanted)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_tensors_are_in_c_order_as_files_need_them(weights, config):
    tensors = T5.write(T5.read(weights, config), config)
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())


def test_rows_of_tables_follow_the_symbols(weights, config):
    found = T5.read(weights, config)
    table, head = found["embedding"]["embedding"], found["head"]["kernel"]
    for symbol, t5_id in ((ord("a"), ord("a") + 3), (255, 258), (END, 1), (START, 0), (300, 300)):
        np.testing.assert_array_equal(table[symbol], weights["shared.weight"][t5_id])
        np.testing.assert_array_equal(head[:, symbol], weights["lm_head.weight"][t5_id])


def test_blocks_are_stacked_and_kernels_transposed(weights, config):
    kernel = T5.read(weights, config)["decoder"]["blocks"]["cross"]["output"]["kernel"]
    tensor = weights["decoder.block.1.layer.1.EncDecAttention.o.weight"]
    np.testing.assert_array_equal(kernel[1], tensor.T)


@pytest.mark.parametrize(
    "path", golden.cases("mrt5", lambda file: golden_t5.is_byt5(file) or golden_t5.is_mrt5(file))
)
def test_golden_weights(path):
    case = golden.load(path)
    config = T5.read_config(case.cfg, case.param)
    wanted = golden_t5.config(case)
    assert dataclasses.replace(wanted, **_shortening(config)) == config
    tiny_t5.assert_same(T5.write(T5.read(case.param, config), config), case.param)
    found, wanted = T5.read(case.param, config), golden_t5.parameters(case.param, wanted)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))


def _shortening(config):
    return {"shortening": config.shortening} if isinstance(config, MrT5Config) else {}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_becomes_float32(dtype):
    config = T5.read_config(tiny_t5.BYT5, tiny_t5.shapes(tiny_t5.BYT5))
    weights = {
        name: np.random.default_rng(0).normal(size=shape).astype(dtype)
        for name, shape in tiny_t5.shapes(tiny_t5.BYT5).items()
    }
    wanted = {name: tensor.astype(np.float32) for name, tensor in weights.items()}
    tiny_t5.assert_same(T5.write(T5.read(weights, config), config), wanted)


def test_copies_and_an_unused_tensor_are_passed_over(weights, config):
    weights["shared.weight"] = np.ones((384, 16), np.float32)
    wanted = dict(weights)
    for side in ("encoder", "decoder"):
        weights[f"{side}.embed_tokens.weight"] = weights["shared.weight"].copy()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    weights[unused] = np.zeros((32, 2), np.float32)
    tiny_t5.assert_same(T5.write(T5.read(weights, config), config), wanted)


def refused(weights, config):
    with pytest.raises(UserError) as error:
        T5.read(weights, config)
    assert str(error.value).count("\n") == 0
    return str(error.value)


def test_a_copy_that_differs(weights, config):
    weights["decoder.embed_tokens.weight"] = np.zeros((384, 16), np.float32)
    wanted = "decoder.embed_tokens.weight differs from "
    assert f"{wanted}shared.weight" in refused(weights, config)
    weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")
    assert f"{wanted}encoder.embed_tokens.weight" in refused(weights, config)


@pytest.mark.parametrize("sides", [["encoder"], ["decoder"], ["encoder", "decoder"]])
def test_an_embedding_under_another_name_only(weights, config, sides):
    wanted = T5.read(weights, config)
    table = weights.pop("shared.weight")
    weights |= {f"{side}.embed_tokens.weight": table for side in sides}
    jax.tree.map(np.testing.assert_array_equal, T5.read(weights, config), wanted)


def test_missing_unexpected_and_misshaped_tensors_are_named_at_once(weights, config):
    name = "encoder.block.2.layer.1.DenseReluDense.wi_1.weight"
    del weights[name]
    weights["encoder.block.0.layer.0.SelfAttention.q.bias"] = np.zeros(8, np.float32)
    weights["encoder.final_layer_norm.weight"] = np.zeros(15, np.float32)
    message = refused(weights, config)
    assert f"missing {name}" in message
    assert "unexpected encoder.block.0.layer.0.SelfAttention.q.bias" in message
    assert "encoder.final_layer_norm.weight has the shape [15] and not [16]" in message


def test_many_differences_are_counted(config):
    message = refused({}, config)
    assert message.count("weight") < 10 and " more" in message


def test_a_tied_head(weights, config):
    del weights["lm_head.weight"]
    assert "the embeddings are tied" in refused(weights, config)


def test_configs_there_and_back(config):
    saved = config_json(config)
    names = tiny_t5.shapes({**saved, "model_type": config.family})
    assert T5.read_config(saved, names) == config


def test_a_config_says_the_same_again(saved, config):
    again = config_json(config)
    assert {name: again[name] for name in saved} == saved


def test_the_gates_block_is_that_of_its_tensors():
    weights = tiny_t5.shapes(tiny_t5.MRT5)
    saved = {**tiny_t5.MRT5, "delete_gate_layer": 2}
    assert T5.read_config(saved, weights).gate_depth == 1


def test_a_gate_has_the_published_values_where_nothing_is_said():
    saved = {**tiny_t5.BYT5, "model_type": "mrt5", "deletion_threshold": None}
    found = T5.read_config(saved, tiny_t5.shapes(tiny_t5.MRT5))
    # The class of released MrT5s always has softmax1, and saves no field for it.
    assert found.shortening == GateShortening(floor=-30.0) and found.softmax1
    saved["use_softmax1"] = False
    assert not T5.read_config(saved, tiny_t5.shapes(tiny_t5.MRT5)).softmax1


def test_the_name_that_newer_versions_give_to_a_head_of_its_own():
    saved = {**tiny_t5.BYT5, "tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert T5.read_config(saved, []) == T5.read_config(tiny_t5.BYT5, [])


def test_as_many_decoder_blocks_as_encoder_blocks_where_nothing_is_said():
    saved = {name: value for name, value in tiny_t5.BYT5.items() if name != "num_decoder_layers"}
    assert T5.read_config(saved, []).decoder_depth == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 32128}, "vocab_size is 32128 and not 384"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu' and not 'gated-gelu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True and not False"),
        ({"scale_decoder_outputs": True}, "tie_word_embeddings is True and not False"),
        ({"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05"),
        ({"model_type": "umt5"}, "model_type is 'umt5' and not 't5' or 'mrt5'"),
        ({"model_type": "mrt5"}, "model_type is 'mrt5' and there are no tensors of a delete gate"),
        ({"d_model": None}, "d_model is None and not a whole number"),
        ({"num_heads": "6"}, "num_heads is '6' and not a whole number"),
    ],
)
def test_another_architecture(changes, said):
    with pytest.raises(UserError, match="is not a ByT5 or MrT5") as error:
        T5.read_config({**tiny_t5.BYT5, **changes}, tiny_t5.shapes(tiny_t5.BYT5))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"deletion_type": "log_sigmoid"}, "deletion_type is 'log_sigmoid'"),
        ({"deletion_threshold": -15.0}, "deletion_threshold is -15.0 and not -10.0"),
        ({"gate_layer_norm": False}, "gate_layer_norm is False"),
        ({"sigmoid_mask_scale": "-20"}, "sigmoid_mask_scale is '-20' and not -30.0"),
    ],
)
def test_another_gate(changes, said):
    with pytest.raises(UserError) as error:
        T5.read_config({**tiny_t5.MRT5, **changes}, tiny_t5.shapes(tiny_t5.MRT5))
    assert said in str(error.value)


def test_two_gates():
    names = [*tiny_t5.shapes(tiny_t5.MRT5), "encoder.block.2.delete_gate.feed_forward.bias"]
    with pytest.raises(UserError, match="delete gates at blocks 1, 2"):
        T5.read_config(tiny_t5.MRT5, names)


def test_everything_that_differs_is_said_at_once():
    with pytest.raises(UserError) as error:
        T5.read_config({"model_type": "bert"}, [])
    assert all(name in str(error.value) for name in ("bert", "vocab_size", "d_model", "tie_word"))


def test_other_ways_to_shorten_have_no_place_in_the_format():
    config = MrT5Config(width=16, shortening=RandomShortening())
    with pytest.raises(UserError, match=r"model\.shortening\.kind is random"):
        config_json(config)
    with pytest.raises(UserError, match=r"model\.shortening\.kind is random"):
        T5.write({}, config)


def test_the_published_small_model_is_the_default():
    published = {
        **tiny_t5.BYT5,
        **{"d_model": 1472, "d_ff": 3584, "d_kv": 64, "num_heads": 6},
        **{"num_layers": 12, "num_decoder_layers": 4},
    }
    assert T5.read_config(published, []) == ByT5Config()
