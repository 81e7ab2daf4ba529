"""The state of a run from its files, whatever they are; nothing is locked or written."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from bytelm.core import locks
from bytelm.training.checkpoints.scores import FOLDER
from bytelm.training.last_error import FILE, LastError
from bytelm.training.run_directory import CONFIG, LOCK, lock
from bytelm.training.run_status import is_run, is_trained, read_status
from bytelm.training.upgrades import SCHEMA

NOW = time.time()


def make_run(run, *, steps=10, reached=0, saved=None, age=100.0):
    """A directory as a run leaves it, with a record for each step, and a validation at step 4."""
    (run / FOLDER).mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / CONFIG).write_text(json.dumps({"train": {"steps": steps, "checkpoint_every": 5}}))
    lines = [{"step": i, "bytes_per_second": 10.0 * i} for i in range(1, reached + 1)]
    lines[4:4] = [{"step": 4, "validation_bpb": 2.5}] if reached > 4 else []
    lines += [{"step": steps, "validation_bpb": 2.5}] if reached == steps else []
    for line in lines:
        line["time"] = NOW - age
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if saved is not None:
        loop = run / FOLDER / str(saved) / "loop"
        loop.mkdir(parents=True)
        (loop / "metadata").write_text('{"best_validation": 2.25}')
    return run


def note(run, age=0.0, **fields):
    error = LastError("the disk is full", NOW - age, 6)._replace(**fields)
    (run / FILE).write_text(json.dumps(error._asdict()))


def test_a_run_that_was_left(tmp_path):
    found = read_status(make_run(tmp_path / "run", reached=7, saved=5))
    assert (found.state, found.step, found.steps) == ("stopped", 7, 10)
    assert (found.best, found.bytes_per_second) == (2.25, 70.0)
    assert found.progress == NOW - 100 and found.error is None
    unsaved = read_status(make_run(tmp_path / "unsaved", reached=5))
    assert (unsaved.state, unsaved.best) == ("stopped", 2.5)
    done = make_run(tmp_path / "done", reached=10, saved=10)
    assert read_status(done).state == "done" and is_trained(done, 10)
    # A signal during the last validation leaves that to the next process.
    lines = (done / "metrics.jsonl").read_text().splitlines(keepends=True)
    (done / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert read_status(done).state == "stopped" and not is_trained(done, 10)


def test_the_last_that_happened_counts(tmp_path):
    run = make_run(tmp_path / "run", reached=7, saved=5)
    note(run)
    found = read_status(run)
    assert (found.state, found.error, found.error_step) == ("failed", "the disk is full", 6)
    note(run, stopped=True)
    assert read_status(run).state == "stopped"
    note(run, age=200.0)  # it went on after that
    assert (read_status(run).state, read_status(run).error) == ("stopped", "the disk is full")
    done = make_run(tmp_path / "done", reached=10, saved=10)
    note(done)  # such as a refused change of the config
    assert read_status(done).state == "done"
    note(done, during="test")
    assert read_status(done).state == "failed"


def test_a_lock_shows_that_it_runs_and_is_left_alone(tmp_path):
    run = make_run(tmp_path / "run", reached=7, saved=5)
    with lock(run):
        before = (run / LOCK).stat()
        assert read_status(run).state == "running"
        after = (run / LOCK).stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert read_status(run).state == "stopped" and read_status(run).error is None


def test_a_killed_process_leaves_its_name(tmp_path):
    run = make_run(tmp_path / "run", reached=7, saved=5)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    (run / LOCK).write_text(f"process {int(ended.stdout)} on {socket.gethostname()}")
    found = read_status(run)
    assert found.state == "stopped" and f"process {int(ended.stdout)} on" in found.error
    assert "ended without a word" in found.error


@pytest.mark.parametrize(("age", "state"), [(60.0, "running"), (2000.0, "stopped")])
def test_another_machine_is_judged_by_its_progress(tmp_path, age, state):
    run = make_run(tmp_path / "run", reached=7, saved=5, age=age)
    (run / LOCK).write_text("process 1 on elsewhere")
    assert locks.is_held(run / LOCK) is None
    assert read_status(run).state == state


def test_half_written_runs(tmp_path):
    starting = tmp_path / "starting"
    starting.mkdir()
    with lock(starting):
        assert is_run(starting, {LOCK}) and read_status(starting).state == "running"
    assert not is_run(starting, {LOCK})
    (starting / FOLDER).mkdir()
    assert read_status(starting).state == "stopped"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: (run / CONFIG).unlink(), "config.json is missing"),
        (lambda run: (run / CONFIG).write_text('{"train": '), "config.json is no config"),
        (lambda run: (run / CONFIG).write_text('["train"]'), "config.json is no config"),
        (lambda run: (run / CONFIG).write_text('{"train": {"steps": "x"}}'), "is no config"),
        (lambda run: (run / FOLDER / "5").rename(run / "5") and (run / FOLDER).rmdir(), "are gone"),
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 1, "time": "x"}'), "damaged"),
    ],
)
def test_damage_is_named(tmp_path, damage, reason):
    run = make_run(tmp_path / "run", reached=7)
    (run / FOLDER / "5").mkdir()
    damage(run)
    found = read_status(run)
    assert found.state == "damaged" and reason in found.error


def test_a_newer_version_left_it(tmp_path):
    for reached, state in ((7, "damaged"), (10, "done")):
        run = make_run(tmp_path / state, reached=reached, saved=reached)
        config = json.loads((run / CONFIG).read_text())
        (run / CONFIG).write_text(json.dumps({"schema": SCHEMA + 1, **config}))
        found = read_status(run)
        assert (found.state, found.step) == (state, reached)
        assert state == "done" or "a newer version of bytelm can resume" in found.error


def test_a_run_of_another_user_is_damaged(tmp_path):
    run = make_run(tmp_path / "run", reached=7)
    if os.access("/etc/shadow", os.R_OK):
        pytest.skip("root reads everything")
    (run / "metrics.jsonl").chmod(0)
    assert "cannot be read: Permission denied" in read_status(run).error
