"""Several processes share the runs of one folder: what each takes, leaves, waits for and reports.

Training is a stand-in that writes what a run leaves; real ones are in tests/slurm.
"""

import contextlib
import json
import os
import threading
import time
from types import SimpleNamespace

import pytest

from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.data.config import DataConfig, Files
from bytelm.experiments import ablate, plan, runs
from bytelm.experiments.ablate import AblationPlan, run_ablation
from bytelm.experiments.ablation import Ablation
from bytelm.experiments.run_list import find_runs
from bytelm.experiments.runs import RunResult
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig, to_json
from bytelm.training.last_error import NotingErrors
from bytelm.training.run_directory import CONFIG, lock

STEPS = 3


def leave_trained(config, run_dir) -> None:
    (run_dir / CONFIG).write_text(to_json(config))
    (run_dir / "run.json").write_text("{}")
    line = {"step": STEPS, "validation_bpb": config.optimizer.learning_rate}
    (run_dir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (run_dir / "checkpoints" / str(STEPS)).mkdir(parents=True)


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The runs that this process trains, by name; their learning rate is their bits."""
    names = []

    def train(config, run_dir, **options):
        names.append(run_dir.name)
        leave_trained(config, run_dir)
        return SimpleNamespace(step=STEPS, interrupted=False, asked_to_stop=False)

    def measure(run, max_bytes):
        return RunResult({"bpb": Figure("bpb", 1.0)}, (8.0,), (8.0,))

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(ablate, "measure_run", measure)
    monkeypatch.setattr(plan, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("bytelm.experiments.report.write.write_png", lambda charts, path: None)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return names


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> ExperimentConfig:
    folder = tmp_path_factory.mktemp("text")
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text(f"to be or not to {name} " * 100)
    source = Files(files=(str(folder / "train.txt"),), test_files=(str(folder / "test.txt"),))
    return ExperimentConfig(
        model=TransformerConfig(width=16, depth=1, head_width=8),
        data=DataConfig(source=source, sequence_length=16, batch_size=2),
        train=TrainConfig(steps=STEPS),
    )


@pytest.fixture
def three(base) -> Ablation:
    return Ablation(base, {name: {"train.log_every": i + 1} for i, name in enumerate("abc")})


def has_images(output) -> bool:
    return json.loads((output / "report.json").read_text())["images"]


def test_what_others_do_is_left_to_them(three, trained, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    with lock(tmp_path / "b"):
        assert run_ablation(three, tmp_path) == 0
    assert trained == ["a", "c"]
    assert (
        "left to other processes, the last of which writes the report: b" in capsys.readouterr().out
    )
    assert not has_images(tmp_path)
    states = {run.run.name: run.state for run in find_runs(tmp_path)}
    assert states == {"a": "done", "b": "waiting", "c": "done"}
    # Its process was killed: another takes the run up, and is the last.
    assert run_ablation(three, tmp_path) == 0
    assert trained == ["a", "c", "b"] and has_images(tmp_path)
    assert capsys.readouterr().out.endswith("report.html\n")
    assert run_ablation(three, tmp_path) == 0
    assert capsys.readouterr().out.endswith("report.html (as it was)\n")
    (tmp_path / "report.md").unlink()
    assert run_ablation(three, tmp_path) == 0
    assert (tmp_path / "report.md").exists()


def test_a_task_that_another_does_is_refused(three, trained, tmp_path):
    (tmp_path / "b").mkdir()
    with lock(tmp_path / "b"), pytest.raises(UserError, match="b is in use by process"):
        run_ablation(three, tmp_path, task=1)
    assert not trained


def test_final_runs_wait_for_the_sweep(base, trained, tmp_path, capsys):
    swept = Ablation(base, {"a": {}}, learning_rates=(1.0, 2.0), seeds=(0, 1))
    run = AblationPlan(swept, tmp_path).sweep[0]
    run.directory.mkdir()

    def other_process() -> None:
        with lock(run.directory):
            begun.set()
            ended = time.monotonic() + 20
            while "a-lr2-s0" not in trained and time.monotonic() < ended:
                time.sleep(0.01)
            time.sleep(0.1)
            leave_trained(run.config, run.directory)

    begun = threading.Event()
    thread = threading.Thread(target=other_process)
    thread.start()
    begun.wait()
    assert run_ablation(swept, tmp_path) == 0
    thread.join()
    assert trained == ["a-lr2-s0", "a-lr1-s1"]  # and not the one that the other has trained
    assert capsys.readouterr().out.count("waiting for runs of other processes") == 1
    assert has_images(tmp_path)


def test_a_run_that_ended_between_look_and_claim_is_not_done_again(
    three, trained, tmp_path, monkeypatch
):
    claimed = plan.claimed

    @contextlib.contextmanager
    def late(run, **options):
        with claimed(run, **options):
            if run.name == "b":
                leave_trained(run.config, run.directory)
            yield

    monkeypatch.setattr(plan, "claimed", late)
    assert run_ablation(three, tmp_path) == 0
    assert trained == ["a", "c"]


def test_a_folder_that_its_last_process_removes_meanwhile_is_made_again(
    three, trained, tmp_path, monkeypatch
):
    removed = []

    def lock_late(run_dir, **options):
        if run_dir.name == "b" and not removed:
            removed.append(run_dir)
            run_dir.rmdir()
        return lock(run_dir, **options)

    monkeypatch.setattr(runs, "lock", lock_late)
    assert run_ablation(three, tmp_path) == 0
    assert removed and trained == ["a", "b", "c"]


def test_a_signal_after_the_last_step_stops_all(three, trained, tmp_path, monkeypatch):
    train = runs.train

    def stopped_late(config, run_dir, **options):
        result = train(config, run_dir, **options)
        result.asked_to_stop = True
        return result

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", stopped_late)
        assert run_ablation(three, tmp_path) == 143
    assert trained == ["a"]
    assert run_ablation(three, tmp_path) == 0
    assert trained == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("earlier", "job", "is_tried"),
    [(True, None, True), (False, None, False), (True, "7", False), (True, "8", True)],
)
def test_a_run_that_failed_is_left_in_the_same_array(
    three, trained, tmp_path, monkeypatch, earlier, job, is_tried
):
    """Also if it failed in another process while this one ran; otherwise it is tried again."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / CONFIG).write_text("{}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    if not earlier:
        monkeypatch.setattr(plan, "time", SimpleNamespace(time=lambda: 0.0, sleep=time.sleep))
    with contextlib.suppress(UserError), NotingErrors(tmp_path / "b"):
        raise UserError("it diverged")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID") if job is None else os.environ.update(
        SLURM_ARRAY_JOB_ID=job
    )
    assert run_ablation(three, tmp_path) == (0 if is_tried else 1)
    assert ("b" in trained) == is_tried and {"a", "c"} < {*trained, "-"}
    row = json.loads((tmp_path / "report.json").read_text())["contenders"][1]
    assert (row["state"], row["reason"]) == (
        ("done", "") if is_tried else ("failed", "it diverged")
    )


def test_a_run_that_failed_here_and_was_done_elsewhere_is_done(
    three, trained, tmp_path, monkeypatch
):
    train, failures = runs.train, []

    def failing(config, run_dir, **options):
        if run_dir.name == "b" and not failures:
            failures.append("b")
            raise UserError("it had no memory")
        if run_dir.name == "c":  # meanwhile the same command was given again
            assert run_ablation(three, tmp_path, task=1) == 0
        return train(config, run_dir, **options)

    monkeypatch.setattr(runs, "train", failing)
    assert run_ablation(three, tmp_path) == 0
    assert failures == ["b"] and trained == ["a", "b", "c"]
    rows = json.loads((tmp_path / "report.json").read_text())["contenders"]
    assert [row["state"] for row in rows] == ["done"] * 3
