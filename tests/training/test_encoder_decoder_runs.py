"""Whole runs of a tiny MrT5: what they record, how they resume, and what may start from what."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import bytelm
from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD, UNSCORED
from bytelm.data.config import DataConfig, NextByte, VowelRemoval
from bytelm.data.open_data import OpenData
from bytelm.data.validation import ValidationBatches
from bytelm.models.contract import DELETED
from bytelm.models.parameters import roles_of
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig, place_batch, single_device_mesh
from bytelm.training import loop
from bytelm.training.checkpoints.checkpoint import FOLDER, Checkpoints, load_model, save_model
from bytelm.training.compatibility import start_from
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.loop import train
from bytelm.training.optimizer import AdamW
from bytelm.training.program import build_program, train_program
from bytelm.training.run_directory import remove_if_unused
from tests.training.tiny_run import stop_after

STEPS, LENGTH, ROWS = 6, 12, 8
GATE = GateShortening(target=0.5, integral=1e-3)
SIZES = {
    "width": 16,
    "encoder_depth": 2,
    "decoder_depth": 1,
    "heads": 2,
    "head_width": 8,
    "mlp_width": 16,
}
CONFIG = ExperimentConfig(
    model=MrT5Config(**SIZES, gate_depth=1, shortening=GATE),
    data=DataConfig(task=VowelRemoval(), sequence_length=LENGTH, batch_size=ROWS),
    optimizer=AdamW(learning_rate=1e-2, warmup=0.0),
    mesh=MeshConfig(data=1),
    train=TrainConfig(
        steps=STEPS,
        log_every=2,
        validate_every=3,
        validation_rows=ROWS,
        checkpoint_every=2,
        sample_bytes=0,
        tensorboard=False,
    ),
)
BYT5 = ByT5Config(**SIZES)


def changed(part: str, config: ExperimentConfig = CONFIG, **values) -> ExperimentConfig:
    new = dataclasses.replace(getattr(config, part), **values)
    return dataclasses.replace(config, **{part: new})


def records(run: Path) -> list[dict]:
    """The recorded metrics but the speeds, which differ from run to run."""
    timed = ("bytes_per_second", "flops_per_second", "utilisation", "time", "seconds")
    timed += ("compile_seconds",)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@functools.cache
def built(config: ExperimentConfig):
    mesh = config.mesh.build()
    return mesh, build_program(config, mesh)


def state_of(run: Path) -> dict:
    """The whole state of the last checkpoint."""
    mesh, program = built(CONFIG)
    checkpoints = Checkpoints(run, 1)
    with jax.set_mesh(mesh):
        state = checkpoints.restore(program.abstract_state, program.shardings).state
    checkpoints.close()
    return jax.tree.map(np.asarray, state)


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), a, b)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    assert train(CONFIG, run).step == STEPS
    return run


def test_what_is_recorded(whole_run):
    lines = records(whole_run)
    training = [line for line in lines if "bits_per_target_byte" in line]
    assert [line["step"] for line in training] == [2, 4, 6]
    for line in training:
        assert 0 < line["bits_per_target_byte"] < 12
        assert 0 <= line["deleted"] <= 1
        assert line["weight/gate"] >= 0
        assert -30 < line["auxiliary/gate"] < 0
        assert 0 < line["flops_per_byte/needed"] <= line["flops_per_byte/computed"]
    assert training[0]["bits_per_target_byte"] > training[-1]["bits_per_target_byte"]
    validations = [line for line in lines if "validation_bits_per_target_byte" in line]
    assert [line["step"] for line in validations] == [3, 6]
    for line in validations:
        assert 0 <= line["validation/deleted"] <= 1
        assert line["validation/auxiliary/gate"] < 0
    assert not [name for line in lines for name in line if "bpb" in name or "per_patch" in name]


def test_resumed_equals_uninterrupted_bit_for_bit(whole_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train(CONFIG, tmp_path).interrupted
    # More validations, which the controller takes no notice of.
    often = changed("train", validate_every=1)
    assert train(often, tmp_path, resume=True).step == STEPS
    resumed, straight = state_of(tmp_path), state_of(whole_run)
    assert straight.controllers["gate"]["integral"] != 0
    assert_same(resumed, straight)
    of_training, wanted = (
        [line for line in records(run) if "bits_per_target_byte" in line]
        for run in (tmp_path, whole_run)
    )
    assert of_training == wanted
    assert len(records(tmp_path)) > len(records(whole_run))


def test_steps_that_are_not_finite_are_recorded_under_the_same_names(whole_run, tmp_path):
    params = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), load_model(whole_run).params)
    save_model(tmp_path / "poisoned", CONFIG, params, {})
    config = changed("train", log_every=1, max_skipped=3, initial=str(tmp_path / "poisoned"))
    with pytest.raises(UserError, match="3 steps in a row"):
        train(config, tmp_path / "run")
    lines = records(tmp_path / "run")
    assert lines[-1]["skipped_steps"] == len(lines) == 2
    assert not [name for line in lines for name in line if "bpb" in name]


# Single steps.


def ragged_batch():
    """Rows whose inputs and targets are of unlike lengths, in no fixed proportion."""
    batch = next(iter(ValidationBatches(OpenData(CONFIG.data), ROWS)))
    inputs, ids, targets = batch.inputs.copy(), batch.ids.copy(), batch.targets.copy()
    for row in range(ROWS):
        inputs[row, 2 + row], inputs[row, 3 + row :] = END, PAD
        keep = 1 + (5 * row) % 7
        ids[row, keep:], targets[row, keep:] = PAD, UNSCORED
    return dataclasses.replace(
        batch, inputs=inputs, ids=ids, targets=targets, document_ids=(targets != UNSCORED) * 1
    )


def step(config, batch, **parts):
    """The state before and after a step, and its metrics."""
    mesh, program = built(config)
    with jax.set_mesh(mesh):
        fresh = jax.device_get(built(CONFIG)[1].init(0))
        fresh.params["shortener"]["bias"] = np.float32(0)  # it deletes some
        fresh.controllers["gate"] = {"proportional": np.float32(2), "integral": np.float32(0.5)}
        for name, value in parts.items():
            fresh.params[name] = value
        before = jax.device_put(jax.tree.map(np.array, fresh), program.shardings)
        return fresh, *jax.device_get(program.train(before, place_batch(batch, mesh)))


@pytest.fixture(scope="module")
def whole_step():
    return step(CONFIG, ragged_batch())


@pytest.fixture(scope="module")
def accumulated_step():
    return step(changed("train", accumulation=4), ragged_batch())


def test_the_controller_moves_once_with_any_accumulation(whole_step, accumulated_step):
    for before, after, metrics in (whole_step, accumulated_step):
        assert metrics.weights["gate"] == 2.5
        deleted = metrics.sums.ratio(DELETED)
        assert metrics.sums.inputs == deleted.count == sum(3 + row for row in range(ROWS))
        assert 0 < deleted.total < deleted.count
        gate = CONFIG.model.controllers["gate"]
        wanted = gate.update(before.controllers["gate"], deleted)
        assert_close(after.controllers["gate"], wanted)
    assert whole_step[2].sums.ratio(DELETED) == accumulated_step[2].sums.ratio(DELETED)


def test_accumulating_micro_batches_is_the_whole_batch(whole_step, accumulated_step):
    """Also of the gate's loss, a mean over inputs, of which micro-batches have unequal shares."""
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    jax.tree.map(close, accumulated_step[2], whole_step[2])


