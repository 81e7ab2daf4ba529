"""H-Net: the authors' own numbers, its configs, and what is special in it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, START
from bytelm.models.hnet import BEGIN_BYTE, CONFUSION, END_BYTE, HNetConfig, read_stages
from bytelm.patching.learned import EntropyPatches, GumbelPatches
from bytelm.patching.router import RouterPatches
from bytelm.patching.segmenter import RulePatches
from bytelm.patching.smoothing import decided
from tests.models import golden
from tests.models.compiled import (
    ROWS,
    backward,
    decoder,
    empty_state,
    forward,
    random_rows,
    split_model,
    with_slots,
)
from tests.models.families import FAMILIES, hnet
from tests.models.golden_hnet import (
    document_ids,
    evaluate,
    golden_config,
    golden_graph,
    model_parameters,
    official_logits,
)

PROBABILITIES = 1e-6
"""Absolute tolerance of probabilities."""
GRADIENTS = 1e-3
"""Tolerance of a gradient, relative to the root mean square of its array."""


@functools.cache
def golden_result(case):
    return evaluate(case, golden_config(case.cfg))


def is_of_model(file):
    return "out.loss_total" in file


@pytest.fixture(params=golden.cases("hnet", is_of_model), scope="module")
def case(request):
    return golden.load(request.param)


def layouts_of_rows():
    """A case for each way to lay documents out in rows."""
    seen = set()

    def is_new(file):
        new = is_of_model(file) and str(file["cfg.mode"]) not in seen
        return new and not seen.add(str(file["cfg.mode"]))

    return golden.cases("hnet", is_new)


@pytest.fixture(params=golden.cases("hnet", lambda file: "out.step.logits" in file), scope="module")
def step_case(request):
    return golden.load(request.param)


def symbols_of(case, cuts, stage):
    """Which positions of a stage's arrays hold a symbol."""
    return document_ids(case) > 0 if stage == 0 else cuts[stage - 1].patches.valid


def theirs(case, name, stage):
    """An array of a stage, of the symbols alone, those of all rows one after another."""
    values = case.out[f"s{stage}.{name}"]
    if case.cfg["mode"] == "masked":
        return values[case.input["mask"] if stage == 0 else case.out[f"s{stage - 1}.next_mask"]]
    if stage == 0 and case.cfg["mode"] == "packed_rows":
        return values.reshape(-1, *values.shape[2:])
    return values


def test_golden_logits_and_losses(case):
    result, _ = golden_result(case)
    here = document_ids(case) > 0
    golden.assert_close(result.logits[here], case.out["logits"][here])
    golden.assert_close(result.nats, case.out["loss_per_token"] * (case.input["targets"] >= 0))
    golden.assert_close(result.loss, case.out["loss_total"])


def test_golden_boundaries_of_every_stage(case):
    result, _ = golden_result(case)
    for stage, cut in enumerate(result.cuts):
        here = symbols_of(case, result.cuts, stage)
        np.testing.assert_array_equal(
            cut.boundaries.hard[here], theirs(case, "boundary_mask", stage)
        )
        p, c = cut.boundaries.probabilities[here], np.asarray(decided(cut.boundaries))[here]
        golden.assert_close(p, theirs(case, "boundary_prob", stage), PROBABILITIES)
        golden.assert_close(c, theirs(case, "selected_prob", stage), PROBABILITIES)
        assert cut.patches.overflow == 0
        name = "boundaries" if stage == 0 else f"boundaries/level_{stage + 1}"
        loss = result.auxiliary[name]
        golden.assert_close(loss.value, case.out[f"s{stage}.ratio_loss"], PROBABILITIES)
        assert loss.weight == case.cfg["ratio_loss_weight"]


