"""Whole runs, in this process: what they write, how they resume, and what stops them."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.nn.mesh import MeshConfig
from bytelm.training import loop
from bytelm.training.checkpoints.checkpoint import FOLDER, Checkpoints, load_model
from bytelm.training.checkpoints.scores import best_step
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.last_error import read_last_error
from bytelm.training.loop import dry_run, train
from bytelm.training.optimizer import AdamW, Muon
from bytelm.training.validation import Validation
from tests.training.tiny_run import STEPS, assert_same, params, stop_after, tiny_config

TIMES = ("time", "seconds", "compile_seconds")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    tiny = tiny_config(tmp_path_factory.mktemp("text"))
    return dataclasses.replace(
        tiny,
        optimizer=Muon(learning_rate=1e-2),
        train=dataclasses.replace(tiny.train, log_every=2, validate_every=3, keep=2),
    )


def changed(config: ExperimentConfig, part: str, **values) -> ExperimentConfig:
    return dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **values)}
    )


def with_source(config: ExperimentConfig, **values) -> ExperimentConfig:
    return changed(config, "data", source=dataclasses.replace(config.data.source, **values))


def metrics(run: Path) -> list[dict]:
    """The recorded metrics but the speeds, which differ from run to run."""
    timed = ("bytes_per_second", "flops_per_second", "utilisation", *TIMES)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.fixture(scope="module")
def whole_run(config, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    result = train(config, run)
    assert (result.step, result.interrupted) == (STEPS, False)
    return run


def test_loss_falls_and_metrics_are_recorded(whole_run):
    lines = metrics(whole_run)
    assert [line["step"] for line in lines if "bpb" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "validation_bpb" in line] == [3, 6]
    bpb = [line["bpb"] for line in lines if "bpb" in line]
    assert 8 > bpb[0] > bpb[-1]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(config, whole_run, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        result = train(config, tmp_path)
        assert (result.step, result.interrupted) == (step, True)
    assert train(config, tmp_path, resume=True).step == STEPS
    assert_same(params(tmp_path), params(whole_run))
    assert metrics(tmp_path) == metrics(whole_run)
    a, b = load_model(tmp_path), load_model(whole_run)
    assert a.provenance["data_fingerprint"] == b.provenance["data_fingerprint"]
    for name in ("bytes", "flops", "best_validation", "best_step", "hooks_step"):
        assert getattr(a.loop, name) == getattr(b.loop, name), name


def test_provenance(config, whole_run):
    saved = load_model(whole_run)
    assert saved.config == config
    assert saved.provenance["packages"]["jax"] == jax.__version__
    row_flops = config.model.forward_flops(config.data.sequence_length)
    assert saved.loop.flops == 3 * row_flops * config.data.batch_size * STEPS
    assert 0 < saved.loop.bytes <= STEPS * 8 * 32


def test_flops_and_bytes_are_sums_of_what_was_done(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(config, tmp_path)
    smaller = changed(changed(config, "data", batch_size=4), "train", log_every=1, steps=4)
    train(smaller, tmp_path, resume=True, allow_config_change=True)
    row_flops = 3 * config.model.forward_flops(config.data.sequence_length)
    assert load_model(tmp_path).loop.flops == row_flops * (2 * 8 + 2 * 4)
    lines = [line for line in metrics(tmp_path) if "bpb" in line]
    assert [line["flops"] / row_flops for line in lines] == [16, 20, 24]
    assert lines[0]["bytes"] < lines[1]["bytes"] < lines[2]["bytes"]


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now

    def timed(self, function, seconds: float):
        def call(*arguments, **keywords):
            self.now += seconds
            return function(*arguments, **keywords)

        return call


class TimedStep:
    """A training step of a second, with a thousand to compile it."""

    def __init__(self, step, clock: Clock):
        self._clock = clock
        self._lower = step.lower
        self._step = clock.timed(step, 1.0)

    def __call__(self, *arguments):
        return self._step(*arguments)

    def lower(self, *arguments):
        self._clock.now += 1000.0
        return self._lower(*arguments)


def test_times_are_of_the_steps_alone(config, tmp_path, monkeypatch):
    clock, build = Clock(), loop.build_program

    def timed_program(*arguments):
        program = build(*arguments)
        step, evaluate = TimedStep(program.step, clock), clock.timed(program.evaluate, 100.0)
        return dataclasses.replace(program, step=step, evaluate=evaluate)

    monkeypatch.setattr(loop, "build_program", timed_program)
    for module in ("run", "metrics.record"):
        monkeypatch.setattr(f"bytelm.training.{module}.time", clock)
    monkeypatch.setattr(Checkpoints, "save", clock.timed(Checkpoints.save, 10.0))
    config = changed(config, "train", log_every=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train(config, tmp_path)
    train(config, tmp_path, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    records = [line for line in lines if "bpb" in line]
    assert [line["seconds"] for line in records] == [1, 2, 3, 4, 5, 6]
    assert [line["seconds"] for line in lines if "validation_bpb" in line] == [3, 6]
    assert [line["compile_seconds"] for line in records] == [1000.0] * 4 + [2000.0] * 2
    times = [line["time"] for line in lines]
    assert times == sorted(times) and times[0] == 1e9 + 1001
    before = [0, *(line["bytes"] for line in records)]
    for earlier, line in zip(before, records, strict=False):
        assert line["bytes_per_second"] == line["bytes"] - earlier


def test_facts_are_in_the_files_of_a_run(config, whole_run, capsys):
    facts = json.loads((whole_run / "run.json").read_text())
    saved = load_model(whole_run)
    count = sum(leaf.size for leaf in jax.tree.leaves(saved.params))
    assert facts["parameters"] == saved.provenance["parameters"] == count
    assert facts["flops"] == saved.loop.flops


def test_a_budget_is_resolved_and_recorded(config, tmp_path, monkeypatch, capsys):
    flops = 2.5 * 3 * 8 * config.model.forward_flops(config.data.sequence_length)
    budget = changed(config, "train", budget=f"{flops} flops")
    assert train(budget, tmp_path).step == 2
    shown = capsys.readouterr().out
    assert (
        shown.index("2 (for ")
        < shown.index("compiling the training step")
        < shown.index("step 2/2")
    )
    recorded = load_model(tmp_path).config
    assert (recorded.train.steps, recorded.train.budget) == (2, f"{flops} flops")
    assert train(recorded, tmp_path, resume=True).step == 2


def script_validations(monkeypatch, bits: list[float]) -> None:
    """Makes validations find these bits per byte, one after another."""
    validate, found = Validation.__call__, iter(bits)
    monkeypatch.setattr(
        Validation,
        "__call__",
        lambda *arguments: validate(*arguments)._replace(bits=next(found)),
    )


def test_keeps_the_last_and_the_best(config, tmp_path, monkeypatch):
    script_validations(monkeypatch, [3.0, 1.0, 2.0])
    config = changed(config, "train", steps=9, keep=2, checkpoint_every=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        train(config, tmp_path)
    train(config, tmp_path, resume=True)
    kept = sorted(int(path.name) for path in (tmp_path / FOLDER).iterdir())
    assert kept == [6, 8, 9]


def test_a_best_score_on_other_text_does_not_count(config, tmp_path, monkeypatch, capsys):
    script_validations(monkeypatch, [1.0, 2.0, 3.0, 3.5])
    text = tmp_path / "valid.txt"
    text.write_text("to be or not " * 100)
    config = with_source(config, validation_files=(str(text),))
    config = changed(config, "train", keep=1)
    run = tmp_path / "run"
    train(config, run)
    assert sorted(int(path.name) for path in (run / FOLDER).iterdir()) == [3, 6]
    text.write_text("or not to be " * 100)
    longer = changed(config, "train", steps=12)
    train(longer, run, resume=True, allow_config_change=True)
    out = capsys.readouterr().out
    assert "the best validation so far, 1.000, was of the old ones and no longer counts" in out
    assert "warning: the learning rate jumps: " in out
    assert sorted(int(path.name) for path in (run / FOLDER).iterdir()) == [9, 12]
    assert best_step(run / FOLDER) == 9


def test_refuses_to_overwrite_a_run(config, whole_run):
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        train(config, whole_run)
    assert read_last_error(whole_run) is None  # it is not this one's to write about


def test_finished_run_resumes_to_nothing(config, whole_run):
    before = metrics(whole_run)
    assert train(config, whole_run, resume=True).step == STEPS
    assert metrics(whole_run) == before


def test_torn_checkpoint_is_skipped(config, whole_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train(config, tmp_path)
    torn = [p for p in (tmp_path / FOLDER / "4" / "params").rglob("*") if p.is_file()]
    for path in torn:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="4 cannot be read and is skipped"):
        train(config, tmp_path, resume=True)
    assert_same(params(tmp_path), params(whole_run))


def test_unreadable_checkpoint_directory(config, tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        load_model(tmp_path)
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_model(tmp_path)


def test_unknown_step_names_those_there_are(whole_run):
    with pytest.raises(UserError, match=r"no checkpoint of step 5; it has .*4, 6"):
        load_model(whole_run, 5)


def test_changed_data_is_noticed(config, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * 400)
    config = with_source(config, files=(str(text),))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(config, tmp_path / "run")
    text.write_text("to be or not to bee " * 400)
    with pytest.raises(UserError, match="training data has changed"):
        train(config, tmp_path / "run", resume=True)


def test_changed_config(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(config, tmp_path)
    slower = changed(config, "optimizer", learning_rate=5e-3)
    with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.01 -> 0.005.*--allow-config"):
        train(slower, tmp_path, resume=True)
    assert "another config" in read_last_error(tmp_path).sentence
    wider = changed(config, "model", width=32)
    with pytest.raises(UserError, match=r"model.width: 16 -> 32.*do not fit"):
        train(wider, tmp_path, resume=True, allow_config_change=True)
    shorter = changed(slower, "train", steps=3, log_every=1)
    assert train(shorter, tmp_path, resume=True, allow_config_change=True).step == 3
    assert load_model(tmp_path).config == shorter
    assert read_last_error(tmp_path) is None  # the run has come to its end


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 4, 1)])
def test_resumes_on_another_mesh(config, whole_run, tmp_path, monkeypatch, mesh):
    monkeypatch.setattr("bytelm.nn.mesh.SMALLEST_SHARDED", 1)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train(config, tmp_path)
    train(dataclasses.replace(config, mesh=mesh), tmp_path, resume=True)
    jax.tree.map(
        # Sums over shards are rounded in another order, and Muon's orthogonalisation amplifies it.
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
        params(tmp_path),
        params(whole_run),
    )


def test_steps_that_are_not_finite_stop_the_run(config, tmp_path):
    config = dataclasses.replace(config, optimizer=AdamW(learning_rate=1e38, warmup=0.0))
    config = changed(config, "train", steps=20, max_skipped=3, checkpoint_every=1)
    with pytest.raises(UserError, match=r"3 steps in a row.*last good checkpoint is that of step"):
        train(config, tmp_path)
    assert load_model(tmp_path).step >= 1
    found = read_last_error(tmp_path)
    assert found.sentence.startswith("3 steps in a row") and found.step >= 3
    assert (found.during, found.stopped) == ("training", False)


@pytest.mark.parametrize("mesh", [MeshConfig(1, 1, 1), MeshConfig(2, 2, 2)])
def test_sample_is_recorded(config, tmp_path, mesh):
    config = changed(config, "train", steps=2, sample_bytes=8)
    train(dataclasses.replace(config, mesh=mesh), tmp_path)
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2


def test_evaluations_of_several_processes_are_refused_before_the_first_step(
    config, tmp_path, monkeypatch
):
    config = changed(config, "train", evaluations=("bits",))
    config = dataclasses.replace(config, mesh=MeshConfig(8))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"train\.evaluations need a single process; .*bytelm eval"):
        dry_run(config, tmp_path / "run", evaluator=lambda *_: pytest.fail("was made"))
    assert not (tmp_path / "run").exists()