def test_a_step_that_is_not_finite_leaves_the_controller_alone():
    table = np.full((384, SIZES["width"]), np.nan, np.float32)
    before, after, metrics = step(CONFIG, ragged_batch(), embedding={"embedding": table})
    assert metrics.skipped == 1
    assert_same(after.controllers, before.controllers)


# Runs that start from others.


@pytest.fixture(scope="module")
def byt5_run(tmp_path_factory) -> Path:
    """A run whose last checkpoint has random parameters."""
    run, rng = tmp_path_factory.mktemp("byt5"), np.random.default_rng(0)
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: BYT5.build(nnx.Rngs(0)))))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), params)
    save_model(run, dataclasses.replace(CONFIG, model=BYT5), params, {})
    return run


def test_a_run_starts_from_the_parameters_of_another(byt5_run, tmp_path, monkeypatch):
    started = []

    monkeypatch.setattr(
        loop, "train_steps", lambda run, _: started.append(jax.device_get(run.state.params))
    )
    train(changed("train", initial=str(byt5_run)), tmp_path / "run")
    mesh, program = built(CONFIG)
    with jax.set_mesh(mesh):
        fresh = jax.device_get(program.init(CONFIG.train.seed)).params
    (found,) = started
    assert_same(found.pop("shortener"), fresh["shortener"])
    assert_same(found, jax.tree.map(np.asarray, load_model(byt5_run).params))
    assert (found["head"]["kernel"] != fresh["head"]["kernel"]).any()


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text
    return text


def abstract_parameters(model):
    program = train_program(model, CONFIG.optimizer.build(1, roles_of(model)), single_device_mesh())
    return program.abstract_state.params, program.shardings.params


