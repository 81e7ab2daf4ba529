"""AU-Net: its configs, and the authors' own numbers."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, START
from bytelm.models.aunet import PLACES, AUNetConfig, AUNetLevel
from bytelm.nn.stack import Stack
from bytelm.patching.learned import EntropyPatches, GumbelPatches
from bytelm.patching.levels import Segmentation, Symbols
from bytelm.patching.patches import find_patches
from bytelm.patching.segmenter import Boundaries, RulePatches, Segmenter
from bytelm.patching.word_levels import WordGroups, split_levels
from tests.models import golden
from tests.models.families import aunet

BEGIN, STOP = 256, 257
"""START and END in the golden vectors: their words for them are BOS and EOS."""
GROUPS = {"word1": (1,), "word12": (1, 2), "word124": (1, 2, 4)}


def golden_config(case, more_keys=0):
    """The case's model; the authors' generation sees one key more than the window."""
    cfg = case.cfg
    widths, slots = tuple(cfg["dimensions"]), cfg.get("max_seqlens")
    multiple = cfg["multiple_of"]
    per_slot = [a / b for a, b in itertools.pairwise(slots)] if slots else [1.0] * 3
    return AUNetConfig(
        compute_dtype="float32",
        widths=widths,
        depths=tuple(cfg["layers"]),
        windows=tuple(window + more_keys for window in cfg["sliding_windows"]),
        head_widths=tuple(cfg["head_dims"]),
        mlp_widths=tuple(multiple * -(-(8 * width // 3) // multiple) for width in widths),
        segmenter=WordGroups(GROUPS[cfg["strategy"]]),
        bytes_per_slot=per_slot[0],
        patches_per_slot=tuple(per_slot[1 : len(widths) - 1]),
        rope_theta=cfg["rope_theta"],
        qk_norm=False,
        scaled_init=False,
    )


def symbols(tokens):
    return np.select([tokens == BEGIN, tokens == STOP], [START, END], tokens).astype(np.int32)


def golden_parameters(case, weights):
    table, head = weights["tok_embeddings.weight"], weights["vocab.weight"].T
    special = table[jnp.array([STOP, BEGIN, BEGIN])]  # END, START, PAD
    heads = case.cfg["head_dims"]
    return {
        "embedding": {"embedding": jnp.concatenate([table[:BYTES], special])},
        "levels": {
            str(level): {
                "encoder": stack_parameters(weights, f"encoders.{level}", heads[level]),
                "decoder": stack_parameters(weights, f"decoders.{level}", heads[level]),
                **transition_parameters(weights, f"transitions.{level}"),
            }
            for level in range(case.cfg["n_stages"] - 1)
        },
        "backbone": stack_parameters(weights, "trunk", heads[-1]),
        "final_norm": {"scale": weights["vocab_norm.weight"]},
        "head": {"kernel": jnp.concatenate([head[:, :BYTES], head[:, STOP:]], axis=1)},
    }


def transition_parameters(weights, prefix):
    by_place = weights[f"{prefix}.indexed_linear.weight"]  # [PLACES, d, D]
    return {
        "down_norm": {"scale": weights[f"{prefix}.down_norm.weight"]},
        "down": {"kernel": weights[f"{prefix}.trans_down.weight"].T},
        "up_norm": {"scale": weights[f"{prefix}.up_norm.weight"]},
        "up": {"kernel": weights[f"{prefix}.trans_up.weight"].T},
        "up_by_place": {"kernel": by_place.transpose(2, 0, 1).reshape(by_place.shape[2], -1)},
    }


def stack_parameters(weights, prefix, head_width):
    """Of a `Stack`; they rotate neighbouring channels together, we channels half a head apart."""
    layers = f"{prefix}.layers."
    depth = len({name[len(layers) :].split(".")[0] for name in weights if name.startswith(layers)})
    order = np.r_[0:head_width:2, 1:head_width:2]

    def stacked(name):
        return jnp.stack([weights[f"{layers}{n}.{name}.weight"] for n in range(depth)])

    def dense(name, reordered=False):
        kernel = stacked(name).swapaxes(1, 2)
        if reordered:
            heads = kernel.reshape(*kernel.shape[:2], -1, head_width)
            kernel = heads[..., order].reshape(kernel.shape)
        return {"kernel": kernel}

    return {
        "blocks": {
            "attention_norm": {"scale": stacked("attention_norm")},
            "attention": {
                "query": dense("attention.wq", reordered=True),
                "key": dense("attention.wk", reordered=True),
                "value": dense("attention.wv"),
                "output": dense("attention.wo"),
            },
            "mlp_norm": {"scale": stacked("ffn_norm")},
            "mlp": {
                "gate": dense("feed_forward.w1"),
                "up": dense("feed_forward.w3"),
                "down": dense("feed_forward.w2"),
            },
        }
    }


def is_full(file):
    return "out.h_trunk" in file


@pytest.fixture(params=golden.cases("aunet", is_full), scope="module")
def case(request):
    return golden.load(request.param)


class Given(Segmenter):
    """Levels that are known: rows of the cases begin within documents, where words are counted."""

    def __init__(self, levels):
        self.levels = nnx.data(levels)

    def __call__(self, states, ids, document_ids, carry=None, keys=None):
        hard = self.levels > 0
        return Boundaries(hard, hard.astype(jnp.float32), ids=self.levels), carry


def golden_levels(case):
    """Those of the case; the first symbol of a row splits at all levels."""
    levels = case.input["level_mask"].astype(np.int32)
    levels[:, 0] = case.cfg["n_stages"] - 1
    return levels


def run(case, weights, config):
    """The loss, and what lies in between: our model with the case's weights and levels."""
    model = nnx.merge(golden_graph(case, config), golden_parameters(case, weights))
    model.segmenter = Given(golden_levels(case))
    ids = symbols(case.input["tokens"])
    stacks, run_stack = [], Stack.__call__

    def recorded(self, x, *args, **options):
        y = run_stack(self, x, *args, **options)
        stacks.append((x, y))
        return y

    with mock.patch.object(Stack, "__call__", recorded):
        # All documents of a row are one: theirs see each other.
        x, _, cuts = model.forward(Symbols.of_rows(ids, jnp.ones_like(ids)))
    # They also predict their beginning of a document.
    logits = model.final_norm(x) @ weights["vocab.weight"].T
    targets = case.input["targets"]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    loss, level_logits = nats.mean(), None
    if case.cfg["lambda_level"]:
        following = weights["tok_embeddings.weight"][targets]
        level_logits = level_head(weights, jnp.concatenate([x, following], axis=-1))
        wanted = case.input["target_level_mask"]
        of_levels = optax.softmax_cross_entropy_with_integer_labels(level_logits, wanted)
        loss += case.cfg["lambda_level"] * of_levels.mean()
    found = {
        "logits": logits,
        "own_logits": model.logits(x),
        "level_logits": level_logits,
        "nats": nats,
        "stacks": stacks,
        "patches": [cut.patches for cut in cuts],
        "offsets": [cut.offsets for cut in cuts],
    }
    return loss, found


