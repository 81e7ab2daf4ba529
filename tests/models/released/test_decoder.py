"""Llama and others in Hugging Face's formats: their numbers, the same bits back, and errors."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.models import Batch
from bytelm.models.draft import LinearDraft
from bytelm.models.parameters import abstract_model
from bytelm.models.released.decoder import DecoderFormat
from bytelm.models.transformer import TransformerConfig
from tests.models import tiny_decoder
from tests.models.compiled import split_model
from tests.models.families import small
from tests.models.tiny_decoder import CASES, END, LLAMA, START, TOKENS
from tests.models.tiny_t5 import assert_same

FORMAT = DecoderFormat()
TEXTS = [b"x"] * START + [b"", b""]
"""The bytes of the tokens; only those of special tokens matter here."""


def read_config(saved, names=()):
    return FORMAT.with_tokens(FORMAT.read_config(saved, names), TEXTS)


@pytest.fixture(params=CASES)
def saved(request):
    return CASES[request.param]


@pytest.fixture
def tensors(saved):
    return tiny_decoder.weights(saved)


def our_log_probabilities(config, params, ids):
    model = nnx.merge(abstract_model(config)[0], params)
    found = np.asarray(model(Batch(ids[None], ids[None], np.ones_like(ids[None]))).logits[0])
    return found - np.log(np.exp(found.astype(np.float64)).sum(-1, keepdims=True))


def test_probabilities_are_those_of_the_published_model(saved, tensors):
    config = read_config(saved, tensors)
    ids = np.array([TOKENS + 1, *np.random.default_rng(1).integers(0, START, 12)], np.int32)
    found = our_log_probabilities(config, FORMAT.read(tensors, config), ids)
    theirs = np.where(ids == TOKENS + 1, saved["bos_token_id"], ids)
    wanted = tiny_decoder.log_probabilities(saved, tensors, theirs)
    assert wanted.std() > 0.5
    np.testing.assert_allclose(found[:, :END], wanted[:, :END], rtol=0, atol=2e-5)
    np.testing.assert_allclose(found[:, TOKENS], wanted[:, END], rtol=0, atol=2e-5)
    spare = np.exp(wanted[:, TOKENS:]).sum(-1)
    np.testing.assert_allclose(np.exp(found[:, END]), spare, rtol=1e-4)


def test_there_and_back_gives_the_same_bits(saved, tensors):
    config = read_config(saved, tensors)
    assert_same(FORMAT.write(FORMAT.read(tensors, config), config), tensors)
    again = FORMAT.files(config, saved["max_position_embeddings"])["config.json"]
    assert {name: again[name] for name in saved} == saved


def test_old_and_new_ways_to_write_the_same():
    wanted = read_config(LLAMA)
    newer = {**LLAMA, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}}
    del newer["rope_theta"], newer["rope_scaling"]
    assert read_config(newer) == wanted
    older = {**LLAMA, "eos_token_id": [END, 5], "head_dim": None}
    assert read_config(older) == wanted
    without = {**LLAMA, "bos_token_id": None}
    assert read_config(without) == dataclasses.replace(wanted, start_row=END)
    tensors = tiny_decoder.weights(LLAMA)
    more = {**tensors, "model.layers.1.self_attn.rotary_emb.inv_freq": np.zeros(3, np.float32)}
    assert_same(FORMAT.write(FORMAT.read(more, wanted), wanted), tensors)
    tied = {**LLAMA, "tie_word_embeddings": True}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    FORMAT.read(tensors, read_config(tied))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is None and"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "in a way (rope_type 'linear')"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5 and not 1"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu' and not 'silu'"),
        ({"attention_bias": True}, "attention_bias is True, which is not supported"),
        ({"mlp_bias": True}, "mlp_bias is True, which is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, which"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "has full_attention, sliding"),
        ({"hidden_size": None}, "hidden_size is None and not a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0 and not a whole number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta is inf and not a number"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear' and no object"),
        ({"layer_types": 5}, "layer_types is 5 and no list"),
        ({"bos_token_id": "x"}, "bos_token_id is 'x' and not a token"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small' and not a number"),
        ({"eos_token_id": None}, "eos_token_id is None and not a token"),
        ({"eos_token_id": 1000}, "describes no model: model.end_row is 1000"),
        ({"num_key_value_heads": 3}, "describes no model: model.key_value_heads 3"),
        ({"vocab_size": TOKENS - 1, "eos_token_id": 3}, "261 tokens, and the tables of the model"),
        ({"vocab_size": 300, "eos_token_id": 290}, "is no token of its tokenizer.json"),
        ({"eos_token_id": 5}, "the token 5, eos_token_id in its config.json, is the text b'x'"),
    ],
)
def test_what_is_not_supported_is_named(changes, said):
    with pytest.raises(UserError) as error:
        read_config({**LLAMA, **changes})
    assert said in str(error.value) and str(error.value).count("\n") == 0


def test_a_head_that_is_missing():
    tensors = tiny_decoder.weights(LLAMA)
    del tensors["lm_head.weight"]
    with pytest.raises(UserError, match=r"tie_word_embeddings in its config\.json is not true"):
        FORMAT.read(tensors, read_config(LLAMA, tensors))


def test_draft_heads_are_left_out():
    plain, heads = small(), small(draft=LinearDraft(2))
    assert not FORMAT.lost(plain) and FORMAT.lost(heads) == "its draft heads are left out"
    assert FORMAT.tensors(heads).keys() == FORMAT.tensors(plain).keys()


@pytest.mark.parametrize("options", [{}, {"tied_head": True}], ids=["untied", "tied"])
def test_a_model_of_ours_is_written_with_one_token_for_start_and_end(options):
    config = small(head_width=8, mlp="swiglu", qk_norm=True, **options)
    params = split_model(config)[1]
    tensors = FORMAT.write(params, config)
    saved = FORMAT.files(config, 64)["config.json"]
    assert saved["model_type"] == "qwen3" and saved["vocab_size"] == 257
    assert saved["bos_token_id"] == saved["eos_token_id"] == 256
    assert not saved["tie_word_embeddings"]
    ids = np.array([257, *np.random.default_rng(1).integers(0, 256, 9)], np.int32)
    found = our_log_probabilities(config, params, ids)
    wanted = tiny_decoder.log_probabilities(saved, tensors, np.minimum(ids, 256))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mlp": "gelu"}, "model.mlp is 'gelu' and not 'swiglu'"),
        ({"rope_theta": None}, "model.rope_theta is not set"),
        ({"ngrams": (3,), "ngram_rows": 7}, "model.ngrams is (3,) and not empty"),
        ({"qk_norm": True, "window": 5}, "model.window is set, which only Mistral's has"),
        ({"norm_after": True}, "no format has all of model.qkv_bias is False, model.qk_norm is F"),
    ],
)
def test_what_no_format_can_store(options, said):
    config = TransformerConfig(width=32, depth=1, head_width=8, **options)
    with pytest.raises(UserError, match="cannot store the model") as error:
        FORMAT.files(config, 64)
    assert said in str(error.value)
