"""Resuming, and starting from another run: from which checkpoint, and with which config."""

import dataclasses
import json
import operator
import shutil
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.places import place
from bytelm.data.text_record import load_record
from bytelm.experiments.contenders import changed
from bytelm.models.draft import BlockDraft, LinearDraft
from bytelm.models.hat import HATConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import FOLDER, Checkpoints, last_step, save_model
from bytelm.training.compatibility import check_checkpoints_are_there, rate_change, start_from
from bytelm.training.experiment import ExperimentConfig, TrainConfig, to_json
from bytelm.training.loop import train
from bytelm.training.optimizer import AdamW
from bytelm.training.run import TrainingRun
from tests.models.compiled import split_model
from tests.training.tiny_run import STEPS, assert_same, params


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / FOLDER).iterdir())


@pytest.mark.parametrize("left", ["no folder", "an empty folder"])
def test_a_run_whose_checkpoints_are_gone_is_left_alone(run, config, left):
    shutil.rmtree(run / FOLDER)
    if left == "an empty folder":
        (run / FOLDER).mkdir()
    before = contents(run)
    with pytest.raises(UserError, match=r"recorded 6 steps, and its checkpoints.*are gone"):
        train(config, run, resume=True)
    assert contents(run) == before


def test_a_run_stopped_before_its_first_checkpoint_starts_again(run, config):
    shutil.rmtree(run / FOLDER)
    (run / FOLDER).mkdir()
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:1]))
    assert train(config, run, resume=True).step == STEPS


def test_an_address_has_no_folder_before_the_first_checkpoint(config, tmp_path):
    run = place("memory://first_checkpoint")
    (run / "config.json").write_text(to_json(config))
    for step, is_lost in ((2 * config.train.checkpoint_every, False), (STEPS, True)):
        (run / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")
        with pytest.raises(UserError, match="are gone") if is_lost else nullcontext():
            check_checkpoints_are_there(run, None)
    run.fs.rm(run.path, recursive=True)


def test_resume_starts_what_has_not_started(config, tmp_path):
    assert train(config, tmp_path, resume=True).step == STEPS


def test_from_an_earlier_step(run, config, whole):
    faster = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.1)
    )
    train(faster, run, resume=True, step=4, allow_config_change=True)
    assert checkpoints(run) == [2, 4, 6]
    assert_same(params(run, 4), params(whole, 4))
    with pytest.raises(AssertionError):
        assert_same(params(run, 6), params(whole, 6))
    assert steps(run) == steps(whole)

    aside = run / "after_step_4"
    assert checkpoints(aside) == [6]
    assert_same(params(aside), params(whole))
    for name in ("metrics.jsonl", "config.json"):
        assert (aside / name).read_bytes() == (whole / name).read_bytes()
    assert train(config, aside, resume=True).step == STEPS


def test_the_same_again_gives_the_same(run, config, whole):
    train(config, run, resume=True, step=2)
    train(config, run, resume=True, step=4)
    assert checkpoints(run / "after_step_2") == [4, 6]
    assert_same(params(run), params(whole))


def test_a_step_that_is_not_there(run, config, tmp_path):
    before = contents(run)
    with pytest.raises(UserError, match=r"no checkpoint of step 3; it has 2, 4, 6"):
        train(config, run, resume=True, step=3)
    with pytest.raises(UserError, match=r"add --resume"):
        train(config, tmp_path / "new", step=4)
    with pytest.raises(UserError, match=r"no checkpoint of step 4: it has none"):
        train(config, tmp_path / "new", step=4, resume=True)
    assert contents(run) == before


def test_data_that_has_changed_sets_nothing_aside(run, config, tmp_path):
    new = tmp_path / "new.txt"
    new.write_text("to be or not to bee " * 400)
    other = dataclasses.replace(
        config.data, source=dataclasses.replace(config.data.source, files=(str(new),))
    )
    before = contents(run)
    with pytest.raises(UserError, match=r"another config"):
        train(dataclasses.replace(config, data=other), run, resume=True, step=2)
    assert contents(run) == before