def level_head(weights, x):
    """The published option, which our model does not have."""
    normed = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-5)
    scale = weights["level_mask_norm.weight"][None, None, :]
    return (normed * scale) @ weights["level_mask.weight"].T


def golden_graph(case, config):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    parameters = functools.partial(golden_parameters, case)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(parameters, case.param))
    assert shapes == jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    return graphdef


@functools.cache
def golden_result(case):
    config = golden_config(case)
    program = jax.jit(jax.value_and_grad(lambda w: run(case, w, config), has_aux=True))
    (loss, found), gradients = jax.device_get(program(case.param))
    return SimpleNamespace(loss=loss, gradients=gradients, **found)


def test_golden_aunet_logits_and_losses(case):
    result = golden_result(case)
    golden.assert_close(result.logits, case.out["logits"])
    golden.assert_close(result.nats, case.out["loss_per_token"])
    golden.assert_close(result.loss, case.out.get("total_loss", case.out["loss"]))
    own = case.out["logits"][:, :, [*range(BYTES), STOP]]
    golden.assert_close(result.own_logits, own)
    if "level_logits" in case.out:
        golden.assert_close(result.level_logits, case.out["level_logits"])


def test_golden_aunet_gradients(case):
    assert case.grad
    for name, wanted in case.grad.items():
        got = golden_result(case).gradients[name]
        if name.endswith("indexed_linear.weight"):
            got = got[case.cfg["grad_offsets"]]
        golden.assert_close(got, wanted, atol=golden.GRADIENTS * np.abs(wanted).max())


