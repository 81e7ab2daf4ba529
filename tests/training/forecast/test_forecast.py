"""Forecasts of tiny runs on the devices of this CPU."""

import dataclasses
import json
import math
import types

import jax
import pytest

from bytelm.core.errors import UserError
from bytelm.core.hlo_costs import Exchange
from bytelm.data.config import DataConfig, SpanCorruption
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.forecast import fit as fitting
from bytelm.training.forecast.activations import Kept, kept_bytes
from bytelm.training.forecast.compiled import (
    DoesNotFitError,
    Memory,
    compile_step,
    memory_of,
    seconds,
)
from bytelm.training.forecast.estimates import (
    MOMENTARY,
    SUMMED,
    StateBytes,
    likely_exchanges,
    parts_of,
    temporary_bytes,
)
from bytelm.training.forecast.fit import accumulations, choices, meshes
from bytelm.training.forecast.forecast import forecast, with_known_entropy_model
from bytelm.training.forecast.report import COLUMNS, row_of, short_text, text_of, values_of
from bytelm.training.forecast.topology import find_topology
from bytelm.training.hardware import Chip
from tests.models.families import ENCODER_DECODERS, spacebyte

CONFIG = ExperimentConfig(
    TransformerConfig(width=128, depth=3, head_width=64, scan=True, remat="dots"),
    DataConfig(sequence_length=64, batch_size=16),
    mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    train=TrainConfig(steps=100),
)


@pytest.fixture(scope="module", autouse=True)
def eight():
    """The largest of the topologies first: a process has as many devices as the first asks for."""
    return find_topology("gpu:8xh200")


@pytest.fixture(scope="module")
def found(eight):
    return forecast(CONFIG, eight)


def with_model(config, **fields):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))


def test_the_state_is_what_the_program_is_given(found):
    batch = 3 * 16 * 64 * 4 / 4
    assert found.step.memory.state == pytest.approx(found.state.total + batch, rel=0.01)
    assert found.state.optimizer == pytest.approx(2 * found.state.parameters, rel=0.01)


def test_the_program_computes_what_the_model_counts(found):
    # Attention computes whole blocks, and all of its weights again in the backward pass.
    assert 1 <= found.step.flops * 8 / found.flops < 1.3


def test_remat_of_all_but_products_computes_attention_once():
    flops = {}
    for remat in ("none", "dots"):
        config = dataclasses.replace(with_model(CONFIG, remat=remat), mesh=MeshConfig(1))
        flops[remat] = compile_step(config, find_topology("gpu:1xh200")).flops
    assert flops["none"] == flops["dots"]


def test_exchanges_do_not_grow_with_the_layers(found):
    deeper = compile_step(with_model(CONFIG, depth=6), find_topology("gpu:8xh200"))

    def outside(step):
        return sum(each.times for each in step.exchanges if not each.in_loop)

    def inside(step):
        return sum(each.sent * each.times for each in step.exchanges if each.in_loop)

    assert outside(deeper) == outside(found.step)
    assert inside(deeper) == pytest.approx(2 * inside(found.step), rel=0.2)


def test_bounds_follow_from_the_figures(found):
    assert found.step_seconds == max(found.work_seconds, found.exchange_seconds)
    assert found.work_seconds >= found.step.flops / 989e12
    assert found.work_seconds >= found.step.traffic / 4.8e12 > 0
    assert 0 < found.utilisation_in_turns < found.utilisation <= 1
    assert found.device_hours(found.run_symbols) == 100 * found.step_seconds * 8 / 3600


def test_what_a_budget_pays_for_may_depend_on_the_text(found):
    def with_budget(budget, **changed):
        train = dataclasses.replace(CONFIG.train, budget=budget)
        config = dataclasses.replace(CONFIG, train=train)
        return dataclasses.replace(found, config=config, **changed)

    assert with_budget("3e9 bytes").run_symbols == 3e9
    flops = with_budget(f"{10 * found.flops} flops")
    assert flops.run_symbols == pytest.approx(10 * found.symbols_per_step)
    for unknown in (with_budget("2 epochs"), with_budget("3e9 bytes", symbols="tokens")):
        assert unknown.run_symbols is None
        assert "not known: train.budget is" in text_of(unknown)
        assert values_of(unknown)["cost"]["device_hours_at_least"] is None