def test_golden_states_of_every_stage(case):
    result, _ = golden_result(case)
    count = len(result.cuts)
    for stage in range(count):
        here, cut = symbols_of(case, result.cuts, stage), result.cuts[stage]
        (_, encoded), (inner, _) = result.stacks[stage], result.stacks[stage + 1]
        joined, decoded = result.stacks[2 * count - stage]
        width = encoded.shape[2]
        golden.assert_close(encoded[here], theirs(case, "encoder_out", stage))
        chunks = inner[cut.patches.valid][:, :width]
        wanted = case.out[f"s{stage}.chunks"]
        if case.cfg["mode"] == "masked":
            wanted = wanted[case.out[f"s{stage}.next_mask"]]
        golden.assert_close(chunks, wanted)
        golden.assert_close(joined[here], theirs(case, "decoder_in", stage))
        outside = theirs(case, "decoder_out", stage)
        golden.assert_close(decoded[here][:, : outside.shape[1]], outside)


def test_golden_gradients(case):
    _, gradients = golden_result(case)
    assert case.grad
    for name, wanted in case.grad.items():
        golden.assert_close(gradients[name], wanted, GRADIENTS * np.sqrt((wanted**2).mean()))


@pytest.mark.parametrize("case", layouts_of_rows(), indirect=True)
def test_golden_with_the_fewest_slots_that_suffice(case):
    # Those of the outermost stage; how many an inner one needs depends on that.
    config, (result, _) = golden_config(case.cfg), golden_result(case)
    starts = result.cuts[0].patches.boundaries
    size = starts.shape[1] / starts.sum(axis=1).max()
    config = dataclasses.replace(config, bytes_per_slot=float(size))
    fewer, _ = evaluate(case, config, gradients=False)
    assert fewer.cuts[0].patches.valid.shape[1] < result.cuts[0].patches.valid.shape[1]
    here = document_ids(case) > 0
    golden.assert_close(fewer.logits[here], case.out["logits"][here])


def decoding(case):
    """The model's parameters for decoding, its jitted `extend`, and an empty state of one row."""
    config, length = golden_config(case.cfg), case.cfg["max_seqlen"]
    graph = golden_graph(case, config)
    graphdef, params, state = golden.prepared(
        lambda weights: nnx.merge(graph, model_parameters(weights, config)), case.param, 1, length
    )
    extend = jax.jit(lambda params, *args: nnx.merge(graphdef, params).extend(*args))
    return params, extend, state


@functools.cache
def prefilled(case):
    params, extend, state = decoding(case)
    count, tokens = case.cfg["n_prefill"], case.input["tokens"]
    logits, state = extend(params, tokens, state, np.array([count], np.int32))
    return params, extend, logits, state


def opened(state):
    """Patches that each stage has opened."""
    part, found = state.parts, []
    while hasattr(part, "patching"):
        found.append(int(part.patching.opened[0]))
        part = part.inner
    return np.array(found)


def test_golden_steps(step_case):
    case = step_case
    params, extend, logits, state = prefilled(case)
    prefill, tokens = case.cfg["n_prefill"], case.input["tokens"]
    golden.assert_close(official_logits(logits)[:, :prefill], case.out["prefill.logits"])
    assert_states(state, case.out, "state_prefill")
    one = np.ones(1, np.int32)
    for index, position in enumerate(range(prefill, tokens.shape[1])):
        before = opened(state)
        logits, state = extend(params, tokens[:, position, None], state, one)
        golden.assert_close(official_logits(logits)[0, 0], case.out["step.logits"][index])
        np.testing.assert_array_equal(opened(state) > before, case.out["step.boundary"][index])
    assert_states(state, case.out, "state_end")


def assert_states(state, out, prefix):
    """Router, average, and the states of all blocks of all stages."""
    part, stage = state.parts, 0
    while hasattr(part, "patching"):
        name = f"{prefix}.s{stage}"
        golden.assert_close(part.patching.carry[0], out[f"{name}.routing.last_hidden"])
        golden.assert_close(part.open.vector, out[f"{name}.dechunk.last_value"])
        assert_blocks(part.encoder, out, f"{name}.encoder")
        assert_blocks(part.decoder, out, f"{name}.decoder")
        part, stage = part.inner, stage + 1
    assert_blocks(part, out, f"{prefix}.inner")