def test_golden_aunet_patches(case):
    tokens = case.input["tokens"]
    byte_positions, real = np.arange(tokens.shape[1])[None, :], np.ones(tokens.shape, bool)
    for level, patches in enumerate(golden_result(case).patches):
        valid, inner = patches.valid, level + 1
        np.testing.assert_array_equal(patches.valid.sum(axis=1), case.out[f"n_slots.{inner}"])
        index = np.where(valid, patches.positions, -1)
        np.testing.assert_array_equal(index, case.out[f"pool_index.{inner}"])
        byte_positions = np.take_along_axis(byte_positions, patches.positions, axis=1)
        in_bytes = np.where(valid, byte_positions, -1)
        np.testing.assert_array_equal(in_bytes, case.out[f"byte_position.{inner}"])
        offsets = golden_result(case).offsets[level] % PLACES
        np.testing.assert_array_equal(patches.index[real], case.out[f"segment.{level}"][real])
        np.testing.assert_array_equal(offsets[real], case.out[f"offset.{level}"][real])
        real = valid  # their unused slots have patches too


def test_golden_aunet_hidden_states(case):
    result, levels = golden_result(case), case.cfg["n_stages"] - 1
    *encoders, (trunk_in, trunk_out) = result.stacks[: levels + 1]
    decoders = result.stacks[:levels:-1]
    real = [np.ones(case.input["tokens"].shape, bool), *(p.valid for p in result.patches)]
    golden.assert_close(trunk_out[real[-1]], case.out["h_trunk"][real[-1]])
    for level in range(levels):
        inside, outside = real[level + 1], real[level]
        inner_in = encoders[level + 1][0] if level + 1 < levels else trunk_in
        golden.assert_close(inner_in[inside], case.out[f"down.{level}"][inside])
        encoded = encoders[level][1]
        golden.assert_close(encoded[outside], case.out[f"h_enc.{level}"][outside])
        added = decoders[level][0] - encoded
        golden.assert_close(added[outside], case.out[f"up.{level}"][outside])


def test_golden_aunet_overflow_is_scored(case):
    # Their losses are those of all positions, and each has logits: nothing to add but the count.
    for level, patches in enumerate(golden_result(case).patches):
        levels = golden_levels(case) if level == 0 else levels_of_patches(case, level)
        assert patches.overflow == (levels > level).sum() - patches.valid.sum()


def levels_of_patches(case, level):
    positions = case.out[f"byte_position.{level}"]
    levels = np.take_along_axis(golden_levels(case), np.maximum(positions, 0), axis=1)
    return np.where(positions >= 0, levels, 0)


@pytest.mark.parametrize("path", golden.cases("aunet", lambda f: f.get("cfg.n_stages") == 2))
def test_golden_aunet_window(path):
    case = golden.load(path)
    config = golden_config(case, more_keys=1)
    loss, _ = jax.jit(lambda weights: run(case, weights, config))(case.param)
    golden.assert_close(loss, case.out["loss_window_plus_one"])


