"""Entropy models as segmenters: the authors' entropies, and what decisions may depend on."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, PAD, START
from bytelm.models.aunet import AUNetConfig
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.hat import HATConfig
from bytelm.models.hnet import HNetConfig
from bytelm.models.mamba import MambaConfig
from bytelm.models.parameters import count_frozen, count_parameters
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.entropy import entropy_edges
from bytelm.patching.segmenter import Needs, RulePatches
from tests.models.golden import cases, load
from tests.patching.test_entropy import check_lengths, rule_of

ENTROPIES = 2e-5
"""Tolerance of the authors' entropies before they are rounded."""

small = TransformerConfig(width=16, head_width=8, depth=2, window=6)


def published_model(cfg):
    return TransformerConfig(
        norm_epsilon=cfg["norm_eps"],
        width=cfg["dim"],
        depth=cfg["n_layers"],
        head_width=cfg["dim"] // cfg["n_heads"],
        mlp_width=-(-(8 * cfg["dim"] // 3) // cfg["multiple_of"]) * cfg["multiple_of"],
        window=cfg["sliding_window"],
        rope_theta=cfg["rope_theta"],
        vocabulary=cfg["vocab_size"] - 1,
    )


def published_parameters(weights, config):
    """Theirs in our layout: they rotate neighbouring channels together, we those half a head on."""
    order = np.r_[0 : config.head_width : 2, 1 : config.head_width : 2]

    def dense(name, rotated=False):
        kernels = np.stack(
            [weights[f"layers.{layer}.{name}.weight"].T for layer in range(config.depth)]
        )
        if rotated:
            heads = kernels.reshape(*kernels.shape[:-1], -1, config.head_width)
            kernels = heads[..., order].reshape(kernels.shape)
        return {"kernel": kernels}

    def scale(name):
        layers = range(config.depth)
        return {"scale": np.stack([weights[f"layers.{layer}.{name}.weight"] for layer in layers])}

    table = weights["tok_embeddings.weight"]
    parameters = {
        "embedding": {"embedding": np.pad(table, ((0, 2), (0, 0)))},
        "stack": {
            "blocks": {
                "attention_norm": scale("attention_norm"),
                "attention": {
                    "query": dense("attention.wq", rotated=True),
                    "key": dense("attention.wk", rotated=True),
                    "value": dense("attention.wv"),
                    "output": dense("attention.wo"),
                },
                "mlp_norm": scale("ffn_norm"),
                "mlp": {
                    "gate": dense("feed_forward.w1"),
                    "up": dense("feed_forward.w3"),
                    "down": dense("feed_forward.w2"),
                },
            }
        },
        "final_norm": {"scale": weights["norm.weight"]},
        "head": {"kernel": weights["output.weight"].T},
    }
    return jax.device_put(parameters)


def published_ids(tokens):
    """Our ids of theirs."""
    assert not (tokens == 3).any()
    special = np.array([PAD, START, END])
    return np.where(tokens < 4, special[np.minimum(tokens, 2)], tokens - 4).astype(np.int32)


@pytest.mark.parametrize("path", cases("blt", lambda file: "out.entropies_rows_glued" in file))
def test_golden_entropies_and_patches(path, monkeypatch):
    case = load(path)
    config = EntropyModelPatches(model=published_model(case.cfg), published_symbols=True)
    segmenter = nnx.eval_shape(lambda: build(config))
    graphdef, _ = nnx.split(segmenter)
    tokens = case.input["tokens"]
    parameters = {"model": published_parameters(case.param, config.model)}
    before = np.pad(tokens[:, :-1] == case.cfg["eos_id"], ((0, 0), (1, 0)))
    documents = 1 + np.cumsum(before, axis=1).astype(np.int32)

    @jax.jit
    def run(parameters, ids, document_ids):
        return nnx.merge(graphdef, parameters).entropies(ids, document_ids)

    monkeypatch.setattr("bytelm.patching.entropy.STEP", 2.0**-30)
    found = run(parameters, published_ids(tokens), documents)
    np.testing.assert_allclose(found, case.out["entropies"], atol=ENTROPIES)
    monkeypatch.undo()
    for index in range(case.cfg["n_cases"]):
        rule = rule_of(case, f"c{index}")
        edges, _ = entropy_edges(rule, np.asarray(found), np.ones_like(tokens))
        check_lengths(case, f"c{index}", edges)


def build(config, mark="end"):
    needs = Needs(mark, known_ends=True)
    return config.build(1, needs, norm=None, relu=False, rngs=nnx.Rngs(0))


def peaked(segmenter):
    """With random weights in the head, which starts at zero, so that entropies differ."""
    shape = segmenter.model.head.kernel.shape
    segmenter.model.head.kernel.set_value(jax.random.normal(jax.random.key(1), shape))
    return segmenter


ROWS, LENGTH = 6, 48
TEXT = np.frombuffer(b"The owl,  at night\nsaw 3 wonders.\n\naaaaaaaaaaaaaaa\n\0\0\0\0", np.uint8)
CONFIGS = {
    "threshold": EntropyModelPatches(model=small, threshold=2.1),
    "rise of runs": EntropyModelPatches(model=small, threshold=None, rise=0.0),
    "both, newlines": EntropyModelPatches(
        model=small, threshold=1.5, rise=-0.2, longest_patch=7, reset=True
    ),
    "mamba, newlines": EntropyModelPatches(
        model=MambaConfig(width=16, head_width=8, state_width=6, layout="m1t1", window=6, chunk=4),
        threshold=2.0,
        reset=True,
    ),
    "spacebyte": EntropyModelPatches(
        model=SpaceByteConfig(
            local_width=16, local_depth=2, global_width=16, global_depth=1, head_width=8,
            bytes_per_slot=1.0,
        ),
        threshold=1.8,
    ),
}  # fmt: skip


@pytest.fixture(params=CONFIGS, scope="module")
def compiled(request):
    """The config, and its segmenter for whole rows and for the next 7 symbols of rows."""
    config = CONFIGS[request.param]
    segmenter = peaked(build(config))
    graphdef, parameters = nnx.split(segmenter)

    @jax.jit
    def run(ids, document_ids, carry=None):
        return nnx.merge(graphdef, parameters)(None, ids, document_ids, carry)

    return config, run, segmenter.init_carry(ROWS, LENGTH, jnp.dtype("float32"))


def rows(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(TEXT), ROWS)
    ids = np.stack([np.roll(np.tile(TEXT, 2), -start)[:LENGTH] for start in starts])
    ids = ids.astype(np.int32)
    ids[:, 0] = START
    return ids


def test_decoding_in_chunks_gives_the_boundaries_of_whole_rows(compiled):
    _, run, carry = compiled
    ids = rows(0)
    whole = np.asarray(run(ids, np.ones_like(ids))[0].hard)
    assert whole[:, 0].all(), "START is a patch of its own"
    assert 0.1 < whole.mean() < 0.8
    rng, done = np.random.default_rng(1), np.zeros((ROWS, 1), int)
    found = np.zeros_like(whole)
    while (done < LENGTH).any():
        lengths = np.minimum(rng.integers(8, size=(ROWS, 1)), LENGTH - done)
        index = np.minimum(done + np.arange(7)[None, :], LENGTH - 1)
        valid = np.arange(7)[None, :] < lengths
        symbols = np.take_along_axis(ids, index, axis=1)
        boundaries, carry = run(symbols, valid.astype(np.int32), carry)
        found[np.nonzero(valid)[0], index[valid]] = np.asarray(boundaries.hard)[valid]
        done = done + lengths
    np.testing.assert_array_equal(found, whole)


def test_neither_other_rows_nor_other_documents_nor_later_bytes_matter(compiled):
    _, run, _ = compiled
    ids = rows(2)
    whole = np.asarray(run(ids, np.ones_like(ids))[0].hard)
    # Row 0 is now the beginnings of rows 1 and 2, and of the others only row 5 stays.
    packed, documents = rows(3), np.ones_like(ids)
    packed[0, :20], packed[0, 20:44], packed[5] = ids[1, :20], ids[2, :24], ids[5]
    documents[0, 20:44], documents[0, 44:] = 2, 0
    found = np.asarray(run(packed, documents)[0].hard)
    np.testing.assert_array_equal(found[0, :20], whole[1, :20])
    np.testing.assert_array_equal(found[0, 20:44], whole[2, :24])
    assert not found[0, 44:].any()
    np.testing.assert_array_equal(found[5], whole[5])


def test_a_newline_forgets_what_was_before_it_if_wanted():
    config = CONFIGS["both, newlines"]
    ids = np.full((2, 12), ord("x"), np.int32)
    ids[:, 0], ids[:, 6], ids[1, 1:6] = START, ord("\n"), ord("y")
    one = np.ones_like(ids)
    for reset in (True, False):
        segmenter = peaked(build(replace(config, reset=reset)))
        first, second = np.asarray(segmenter.entropies(ids, one))
        assert (first[1:6] != second[1:6]).all()
        assert (first[6:] == second[6:]).all() == reset


def test_known_entropies_are_not_computed_again(compiled):
    config, run, _ = compiled
    ids = rows(4)
    segmenter = peaked(build(config))
    known = segmenter.entropies(ids, np.ones_like(ids))
    segmenter.model = None
    boundaries, carry = segmenter(None, ids, np.ones_like(ids), entropies=known)
    np.testing.assert_array_equal(boundaries.hard, run(ids, np.ones_like(ids))[0].hard)
    assert carry is None


def test_frozen_parameters_do_not_count():
    model = SpaceByteConfig(local_width=16, global_width=16, head_width=8)
    with_rule = count_parameters(replace(model, segmenter=RulePatches()))
    patches = replace(model, segmenter=CONFIGS["threshold"])
    assert count_parameters(patches) == with_rule
    assert count_frozen(patches) == count_parameters(small)[0]


def test_flops_are_those_of_both_models():
    model = SpaceByteConfig(local_width=16, global_width=16, head_width=8, bytes_per_slot=4.0)
    patches = replace(model, segmenter=CONFIGS["threshold"])
    own = small.forward_flops(64)
    assert patches.forward_flops(64) == model.forward_flops(64) + own
    assert patches.frozen_flops(64) == own and model.frozen_flops(64) == 0


@pytest.mark.parametrize(
    "patches, error",
    [
        ({}, r"has no entropy model; name the run of one with --model.segmenter.checkpoint"),
        (
            {"model": TransformerConfig(vocabulary=500)},
            r"model of the segmenter reads 500 tokens, .* with model.segmenter.checkpoint",
        ),
        ({"model": ByT5Config()}, "is of the family byt5, which has an encoder"),
        ({"model": SpaceByteConfig(), "reset": True}, "of the family spacebyte, and reset needs"),
        ({"model": small, "published_symbols": True}, "has 257 outputs, and the released ones hav"),
        ({"model": replace(small, ngrams=(3,)), "reset": True}, "reads n-grams, which look past t"),
        ({"model": small, "threshold": None}, "has neither a threshold nor a rise"),
        ({"model": small, "longest_patch": 0}, "longest_patch is 0; it must be at least 1"),
    ],
)
def test_errors(patches, error):
    with pytest.raises(UserError, match=error):
        SpaceByteConfig(segmenter=EntropyModelPatches(**patches)).build(nnx.Rngs(0))


def test_families_that_it_does_not_fit():
    with pytest.raises(UserError, match="entropy_model does not fit the family hat: it has no lo"):
        HATConfig(segmenter=CONFIGS["threshold"])
    HATConfig(segmenter=CONFIGS["both, newlines"])
    two = partial(HNetConfig, layout="m1 [m1 [T1] m1] m1", widths=(64, 64, 64))
    inner = (CONFIGS["threshold"],)
    with pytest.raises(UserError, match="it reads bytes, and cuts patches in this place"):
        two(segmenter=CONFIGS["threshold"], inner_segmenters=inner)
    two(segmenter=CONFIGS["threshold"], inner_segmenters=(RulePatches(),))
    AUNetConfig(widths=(64,) * 3, segmenter=CONFIGS["threshold"])
    assert small.symbols.size == BYTES