def test_what_is_shown(found):
    text = text_of(found, symbols=1e12)
    for part in (
        "transformer, 705,920 parameters",
        "8 x NVIDIA H200: data 2, fsdp 2, sequence 1, tensor 2",
        "of 141.0 GB",
        "activations with none",
        "estimated: compiled for this CPU",
        "1e12 bytes: at least",
        "(exact)",
    ):
        assert part in text, part
    values = json.loads(json.dumps(values_of(found)))
    assert values["model"]["parameters"] == sum(values["model"]["parts"].values())
    assert values["memory"]["how"] == values["program"]["how"] == "estimated"
    assert len(row_of(found, "mine")) == len(COLUMNS)
    assert [line.split()[0] for line in short_text(found).splitlines()] == ["memory", "time"]


def test_what_is_kept_for_the_backward_pass():
    kept = {remat: kept_bytes(with_model(CONFIG, remat=remat), 2) for remat in ("none", "full")}
    full, none = kept["full"].activations, kept["none"].activations
    streams = CONFIG.model.depth * 2 * 64 * 128 * 4
    assert streams < full < none / 3
    assert 1.8 < kept_bytes(with_model(CONFIG, remat="none"), 4).activations / none < 2.2


def test_uncompiled_forecasts_know_the_state(found):
    rough = forecast(CONFIG, found.topology, compiling=False, remats=False)
    assert rough.state == found.state and rough.step is None
    assert set(rough.temporary) == {"dots"}
    assert rough.work_seconds == pytest.approx(1.02 * rough.flops / (8 * 989e12))
    kinds = {(each.kind, each.dtype) for each in rough.exchanges}
    assert kinds == {(kind, "bf16") for kind in ("all-gather", "reduce-scatter", "all-reduce")}
    # Parameters are gathered forward and backward, and gradients reduced: each sends half of them.
    of_fsdp = rough.exchanges[:2]
    whole = 2 * rough.state.trained / 2
    assert sum(each.sent * each.times for each in of_fsdp) == pytest.approx(1.5 * whole)


def test_an_untrained_entropy_model_is_that_of_its_preset():
    segmenter = EntropyModelPatches(threshold=1.0, checkpoint="runs/entropy_tiny")
    config = ExperimentConfig(spacebyte(segmenter=segmenter))
    assert with_known_entropy_model(config).model.segmenter.model.width == 64
    other = dataclasses.replace(segmenter, checkpoint="runs/nothing")
    with pytest.raises(UserError, match="runs/nothing"):
        with_known_entropy_model(ExperimentConfig(spacebyte(segmenter=other)))


def test_parts_of_numbered_stages():
    leaf = jax.ShapeDtypeStruct((2, 3), "float32")
    params = {"stages": {"0": {"a": leaf}, "1": {"a": leaf, "b": leaf}}, "head": {"a": leaf}}
    assert parts_of(params) == {"stages/0": 6, "stages/1": 12, "head": 6}


def test_time_of_an_exchange_between_nodes():
    chip = Chip(1, 1, links=100, node=4, network=10)

    def time(*group):
        return seconds(Exchange("all-gather", "f32", 8e9, group, 1, False), chip)

    assert time(0, 1, 2, 3) == pytest.approx(0.75 * 8 / 100)
    assert time(0, 4) == pytest.approx(0.5 * 8 / 10), "each has an adapter"
    assert time(*range(8)) == pytest.approx(0.5 * 8 / 40), "four adapters a node"
    assert seconds(Exchange("all-gather", "f32", 8e9, (0, 1), 1, False), None) == 0


def test_choices_of_the_search():
    assert {math.prod(vars(mesh).values()) for mesh in meshes(8)} == {8}
    assert list(accumulations(16, 4)) == [1, 2, 4]
    assert list(accumulations(10, 4)) == []
    found = list(choices(CONFIG, find_topology("gpu:4xh200")))
    assert len({choice.options for choice in found}) == len(found) > 20
    by_remat = {choice.config.model.remat: choice.temporary for choice in found}
    assert by_remat["full"] < by_remat["none"]


def test_the_search_divides_few_rows_by_positions(monkeypatch, eight):
    monkeypatch.setattr(fitting, "kept_bytes", lambda config, rows: Kept(1e6 * rows, 0, 1e4))
    few = dataclasses.replace(CONFIG.data, batch_size=2)
    found = [x.config.mesh for x in choices(dataclasses.replace(CONFIG, data=few), eight)]
    assert {mesh.sequence for mesh in found} == {1, 2, 4, 8}
    assert all(mesh.data * mesh.fsdp <= 2 for mesh in found)
    odd = dataclasses.replace(few, sequence_length=60)
    found = [x.config.mesh for x in choices(dataclasses.replace(CONFIG, data=odd), eight)]
    assert {mesh.sequence for mesh in found} == {1, 2, 4}, "8 does not divide 60"
    pairs = DataConfig(task=SpanCorruption(), sequence_length=1024, batch_size=8)
    config = ExperimentConfig(ENCODER_DECODERS["byt5"], pairs)
    assert {x.config.mesh.sequence for x in choices(config, eight)} == {1}