def assert_blocks(state, out, prefix):
    np.testing.assert_array_equal(state.length, [out[f"{prefix}.seqlen_offset"]])
    layers = [(stack, layer) for stack in state.stacks for layer in stack.layers]
    for index, (stack, layer) in enumerate(layers):
        if f"{prefix}.{index}.ssm" in out:
            wanted = out[f"{prefix}.{index}.ssm"]
            golden.assert_close(layer.state.transpose(0, 2, 3, 1), wanted)
            inputs = np.concatenate(layer.inputs, axis=2).swapaxes(1, 2)
            golden.assert_close(inputs, out[f"{prefix}.{index}.conv"][:, :, 1:])
        else:
            # A ring holds the last positions in another order, and theirs maybe more of them.
            wanted = out[f"{prefix}.{index}.kv"]  # [1, positions, 2, heads, head size]
            entries = np.argsort(stack.positions[0])
            entries = entries[np.asarray(stack.positions[0])[entries] >= 0]
            parts = np.concatenate(layer.keys, axis=2), np.concatenate(layer.values, axis=2)
            found = np.stack(parts, axis=2)[0]  # [G, 2, S, K]
            found = found.transpose(2, 1, 0, 3)[entries]
            golden.assert_close(found[-wanted.shape[1] :], wanted[0, -len(found) :])


def test_golden_greedy_generation(step_case):
    case = step_case
    params, extend, logits, state = prefilled(case)
    last = official_logits(logits)[0, case.cfg["n_prefill"] - 1]
    for token, boundary in zip(case.out["greedy.tokens"], case.out["greedy.boundary"], strict=True):
        assert int(jnp.argmax(last)) == token
        before = opened(state)
        ids = np.array([[token]], np.int32)
        logits, state = extend(params, ids, state, np.ones(1, np.int32))
        last = official_logits(logits)[0, 0]
        np.testing.assert_array_equal(opened(state) > before, boundary)
    golden.assert_close(last, case.out["greedy.last_logits"])


def test_layouts_are_read_as_the_released_configs_write_them():
    text = "m4 [T1m4 [T26] m4T1] m4"
    stages = read_stages(text)
    assert [[layout.parts for layout in stage] for stage in stages] == [
        [(("m", 4),), (("m", 4),)],
        [(("T", 1), ("m", 4)), (("m", 4), ("T", 1))],
        [(("T", 26),)],
    ]
    released = str(["m4", ["T1m4", ["T26"], "m4T1"], "m4"])
    assert read_stages(released) == read_stages(text) == read_stages(text.replace(" ", ""))