def test_golden_aunet_levels_of_whole_documents(case):
    # The rest of a document that was cut counts its words from its unknown beginning.
    tokens, wanted = case.input["tokens"], golden_levels(case)
    whole = np.cumsum(tokens == BEGIN, axis=1) > 0
    groups = GROUPS[case.cfg["strategy"]]
    ids = symbols(tokens)
    found, _ = split_levels(ids, np.ones_like(ids), groups)
    assert whole.any()
    np.testing.assert_array_equal(np.asarray(found)[whole], wanted[whole])


def is_generation(file):
    return "in.continuation" in file


@pytest.mark.parametrize("path", golden.cases("aunet", is_generation))
def test_golden_aunet_generation(path):
    """Prompts of several lengths in one batch, and then byte by byte.

    The authors' generation sees one key more than the window, and applies the head without the
    last norm.
    """
    case = golden.load(path)
    config = golden_config(case, more_keys=1)
    graph = golden_graph(case, config)
    prompts = [symbols(case.input[f"p{n}.prompt"]) for n in range(case.cfg["n_prompts"])]
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    ids = np.stack([np.pad(prompt, (0, lengths.max() - len(prompt))) for prompt in prompts])
    continuation = symbols(case.input["continuation"])
    graphdef, params, state = golden.prepared(
        lambda weights: nnx.merge(graph, golden_parameters(case, weights)),
        case.param,
        len(ids),
        int(lengths.max()) + continuation.shape[1],
    )

    @jax.jit
    def extend(params, *args):
        model = nnx.merge(graphdef, params)
        model.final_norm = lambda x: x
        return model.extend(*args)

    columns = [*range(BYTES), STOP]
    logits, state = extend(params, ids, state, lengths)
    for row, length in enumerate(lengths):
        wanted = case.out[f"p{row}.prompt_logits_no_norm"][:, columns]
        golden.assert_close(logits[row, :length], wanted)
    for step, symbol in enumerate(continuation.T):
        logits, state = extend(params, symbol[:, None], state, np.ones_like(lengths))
        golden.assert_close(logits[:, 0], case.out["logits_no_norm"][:, step, columns])


@pytest.mark.parametrize("path", golden.cases("aunet", is_generation))
def test_golden_aunet_levels_of_generated_bytes(path):
    case = golden.load(path)
    groups, continuation = GROUPS[case.cfg["strategy"]], case.input["continuation"]
    for row, new in enumerate(continuation):
        prompt = case.input[f"p{row}.prompt"]
        ids = symbols(np.concatenate([prompt, new]))[None, :]
        found = np.asarray(split_levels(ids, np.ones_like(ids), groups)[0])[0]
        np.testing.assert_array_equal(found[: len(prompt)], case.out[f"p{row}.prompt_levels"])
        np.testing.assert_array_equal(found[len(prompt) :], case.out["levels"][row])


def is_transition(file):
    return "in.cotangent_up" in file