def test_estimates_of_divided_rows(eight):
    state = StateBytes(4e6, 8e6, 4e6)
    one, four = (MeshConfig(data=1, sequence=size).build(eight.devices) for size in (1, 4))
    kept = Kept(activations=1e8, weights=2e6, largest=1e6)
    whole, divided = (temporary_bytes(kept, kept, state, 1, mesh) - 4e6 for mesh in (one, four))
    assert divided == pytest.approx(whole / 4)
    assert whole == pytest.approx(1e8 + 2e6 + MOMENTARY * 1e6)
    assert temporary_bytes(kept, kept, state, 2, one) - 4e6 * SUMMED == pytest.approx(whole)
    found = likely_exchanges(CONFIG, four, state, streams=1e8)
    (heads,) = [each for each in found if each.kind == "all-to-all"]
    assert heads.bytes == 1e8 / 4 and len(heads.group) == 4


def test_the_search_answers_the_fastest_of_those_that_fit(monkeypatch, found):
    topology, tried, shown = find_topology("gpu:4xh200"), [], []
    small = dataclasses.replace(topology, chip=topology.chip._replace(memory=0.02))

    def compiled(config, topology, **_):
        tried.append(config)
        if len(tried) == 1:
            raise DoesNotFitError(21e6, 20e6)
        step = dataclasses.replace(found.step, memory=Memory(1e6, 1e6))
        # The third has the least traffic.
        chip = topology.chip._replace(bandwidth=1.0 if len(tried) == 3 else 0.5)
        topology = dataclasses.replace(topology, chip=chip)
        return dataclasses.replace(found, config=config, step=step, topology=topology)

    monkeypatch.setattr(fitting, "kept_bytes", lambda config, rows: Kept(1e5 * rows, 0, 1e4))
    monkeypatch.setattr(fitting, "forecast", compiled)
    best, options = fitting.fit(CONFIG, small, shown.append)
    assert len(tried) == 4 and best.config == tried[2]
    kinds = {
        (config.model.remat, config.mesh.sequence, config.mesh.tensor, config.train.accumulation)
        for config in tried[1:]
    }
    assert len(kinds) == 3, "they differ in more than data and fsdp"
    assert f"--train.accumulation {best.config.train.accumulation} --model.remat" in options
    assert len(shown) == 4 and shown[0].endswith("0.0 GB on each device, too much")
    assert shown[2].startswith(options) and "0.0 GB on each device, at least" in shown[2]

    first, _ = fitting.fit(CONFIG, small, shown.append, candidates=1)
    assert first.config == tried[4] == tried[0] and len(tried) == 5 and len(shown) == 4

    none = dataclasses.replace(topology, chip=topology.chip._replace(memory=1e-4))
    with pytest.raises(UserError, match=r"no mesh, remat and accumulation fits gpu:4xh200"):
        fitting.fit(CONFIG, none, shown.append)
    assert len(tried) == 5, "nothing that cannot fit is compiled"


def test_memory_of_a_program_is_its_peak_on_a_tpu():
    sizes = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=80,
        alias_size_in_bytes=75,
        temp_size_in_bytes=500,
        peak_memory_in_bytes=400,
        generated_code_size_in_bytes=10,
    )
    assert memory_of(sizes, "cpu") == Memory(100, 500 + 5 + 10)
    assert memory_of(sizes, "tpu") == Memory(100, 300 + 10)


def test_what_the_compiler_says_about_memory():
    from bytelm.training.forecast.compiled import _too_large

    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 16.00G hbm."
    error = _too_large(RuntimeError(text))
    assert isinstance(error, DoesNotFitError)
    assert "needs 21.5 GB of a device's 17.2 GB, 4.3 GB too much; make --mesh.fsdp" in str(error)
    text = "the total memory required for HLO temporaries (20.00G) exceeds available HBM (16.00G)."
    assert "needs 21.5 GB of a device's 17.2 GB" in str(_too_large(RuntimeError(text)))
    other = RuntimeError("something else")
    assert _too_large(other) is other