WIDTHS = {"layout": "m1 [T1] m1", "widths": (64, 128)}
TWO = {"layout": "m1 [m1 [T1] m1] m1", "widths": (64, 64, 128)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "m4"}, r"model\.layout is 'm4', which has no stage; write ENCODER"),
        ({"layout": "m4 [T8 m4"}, r"model\.layout is 'm4 \[T8 m4', whose brackets do not match"),
        ({"layout": "m4 [x3] m4"}, r"a part of model\.layout is 'x3', which is no layout such"),
        ({"layout": "m4 [T8]"}, r"model\.layout is 'm4 \[T8\]', in which a stage has no decoder"),
        ({"layout": "[T8] m4"}, r"in which a stage has no encoder; write each as ENCODER \[INNER"),
        ({"layout": "m4 [T8] m4 [T8] m4"}, r"a part of model\.layout is 'T8\]m4\[T8', which is no"),
        (
            {"widths": (64,)},
            r"widths has 1 values, and .* needs 2: one for each stage, the outermo",
        ),
        ({"widths": (64, 0)}, r"model\.widths has the value 0; the least is 1"),
        ({"widths": (128, 64)}, r"model\.widths \(128, 64\) become smaller towards the inside"),
        (
            {"widths": (64, 100)},
            r"model\.widths\[1\] 100 cannot be divided into heads; set model\.h",
        ),
        ({"widths": (65, 128)}, r"expansion x model\.widths\[0\] is 130, no multiple of"),
        ({"heads": (1, 3)}, r"model\.widths\[1\] 128 cannot be divided into heads"),
        ({"heads": (1,)}, r"model\.heads has 1 values, and model\.layout .* needs 2"),
        (
            {"rotary_widths": (32, 3)},
            r"rotary_widths has 3 for heads of 64 channels; it must be ev",
        ),
        (
            {"rotary_widths": (32, 66)},
            r"rotary_widths has 66 for heads of 64 .* no more than those",
        ),
        ({"mlp_widths": (-5, 0)}, r"mlp_widths has the value -5; the least is 0"),
        ({"windows": (0, None)}, r"model\.windows has the value 0; the least is 1"),
        (
            {"patches_per_slot": (2.0,)},
            r"needs 0: one for each stage between the outermost and the",
        ),
        ({**TWO, "patches_per_slot": (0.5,)}, r"model\.patches_per_slot has the value 0\.5"),
        ({"inner_segmenters": (RouterPatches(),)}, r"model\.inner_segmenters has 1 values"),
        ({"deviation": 0.0}, r"model\.deviation is 0\.0; it must be above 0"),
        ({"expansion": 0}, r"model\.expansion is 0"),
        ({"segmenter": RouterPatches(target=1.0)}, r"model\.segmenter\.target is 1\.0"),
        (
            {**TWO, "inner_segmenters": (EntropyPatches(),)},
            r"model\.inner_segmenters\[0\] entropy does not fit .* known of bytes alone",
        ),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        HNetConfig(**WIDTHS | fields)


def test_the_defaults_are_those_of_the_released_models():
    config = HNetConfig(layout="m4 [T1m4 [T26] m4T1] m4", widths=(1024, 1024, 1536))
    masks = [config.stacked(s, config.stages[s][0])[0] for s in (1, 2)]
    assert [block.mask.window for block in masks] == [1024, None]
    assert [config.rotary_width(stage) for stage in range(3)] == [32, 32, 32]
    assert config.segmenters == (RouterPatches(), RouterPatches())
    assert config.capacity(12) == config.capacity_of(0, 12) == config.capacity_of(1, 12) == 3