@pytest.mark.parametrize("line", [b"[1]\n", b'"step"\n', b"3\n", b'{"step": "2"}\n', b"{}\n"])
def test_lines_that_are_no_record(run, config, whole, line):
    lines = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    train(config, run, resume=True)
    assert steps(run) == steps(whole)


@pytest.mark.parametrize("gone", [FOLDER, f"{FOLDER}/2", f"{FOLDER}/4", "."])
def test_what_is_removed_while_running_is_made_again(config, tmp_path, monkeypatch, gone, whole):
    save, saved = TrainingRun.save, []

    def removing(self):
        if self.step == STEPS:
            self.checkpoints.wait()
            shutil.rmtree(tmp_path / "run" / gone)
        saved.append(self.step)
        save(self)

    monkeypatch.setattr(TrainingRun, "save", removing)
    (tmp_path / "run").mkdir()
    if gone in (FOLDER, "."):
        with pytest.warns(UserWarning, match=r"is gone, with the checkpoints in it"):
            train(config, tmp_path / "run")
    else:
        train(config, tmp_path / "run")
    assert last_step(tmp_path / "run") == STEPS
    assert_same(params(tmp_path / "run"), params(whole))
    assert (tmp_path / "run" / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    assert load_record(tmp_path / "run") is not None


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "No such file or directory"), ValueError("NOT_FOUND: w1/.zarray")],
)
@pytest.mark.parametrize("gone", [True, False])
def test_a_checkpoint_that_is_removed_while_it_is_written(tmp_path, monkeypatch, error, gone):
    def fail(_):
        raise error

    run = Checkpoints(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(type(run._manager), "wait_until_finished", fail)
        if gone:
            shutil.rmtree(tmp_path / FOLDER)
        with pytest.raises(UserError, match="was removed while it was written"):
            run.wait()
    run.close()


def test_a_full_disk_while_setting_aside_moves_nothing(run, config, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bytelm.core.places.shutil.copy2", full)
    with pytest.raises(OSError, match="No space left"):
        train(config, run, resume=True, step=2)
    assert checkpoints(run) == [2, 4, 6]
    assert not (run / "after_step_2").exists()


# Learning rates that jump when a run resumes with another config.


def of_steps(steps: int, schedule: str = "cosine", **optimizer) -> ExperimentConfig:
    return ExperimentConfig(
        TransformerConfig(),
        optimizer=AdamW(schedule=schedule, learning_rate=0.01, **optimizer),
        train=TrainConfig(steps=steps),
    )


@pytest.mark.parametrize("schedule", ["cosine", "quarter_cosine"])
def test_extending_a_schedule_that_ends(schedule):
    old, new = of_steps(100, schedule), of_steps(200, schedule)
    found = rate_change(old, new, 100, 100)
    rates = [c.optimizer.learning_rates(c.train.steps)(100) for c in (new, old)]
    assert f"jumps: {rates[0]:.3g} at step 101, where the config before has {rates[1]:.3g}" in found
    assert rates[1] == pytest.approx(0.001)
    assert "choose --optimizer.schedule constant, or warmup_stable_decay" in found


def test_a_schedule_that_can_be_extended():
    assert rate_change(of_steps(100, "constant"), of_steps(200, "constant"), 100, 100) is None
    old, new = of_steps(100, "warmup_stable_decay"), of_steps(200, "warmup_stable_decay")
    assert rate_change(old, new, 79, 79) is None
    found = rate_change(old, new, 95, 95)
    assert "0.01 at step 96" in found and "resume before its decay, with --step up to 80" in found
    warming = of_steps(100, "constant", warmup=0.5), of_steps(200, "constant", warmup=0.5)
    assert "set optimizer.warmup" in rate_change(*warming, 50, 50)


def test_a_changed_optimizer_needs_no_advice():
    slower = dataclasses.replace(of_steps(100), optimizer=AdamW(learning_rate=0.005))
    found = rate_change(of_steps(100), slower, 10, 10)
    assert found.startswith("the learning rate jumps: 0.0049") and "choose" not in found
    assert rate_change(of_steps(100), of_steps(100, beta1=0.8), 10, 10) is None


def test_skipped_steps_do_not_move_the_schedule():
    found = rate_change(of_steps(100), of_steps(200), 50, 40)
    assert "at step 51" in found
    assert f"{of_steps(200).optimizer.learning_rates(200)(40):.3g}" in found


LEVELS = {"local_width": 16, "global_width": 32, "global_depth": 1, "head_width": 8}
OLD = {
    "transformer": TransformerConfig(width=16, depth=1, head_width=8, window=8),
    "spacebyte": SpaceByteConfig(**LEVELS, local_depth=2),
    "hat": HATConfig(**LEVELS, encoder_depth=1, decoder_depth=1),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, model in OLD.items():
        config = ExperimentConfig(model=model)
        save_model(folder / name, config, split_model(model)[1], {})
    return {name: folder / name for name in OLD}


def start(run: Path, model, *allowed: str):
    graph = nnx.eval_shape(lambda: model.build(nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.split(graph)[1])
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    train = TrainConfig(initial=str(run), initial_differences=allowed)
    shardings = jax.tree.map(lambda _: device, params)
    return start_from(ExperimentConfig(model=model, train=train), params, shardings)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("transformer", "window", 4),
        ("transformer", "window", None),
        ("transformer", "rope_theta", 500_000.0),
        ("spacebyte", "segmenter.rule", "words"),
        ("spacebyte", "rope_theta", None),
        ("hat", "segmenter.rule", "whitespace"),
        ("hat", "segmenter.longest_patch", 8),
    ],
)
def test_what_changes_the_meaning_has_to_be_allowed(runs, family, field, value):
    model = changed(OLD[family], {field: value})
    with pytest.raises(UserError) as error:
        start(runs[family], model)
    listed = f"{field}: {operator.attrgetter(field)(OLD[family])!r} -> {value!r}"
    assert listed in str(error.value)
    assert f"--train.initial-differences {field}." in str(error.value)
    with pytest.raises(UserError):
        start(runs[family], model, "depth", "qk_norm")
    params, said, lacked = start(runs[family], model, field)
    assert said == [listed] and not lacked
    jax.tree.map(np.testing.assert_array_equal, params, split_model(OLD[family])[1])


def test_what_does_not_is_said(runs):
    model = dataclasses.replace(OLD["transformer"], remat="full", compute_dtype="bfloat16")
    _, said, _ = start(runs["transformer"], model)
    assert said == ["compute_dtype: 'auto' -> 'bfloat16'", "remat: 'none' -> 'full'"]
    assert start(runs["transformer"], OLD["transformer"])[1] == []


def test_heads_are_added_to_a_trained_model(runs, tmp_path):
    old = OLD["transformer"]
    model = dataclasses.replace(old, draft=BlockDraft(3, train_model=False))
    params, _, lacked = start(runs["transformer"], model)
    assert lacked == ["draft"]
    fresh = params.pop("draft")
    jax.tree.map(np.testing.assert_array_equal, params, split_model(old)[1])
    # A frozen model is read like any other.
    save_model(tmp_path / "run", ExperimentConfig(model=model), split_model(model)[1], {})
    more = dataclasses.replace(old, draft=BlockDraft(3))
    params, _, lacked = start(tmp_path / "run", more)
    assert not lacked and jax.tree.structure(params["draft"]) == jax.tree.structure(fresh)
    jax.tree.map(np.testing.assert_array_equal, params, split_model(model)[1])
    # A model without heads, or with others, starts from the rest.
    params, said, lacked = start(tmp_path / "run", old)
    assert said[0] == "draft.kind: 'block' -> 'none'" and not lacked
    whole = split_model(model)[1]
    jax.tree.map(np.testing.assert_array_equal, params, {name: whole[name] for name in params})
    _, said, lacked = start(tmp_path / "run", dataclasses.replace(old, draft=LinearDraft(3)))
    assert said[0] == "draft.kind: 'block' -> 'linear'" and lacked == ["draft"]