@pytest.mark.parametrize("path", golden.cases("aunet", is_transition))
def test_golden_aunet_transition(path):
    """The kind of the published models, alone."""
    case = golden.load(path)
    kind, given = "simple_indexed_matmul", case.input
    widths = case.cfg["dim_in"], case.cfg["dim_out"]
    config = AUNetConfig(widths=widths, depths=(1, 1), windows=(None, None), head_width=4)
    graphdef, state = nnx.split(AUNetLevel(config, 0, rngs=nnx.Rngs(0)))
    hard = given["boundaries"] == 1
    ones = jnp.ones(hard.shape, jnp.int32)
    patches = find_patches(jnp.asarray(hard), ones, case.cfg["cap"])
    cut = Segmentation(Symbols.of_rows(ones, ones), Boundaries(jnp.asarray(hard), hard), patches)

    @jax.jit
    def products(weights, fine, coarse):
        level = nnx.merge(graphdef, nnx.to_pure_dict(state) | transition_parameters(weights, kind))
        down = level._pooled(fine, cut)
        up = level._added(jnp.zeros_like(fine), level._projected(coarse, cut), cut)
        return ((down * given["cotangent_down"]).sum(), (up * given["cotangent_up"]).sum()), (
            down,
            up,
        )

    arguments = case.param, given["fine"], given["coarse"]
    _, (down, up) = products(*arguments)
    valid = np.asarray(patches.valid)
    np.testing.assert_array_equal(np.where(valid, patches.positions, -1), case.out["pool_index"])
    golden.assert_close(np.asarray(down)[valid], case.out[f"{kind}.down"][valid])
    golden.assert_close(up, case.out[f"{kind}.up"])
    for index, (part, states) in enumerate([("down", "fine"), ("up", "coarse")]):
        gradient = jax.grad(lambda *args, i=index: products(*args)[0][i], argnums=(0, 1, 2))
        weights, fine, coarse = jax.jit(gradient)(*arguments)
        got = {f"{kind}.{part}.{name.removeprefix(kind + '.')}": g for name, g in weights.items()}
        got[f"{kind}.{part}.{states}"] = fine if states == "fine" else coarse
        wanted = {name: g for name, g in case.grad.items() if name.startswith(f"{kind}.{part}.")}
        assert len(wanted) >= 3
        for name, value in wanted.items():
            golden.assert_close(got[name], value, golden.GRADIENTS * np.abs(value).max())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (16,)}, r"model\.widths is \(16,\); give at least two, one for each level and"),
        ({"depths": (1, 1, 1)}, r"model\.depths has 3 values, and model\.widths has 2; give one"),
        ({"windows": (5,)}, r"model\.windows has 1 values"),
        ({"windows": (5, 0)}, r"model\.windows is \(5, 0\); each must be at least 1"),
        ({"head_widths": (8,)}, r"model\.head_widths has 1 values"),
        ({"patches_per_slot": (2.0,)}, r"patches_per_slot has 1 values; .* the 0 levels inside"),
        ({"widths": (24, 16)}, r"model\.widths \(24, 16\) shrink inward"),
        ({"widths": (16, 20)}, r"the width 20 of model\.widths has heads of 8 channels"),
        ({"head_widths": (8, 3)}, r"the width 24 of .* heads of 3 channels; choose an even"),
        ({"segmenter": WordGroups((2, 3))}, r"segmenter\.groups \(2, 3\) do not nest"),
        ({"segmenter": GumbelPatches()}, r"gumbel does not fit the family aunet"),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        aunet(**fields)


def test_groups_for_every_level():
    three = {"widths": (16, 16, 24), "depths": (1, 1, 1), "windows": (5, 5, None)}
    with pytest.raises(UserError, match=r"groups \(1,\) has words for 1 levels, .* makes 2"):
        aunet(**three, segmenter=WordGroups((1,)))


def test_another_segmenter_cuts_the_bytes_and_inner_patches_are_pairs():
    config = aunet(
        widths=(16, 16, 24),
        depths=(1, 1, 1),
        windows=(5, 5, None),
        patches_per_slot=(1.0,),
        segmenter=RulePatches("spacelike"),
    )
    ids = np.array([[START, *b"a bc d ef "]], np.int32)

    @jax.jit
    def starts(ids):
        model = config.build(nnx.Rngs(0))
        cuts = model.forward(Symbols.of_rows(ids, jnp.ones_like(ids)))[2]
        return [cut.patches.boundaries[0] for cut in cuts]

    outer, inner = starts(ids)
    assert np.flatnonzero(outer).tolist() == [0, 2, 5, 7, 10]
    assert np.flatnonzero(inner).tolist() == [0, 2, 4]
    assert dataclasses.replace(config, segmenter=EntropyPatches()).segmenter.kind == "entropy"