def test_parameters_start_as_published():
    layout = "m1 [T1m2 [T2] m2T1] m1"
    config = HNetConfig(layout=layout, widths=(64, 128, 192), bytes_per_slot=2.0)
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.state(config.build(nnx.Rngs(0))))())
    stages = params["stages"]
    outer = stages["0"]
    np.testing.assert_array_equal(outer["segmenter"]["query"]["kernel"], np.eye(64))
    np.testing.assert_array_equal(outer["residual"]["kernel"], np.zeros((64, 64)))
    bias = np.abs(outer["residual"]["bias"])
    assert 0.5 * 64**-0.5 < bias.max() <= 64**-0.5
    np.testing.assert_array_equal(stages["1"]["pad"], np.zeros(64))
    assert "pad" not in outer

    def deviation(kernel):
        return float(np.std(kernel))

    # Branches: 2 in stage 0, 8 in stage 1 (T counts twice), 4 in the backbone.
    for stage, part, branches in (("0", "encoder", 2), ("1", "encoder", 10), ("2", "backbone", 14)):
        block = stages[stage][part]["stacks"]["0"]["blocks"]
        mixer = block.get("mixer", block.get("attention"))
        wanted = 0.02 / branches**0.5
        assert deviation(mixer["output"]["kernel"]) == pytest.approx(wanted, rel=0.05)
        assert deviation(mixer["value"]["kernel"]) == pytest.approx(0.02, rel=0.05)
        if "mlp" in block:
            assert deviation(block["mlp"]["down"]["kernel"]) == pytest.approx(wanted, rel=0.05)
    assert deviation(params["head"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    assert deviation(params["embedding"]["embedding"]) == pytest.approx(1.0, rel=0.05)


PUBLISHED = "hnet, published symbols, scanned and rematerialised"


def test_published_symbols_read_and_say_start_and_end_as_bytes():
    config = FAMILIES[PUBLISHED]
    batch, params = random_rows(0), split_model(config)[1]
    as_bytes = np.where(batch.ids == START, BEGIN_BYTE, batch.ids)
    as_bytes = np.where(as_bytes == END, END_BYTE, as_bytes)
    found = np.asarray(forward(config)(params, batch).logits)
    same = forward(config)(params, dataclasses.replace(batch, ids=as_bytes)).logits
    np.testing.assert_array_equal(found, same)
    np.testing.assert_allclose(found[:, :, END] - found[:, :, END_BYTE], CONFUSION, rtol=1e-5)
    # Nothing else takes part of the probability.
    theirs = np.asarray(official_logits(jnp.asarray(found)))
    sums = (np.exp(x.astype(np.float64)).sum(axis=2) for x in (found, theirs))
    np.testing.assert_allclose(*sums, rtol=1e-7)
    assert found.shape[2] == BYTES + 1


def test_the_only_change_of_a_rule_is_the_segmenter():
    router = hnet(layout="m1 [T1] m1")
    rule = dataclasses.replace(router, segmenter=RulePatches("spacelike"))
    with_router, with_rule = (
        {path for path, _ in jax.tree.leaves_with_path(split_model(config)[1])}
        for config in (router, rule)
    )
    parts = {path[:3] for path in with_router - with_rule}
    assert [jax.tree_util.keystr(part) for part in parts] == ["['stages']['0']['segmenter']"]
    assert with_rule < with_router


@pytest.mark.parametrize("segmenter", [RulePatches("spacelike", 4), GumbelPatches(0.4)])
def test_any_segmenter_cuts_the_inner_stage_too(segmenter):
    config = hnet(
        layout="T1 [t1 [t1] t1] T1",
        widths=(16, 16, 24),
        inner_segmenters=(segmenter,),
        patches_per_slot=(1.0,),
    )
    params, batch = split_model(config)[1], random_rows(1)
    output, _, gradient, _ = backward(config)(params, batch, jnp.ones(batch.ids.shape))
    outer, inner = (level.boundaries.sum() for level in output.levels)
    assert 0 < inner <= outer
    if isinstance(segmenter, GumbelPatches):
        leaves = jax.tree.leaves(gradient["stages"]["1"]["segmenter"]["predictor"])
        assert all((np.asarray(leaf) != 0).any() for leaf in leaves)


def test_decoding_in_bfloat16_keeps_averages_in_float32():
    config = FAMILIES["hnet, two stages, Mamba-2, overflow"]
    config = dataclasses.replace(config, compute_dtype="bfloat16")
    params, extend = decoder(config)
    batch, state = random_rows(3), empty_state(config)
    for lengths in (9, 0, 5):
        logits, state = extend(params, batch.ids, state, np.full(ROWS, lengths, np.int32))
        assert np.isfinite(logits).all()
    outer = state.parts
    assert {part.open.vector.dtype for part in (outer, outer.inner)} == {jnp.dtype("float32")}
    assert outer.patching.carry[0].dtype == jnp.bfloat16


def test_overflow_keeps_all_bytes_and_counts_in_the_ratio_loss():
    config = hnet(layout="t1 [t1] t1", bytes_per_slot=4.0)
    batch = random_rows(2)
    few, many = (
        forward(each)(split_model(each)[1], batch) for each in (config, with_slots(config))
    )
    assert few.overflow > 0 == many.overflow
    assert np.isfinite(few.nats(batch.targets)).all()
    assert few.auxiliary_losses == many.auxiliary_losses
