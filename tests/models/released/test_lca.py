"""The byte models of LCA-MBP in their authors' format: their numbers, and errors."""

import math

import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START
from bytelm.models import Batch
from bytelm.models.parameters import abstract_model
from bytelm.models.released.lca import FlatLcaFormat, PooledLcaFormat
from tests.models import tiny_decoder

FLAT = {
    "model_config": "[3, (0,), 0, 0]",
    "boundaries_type": "none",
    "activation_function": "gelu",
    "use_group_attn": False,
    "lm_vocab_size": 261,
    "lm_hidden_dim": 16,
    "lm_inter_dim": 24,
    "lm_rms_eps": 1e-6,
    "lm_re_base": 1000,
    "lm_max_position_embeddings": 64,
    "lm_n_heads": 4,
    "lm_n_kv_heads": 2,
    "lm_attn_scaling": 1.0,
    "lm_tie_weights": False,
}
POOLED = {**FLAT, "model_config": "[1, (2,), 1, 0]", "boundaries_type": "gumbel"}
POOLED["lm_n_kv_heads"] = 4
PREDICTOR = "script_to_bp_layers.<en>.boundary_predictor"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000,
}
"""The same blocks as `tiny_decoder` names them."""
TEXT = np.array([*b"some words, and \xff"])


def weights(saved, depths):
    rng, width, hidden = np.random.default_rng(0), saved["lm_hidden_dim"], saved["lm_inter_dim"]
    shared = width * saved["lm_n_kv_heads"] // saved["lm_n_heads"]
    shapes = {f"{name}.weight": (261, width) for name in ("token_embedding", "head")}
    shapes |= {"norm.weight": (width,), "rotary_embd.inv_freq": (2,)}
    for stack, depth in enumerate(depths):
        for block in range(depth):
            layer = f"blocks.{stack}.{block}"
            shapes |= {f"{layer}.norm{number}.weight": (width,) for number in (1, 2)}
            rows = {"q_proj": width, "k_proj": shared, "v_proj": shared, "out_proj": width}
            shapes |= {f"{layer}.attn.{part}.weight": (n, width) for part, n in rows.items()}
            rows = {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
            shapes |= {f"{layer}.mlp.{part}_proj.weight": shape for part, shape in rows.items()}
    if len(depths) > 1:
        shapes["null_group"] = (1, 1, width)
        shapes |= {f"{PREDICTOR}.0.weight": (hidden, width), f"{PREDICTOR}.0.bias": (hidden,)}
        shapes |= {f"{PREDICTOR}.2.weight": (1, hidden), f"{PREDICTOR}.2.bias": (1,)}
    return {
        name: rng.normal(float("norm" in name), 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def stack(tensors, number, x):
    """The blocks of one stack over `[T, d]`."""
    names = {
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
        "attn.out_proj": "self_attn.o_proj",
        **{f"attn.{part}_proj": f"self_attn.{part}_proj" for part in "qkv"},
        **{f"mlp.{part}_proj": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
    }
    start, found = f"blocks.{number}.", {}
    for name, tensor in tensors.items():
        if name.startswith(start):
            block, part = name.removeprefix(start).removesuffix(".weight").split(".", 1)
            found[f"model.layers.{block}.{names[part]}.weight"] = tensor
    depth = len({name.split(".")[2] for name in found})
    return tiny_decoder.blocks({**LLAMA, "num_hidden_layers": depth}, found, x)


def erf(x):
    return np.vectorize(math.erf)(x)


def pooled(w, x):
    """Blocks, means of patches after a null vector, blocks, what has ended, and blocks."""
    x = stack(w, 0, x)
    hidden = x @ w[f"{PREDICTOR}.0.weight"].T + w[f"{PREDICTOR}.0.bias"]
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    ends = (hidden @ w[f"{PREDICTOR}.2.weight"].T + w[f"{PREDICTOR}.2.bias"])[:, 0] > 0
    patch = np.cumsum(ends) - ends
    means = [x[patch == number].mean(0) for number in range(ends.sum())]
    patches = stack(w, 1, np.stack([w["null_group"][0, 0], *means]))
    return stack(w, 2, x + patches[np.cumsum(ends)]), ends


def our_logits(form, saved, tensors):
    config = form.read_config(saved, tensors)
    model = nnx.merge(abstract_model(config)[0], form.read(tensors, config))
    ids = np.array([[START, *TEXT]], np.int32)
    return np.asarray(model(Batch(ids, ids, np.ones_like(ids))).logits[0]), config


def official(w, x):
    return (tiny_decoder.rms(LLAMA, x, w["norm.weight"]) @ w["head.weight"].T)[
        :, [*range(3, 259), 1]
    ]


def test_the_flat_model():
    tensors = weights(FLAT, (3,))
    found, config = our_logits(FlatLcaFormat(), FLAT, tensors)
    w = tiny_decoder.wide(tensors)
    # Documents follow one another: the end of one is what the next begins after.
    x = w["token_embedding.weight"][[1, *TEXT + 3]]
    np.testing.assert_allclose(found, official(w, stack(w, 0, x)), rtol=0, atol=2e-5)
    assert found.shape[1] == END + 1
    assert (config.depth, config.spare_rows, config.norm_epsilon) == (3, 5, 1e-6)
    assert FlatLcaFormat().row_length(FLAT) == 64


def test_the_pooled_model():
    tensors = weights(POOLED, (1, 2, 1))
    found, config = our_logits(PooledLcaFormat(), POOLED, tensors)
    w = tiny_decoder.wide(tensors)
    x, ends = pooled(w, w["token_embedding.weight"][[1, *TEXT + 3]])
    assert 2 < ends.sum() < len(ends) - 2
    np.testing.assert_allclose(found, official(w, x), rtol=0, atol=2e-5)
    assert (config.pre_depth, config.backbone_depth, config.post_depth) == (1, 2, 1)


def test_each_recognises_its_own():
    flat, pooled = FlatLcaFormat(), PooledLcaFormat()
    assert flat.recognises(FLAT) and pooled.recognises(POOLED) and not flat.recognises(POOLED)
    for other in ({}, {"model_config": "[1]"}, {"lm_hidden_dim": 3, "model_config": "f()"}):
        assert not flat.recognises(other) and not pooled.recognises(other)


@pytest.mark.parametrize(
    ("form", "changes", "said"),
    [
        (FlatLcaFormat(), {"lm_n_heads": None}, "lm_n_heads is None and not a whole number"),
        (FlatLcaFormat(), {"lm_attn_scaling": 0.5}, "lm_attn_scaling is 0.5 and not 1.0"),
        (FlatLcaFormat(), {"lm_tie_weights": True}, "lm_tie_weights is True and not False"),
        (FlatLcaFormat(), {"lm_re_base": "1e5"}, "lm_re_base is '1e5' and not a number"),
        (FlatLcaFormat(), {"lm_vocab_size": 256}, "lm_vocab_size is 256, too few"),
        (PooledLcaFormat(), {"boundaries_type": "fixed"}, "boundaries_type is 'fixed' and not"),
        (PooledLcaFormat(), {"model_config": "[2, (4,), 2, 2]"}, "there are 2 multi-byte blocks"),
        (PooledLcaFormat(), {"lm_n_kv_heads": 2}, "lm_n_kv_heads is 2 and not 4"),
    ],
)
def test_what_is_not_known_is_named(form, changes, said):
    saved = {**(FLAT if isinstance(form, FlatLcaFormat) else POOLED), **changes}
    with pytest.raises(UserError, match="no model of LCA-MBP that is known") as error:
        form.read_config(saved, ())
    assert said in str(error.value)


def test_tensors_that_do_not_fit():
    tensors = weights(POOLED, (1, 2, 1))
    tensors["head.weight"] = tensors["head.weight"][:200]
    del tensors["null_group"]
    config = PooledLcaFormat().read_config(POOLED, tensors)
    with pytest.raises(UserError, match=r"missing null_group; head\.weight has the shape \[200"):
        PooledLcaFormat().read(tensors, config)