def test_runs_that_cannot_be_started_from(byt5_run, whole_run, tmp_path):
    with pytest.raises(UserError) as error:
        start_from(changed("train", initial=str(whole_run)), *abstract_parameters(BYT5))
    assert "has the parameters shortener" in one_sentence(error)
    wider = dataclasses.replace(CONFIG.model, mlp_width=24)
    with pytest.raises(UserError) as error:
        start_from(changed("train", initial=str(byt5_run)), *abstract_parameters(wider))
    wanted = "mlp/down/kernel of shape [1, 16, 16], and this model has [1, 24, 16]"
    assert wanted in one_sentence(error)
    with pytest.raises(UserError) as error:
        (tmp_path / "run").mkdir()
        train(changed("train", initial=str(tmp_path / "nowhere")), tmp_path / "run")
    assert "nowhere" in one_sentence(error)
    remove_if_unused(tmp_path / "run")  # as the command line does
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            changed("data", task=NextByte()),
            "the family mrt5 has an encoder, and data.task is next_byte; choose a task",
        ),
        (
            dataclasses.replace(CONFIG, model=TransformerConfig(width=16, depth=1, head_width=8)),
            "data.task is vowel_removal, and the family transformer has no encoder",
        ),
    ],
)
def test_families_and_tasks_that_do_not_fit(config, sentence, tmp_path):
    with pytest.raises(UserError) as error:
        train(config, tmp_path)
    assert sentence in one_sentence(error)
    assert not (tmp_path / FOLDER).exists()


# The finished run, evaluated and used.


def test_evaluation_by_the_command_line(whole_run, capsys):
    (batch,) = ValidationBatches(OpenData(CONFIG.data), ROWS, "validation")
    inputs = int((batch.inputs != PAD).sum())
    options = ["--max-bytes", str(inputs), "--batch-size", "3"]
    assert main(["eval", "--checkpoint", str(whole_run), *options]) == 0
    shown = capsys.readouterr().out
    assert "bits_per_target_byte" in shown and "deleted most" in shown
    report = json.loads((whole_run / f"eval_step_6_validation_max-bytes-{inputs}.json").read_text())
    assert report["details"]["targets"]["rows"] == ROWS
    assert report["data"]["task"]["kind"] == "vowel_removal"
    # The same rows as the last validation.
    last = [r for r in records(whole_run) if "validation_bits_per_target_byte" in r][-1]
    value = {name: figure["value"] for name, figure in report["figures"].items()}
    assert value["bits_per_target_byte"] == pytest.approx(
        last["validation_bits_per_target_byte"], rel=1e-5
    )
    assert value["deleted"] == pytest.approx(last["validation/deleted"])


def test_evaluation_on_text_without_targets_is_one_sentence(whole_run, capsys):
    assert main(["eval", "--checkpoint", str(whole_run), "--data.task", "next_byte"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "next_byte" in error


def test_generation_by_the_command_line(whole_run, capsysbinary):
    command = ["generate", "--checkpoint", str(whole_run), "--prompt", "abc"]
    options = ["--max-bytes", "4", "--beams", "2", "--raw"]
    assert main([*command, *options]) == 0
    (text,) = bytelm.load(whole_run).generate(["abc"], max_bytes=4, beams=2)
    assert capsysbinary.readouterr().out == text
    assert main([*command, "--max-bytes", "4", "--beams", "0"]) == 2
    assert b"error: --beams is 0" in capsysbinary.readouterr().err


def test_stop_strings_hold_for_beams_too(whole_run):
    """Or a message says that they do not."""
    model, prompts = bytelm.load(whole_run), ["abc", "defg"]
    texts = model.generate(prompts, max_bytes=4, beams=2)
    stop = max(texts, key=len)[-1:]
    wanted = [text[: text.index(stop)] if stop in text else text for text in texts]
    assert wanted != texts
    try:
        assert model.generate(prompts, max_bytes=4, beams=2, stop=[stop]) == wanted
    except UserError as error:
        assert "stop" in str(error)


def test_a_text_has_no_bits_per_byte(whole_run):
    model = bytelm.load(whole_run)
    with pytest.raises(UserError, match=r"the family mrt5 models targets .*`targets` scores them"):
        model.bits_per_byte(["some text"])
    with pytest.raises(UserError, match="the family mrt5 models targets"):
        model.segment("some text")


def test_an_input_longer_than_those_of_training_is_a_warning(whole_run):
    model, long = bytelm.load(whole_run), b"b" * LENGTH
    with pytest.warns(UserWarning, match=f"an input has {LENGTH + 1} symbols.*inputs of {LENGTH}"):
        texts = model.generate([long, b"a"], max_bytes=4, beams=2)
    assert all(len(text) <= 4 for text in texts)
    model.generate([long[1:], b"a"], max_bytes=4, beams=2)  # fits; warnings are errors here
