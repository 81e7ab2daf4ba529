"""A tiny ByT5 and MrT5 as their files have them: config.json and tensors of random bits."""

import json

import numpy as np
from safetensors.numpy import save_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"

BYT5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_model": 16,
    "d_ff": 24,
    "d_kv": 4,
    "num_heads": 2,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "vocab_size": 384,
    "relative_attention_num_buckets": 32,
    "dropout_rate": 0.1,
    "tokenizer_class": "ByT5Tokenizer",
}
MRT5 = {
    **BYT5,
    "architectures": ["MrT5ForConditionalGeneration"],
    "model_type": "mrt5",
    "delete_gate_layer": 1,
    "deletion_threshold": -10.0,
    "sigmoid_mask_scale": -20.0,
    "use_softmax1": True,
}
CASES = {"byt5": BYT5, "mrt5": MRT5}
GATE = "encoder.block.1.delete_gate"


def shapes(saved):
    """The shape of each tensor, by name."""
    d, inner, ff = saved["d_model"], saved["num_heads"] * saved["d_kv"], saved["d_ff"]
    found = {"shared.weight": (384, d), "lm_head.weight": (384, d)}
    stacks = {
        "encoder": (saved["num_layers"], ["SelfAttention"]),
        "decoder": (saved["num_decoder_layers"], ["SelfAttention", "EncDecAttention"]),
    }
    for side, (depth, attentions) in stacks.items():
        found[f"{side}.final_layer_norm.weight"] = (d,)
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found[table] = (32, saved["num_heads"])
        for block in range(depth):
            for number, attention in enumerate(attentions):
                layer = f"{side}.block.{block}.layer.{number}"
                found |= {f"{layer}.{attention}.{part}.weight": (inner, d) for part in "qkv"}
                found |= {f"{layer}.{attention}.o.weight": (d, inner)}
                found |= {f"{layer}.layer_norm.weight": (d,)}
            layer = f"{side}.block.{block}.layer.{len(attentions)}"
            found |= {f"{layer}.DenseReluDense.wi_{i}.weight": (ff, d) for i in range(2)}
            found |= {f"{layer}.DenseReluDense.wo.weight": (d, ff)}
            found |= {f"{layer}.layer_norm.weight": (d,)}
    if saved["model_type"] == "mrt5":
        found[f"{GATE}.layer_norm.weight"] = (d,)
        found[f"{GATE}.feed_forward.weight"] = (1, d)
        found[f"{GATE}.feed_forward.bias"] = (1,)
    return found


def weights(saved, seed=0):
    """Tensors of any bits at all, NaN among them."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
        for name, shape in shapes(saved).items()
    }


def assert_same(found, wanted):
    """The same tensors, bit for bit."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == tensor.shape, name
        np.testing.assert_array_equal(found[name].view(np.uint32), tensor.view(np.uint32), name)


def write_folder(path, saved=BYT5, tensors=None):
    """A folder as `save_pretrained` writes it."""
    path.mkdir()
    (path / CONFIG).write_text(json.dumps(saved))
    save_file(weights(saved) if tensors is None else tensors, path / WEIGHTS)
    return path
