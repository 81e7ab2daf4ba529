"""Tiny decoders of tokens as their files have them, and NumPy programs that compute them."""

import json

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from bytelm.tokenizers.tokenizer import CHARACTERS

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
TOKENS = 261
"""256 bytes, three merges, and two special tokens."""
START, END = 259, 260

BASE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "hidden_act": "silu",
    "vocab_size": TOKENS,
    "max_position_embeddings": 48,
    "rms_norm_eps": 1e-3,
    "rope_theta": 1000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": START,
    "eos_token_id": END,
}
LLAMA = {**BASE, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CASES = {
    "llama": LLAMA,
    "llama, scaled": {
        **LLAMA,
        "head_dim": 12,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 100,
        },
    },
    "llama, tied, spare rows": {**LLAMA, "tie_word_embeddings": True, "vocab_size": TOKENS + 7},
    "mistral": {
        **BASE,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 4,
        "head_dim": 8,
    },
    "qwen2": {**BASE, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {
        **BASE,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 8,
        "vocab_size": TOKENS + 3,
    },
    "olmo2": {
        **BASE,
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "bos_token_id": END,
    },
}


def head_width(saved):
    return saved.get("head_dim", saved["hidden_size"] // saved["num_attention_heads"])


def shapes(saved):
    """The shape of each tensor, by name."""
    d, ff, rows = saved["hidden_size"], saved["intermediate_size"], saved["vocab_size"]
    head = head_width(saved)
    q, k = (saved[f"num_{part}_heads"] * head for part in ("attention", "key_value"))
    found = {"model.embed_tokens.weight": (rows, d), "model.norm.weight": (d,)}
    if not saved["tie_word_embeddings"]:
        found["lm_head.weight"] = (rows, d)
    for block in range(saved["num_hidden_layers"]):
        layer = f"model.layers.{block}"
        attention = f"{layer}.self_attn"
        for part, width in (("q", q), ("k", k), ("v", k)):
            found[f"{attention}.{part}_proj.weight"] = (width, d)
            if saved["model_type"] == "qwen2":
                found[f"{attention}.{part}_proj.bias"] = (width,)
        found[f"{attention}.o_proj.weight"] = (d, q)
        if saved["model_type"] in ("qwen3", "olmo2"):
            per_head = saved["model_type"] == "qwen3"
            found[f"{attention}.q_norm.weight"] = (head if per_head else q,)
            found[f"{attention}.k_norm.weight"] = (head if per_head else k,)
        found |= {f"{layer}.mlp.{part}_proj.weight": (ff, d) for part in ("gate", "up")}
        found[f"{layer}.mlp.down_proj.weight"] = (d, ff)
        first = "post_feedforward" if saved["model_type"] == "olmo2" else "input"
        for norm in (first, "post_attention"):
            found[f"{layer}.{norm}_layernorm.weight"] = (d,)
    return found


def weights(saved, dtype=np.float32):
    rng = np.random.default_rng(0)

    def tensor(name, shape):
        centre = 1.0 if "norm" in name else 0.0
        return rng.normal(centre, 0.3, shape).astype(dtype)

    return {name: tensor(name, shape) for name, shape in shapes(saved).items()}


def logits(saved, tensors, ids):
    """What the model gives for one row of token ids `[T]`, in float64: `[T, rows]`."""
    w = wide(tensors)
    x = blocks(saved, w, w["model.embed_tokens.weight"][ids])
    head_table = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms(saved, x, w["model.norm.weight"]) @ head_table.T


def wide(tensors):
    return {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}


def rms(saved, x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + saved["rms_norm_eps"]) * scale


def blocks(saved, w, x):
    """All blocks over `[T, d]`."""
    kind, head, length = saved["model_type"], head_width(saved), len(x)

    def rotated(x):
        half = head // 2
        turn = 1 / saved["rope_theta"] ** (np.arange(half) / half)
        if scaling := saved.get("rope_scaling"):
            turns = scaling["original_max_position_embeddings"] * turn / (2 * np.pi)
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            smooth = (turns - low) / (high - low)
            slow = turn / scaling["factor"]
            between = (1 - smooth) * slow + smooth * turn
            turn = np.where(turns < low, slow, np.where(turns > high, turn, between))
        angles = np.arange(length)[:, None] * turn
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(x, layer):
        def projected(part):
            return x @ w[f"{layer}.{part}_proj.weight"].T + w.get(f"{layer}.{part}_proj.bias", 0)

        q, k, v = map(projected, "qkv")
        if kind == "olmo2":
            q, k = (
                rms(saved, q, w[f"{layer}.q_norm.weight"]),
                rms(saved, k, w[f"{layer}.k_norm.weight"]),
            )
        q, k, v = (each.reshape(length, -1, head) for each in (q, k, v))
        if kind == "qwen3":
            q, k = (
                rms(saved, q, w[f"{layer}.q_norm.weight"]),
                rms(saved, k, w[f"{layer}.k_norm.weight"]),
            )
        q, k = rotated(q), rotated(k)
        k, v = (np.repeat(each, q.shape[1] // each.shape[1], axis=1) for each in (k, v))
        scores = np.einsum("qhc,khc->hqk", q, k) / np.sqrt(head)
        back = np.arange(length)[:, None] - np.arange(length)
        seen = (back >= 0) & (back < (saved.get("sliding_window") or length))
        scores = np.exp(np.where(seen, scores, -np.inf))
        mixed = np.einsum("hqk,khc->qhc", scores / scores.sum(-1, keepdims=True), v)
        return mixed.reshape(length, -1) @ w[f"{layer}.o_proj.weight"].T

    def mlp(x, layer):
        gate, up = (x @ w[f"{layer}.{part}_proj.weight"].T for part in ("gate", "up"))
        return (gate / (1 + np.exp(-gate)) * up) @ w[f"{layer}.down_proj.weight"].T

    for block in range(saved["num_hidden_layers"]):
        layer = f"model.layers.{block}"
        branches = ((attention, "self_attn"), (mlp, "mlp"))
        if kind == "olmo2":
            for (branch, name), norm in zip(
                branches, ("post_attention", "post_feedforward"), strict=True
            ):
                y = branch(x, f"{layer}.{name}")
                x = x + rms(saved, y, w[f"{layer}.{norm}_layernorm.weight"])
        else:
            for (branch, name), norm in zip(branches, ("input", "post_attention"), strict=True):
                y = rms(saved, x, w[f"{layer}.{norm}_layernorm.weight"])
                x = x + branch(y, f"{layer}.{name}")
    return x


def log_probabilities(saved, tensors, ids):
    """Of each next token, `[T, rows]`."""
    found = logits(saved, tensors, ids)
    found -= found.max(-1, keepdims=True)
    return found - np.log(np.exp(found).sum(-1, keepdims=True))


def tokenizer_json():
    """A byte-level tokenizer of `TOKENS` tokens, with Qwen's normalizer."""
    vocabulary = {CHARACTERS[byte]: byte for byte in range(256)}
    merges = [("t", "h"), ("th", "e"), (CHARACTERS[ord(" ")], "the")]
    vocabulary |= {"".join(pair): 256 + number for number, pair in enumerate(merges)}
    library = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return library.to_str()


def write_folder(path, saved, tensors=None):
    """A folder as `save_pretrained` writes it."""
    path.mkdir()
    (path / CONFIG).write_text(json.dumps(saved))
    (path / TOKENIZER).write_text(tokenizer_json())
    save_file(weights(saved) if tensors is None else tensors, path / WEIGHTS)
    return path
