"""Runs at an address: a store in memory, whose every change is looked at."""

import dataclasses
import json

import fsspec
import pytest

from bytelm.core.errors import UserError
from bytelm.core.places import objects, place, remove, send
from bytelm.training.checkpoints import staging
from bytelm.training.checkpoints.checkpoint import last_step, load_model
from bytelm.training.checkpoints.scores import best_step
from bytelm.training.checkpoints.staging import whole_steps
from bytelm.training.loop import train
from bytelm.training.metrics.writer import read_records
from bytelm.training.run_directory import COMMIT
from tests.training.tiny_run import assert_same, params, stop_after, tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("text"))
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, keep=2, validate_every=2)
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The uninterrupted run, on a disk."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    run.mkdir()
    train(config, run)
    return run


@pytest.fixture(autouse=True)
def local_copies(tmp_path, monkeypatch):
    monkeypatch.setenv(staging.VARIABLE, str(tmp_path / "copies"))
    yield tmp_path / "copies"
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)


def test_a_run_stops_resumes_and_ends_as_on_a_disk(config, whole, monkeypatch, local_copies):
    run = place("memory://bucket/run")
    seen = []  # the whole checkpoints, and the records of metrics, after each change

    def look():
        steps = whole_steps(run / "checkpoints")
        for step in steps:
            found = objects(run / "checkpoints" / str(step))
            assert {f"{item}/commit_success.txt" for item in ("params", "training")} <= {*found}
            assert "digests/metadata" in found
        written = max((each["step"] for each in read_records(run / "metrics.jsonl")), default=0)
        assert written >= max(steps, default=0)
        seen.append(steps)

    def send_slowly(source, target, names):
        for name in names:
            send(source, target, [name])
            look()

    def remove_slowly(folder, first=None):
        if first is not None:
            (folder / first).unlink()
            look()
        remove(folder)

    monkeypatch.setattr(staging, "send", send_slowly)
    monkeypatch.setattr(staging, "remove", remove_slowly)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train(config, run).interrupted
    assert whole_steps(run / "checkpoints") == [2, 3] and last_step(run) == 3
    assert not any(local_copies.iterdir())
    # What a killed process leaves: a checkpoint without its last file.
    (run / "checkpoints/4/params/torn").write_bytes(b"torn")
    assert train(config, run, resume=True).step == 6
    assert (run / "checkpoints/4/params/torn").exists() is False
    assert [steps[-1] for steps in seen if steps][-1] == 6
    assert_same(params(run), params(whole))
    assert best_step(run / "checkpoints") == best_step(whole / "checkpoints")
    assert [each["step"] for each in read_records(run / "metrics.jsonl")] == [
        each["step"] for each in read_records(whole / "metrics.jsonl")
    ]

    # A later checkpoint is set aside as a run of its own.
    first = whole_steps(run / "checkpoints")[0]
    assert train(config, run, resume=True, step=first).step == 6
    assert last_step(run / f"after_step_{first}") == 6
    assert_same(params(run / f"after_step_{first}"), params(run))


def test_a_run_copied_from_a_disk_or_to_one_is_the_same_run(config, whole, tmp_path):
    run = place("memory://bucket/copied")
    names = [str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()]
    send(whole, run, names)
    assert_same(params(run), params(whole))
    assert load_model(run, 4).step == 4
    with pytest.raises(UserError, match="memory://bucket/copied has no checkpoint of step 5"):
        load_model(run, 5)
    (run / "checkpoints/6" / COMMIT).unlink()
    assert load_model(run).step == 4
    damaged = run / "checkpoints/4/digests/metadata"
    damaged.write_bytes(json.dumps({}).encode())
    with pytest.warns(UserWarning, match="4 cannot be read"), pytest.raises(UserError):
        load_model(run, 4)


def test_a_store_that_is_away_for_a_while_is_waited_for(config, monkeypatch):
    class StoreError(Exception):
        pass

    failures = []

    def fail(source, target, names):
        if len(failures) < 2:
            failures.append(names)
            raise StoreError("no network")
        send(source, target, names)

    run = place("memory://bucket/away")
    monkeypatch.setattr(staging, "send", fail)
    monkeypatch.setattr(staging, "PAUSES", (0.0, 0.0))
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))
    assert train(short, run).step == 2 and len(failures) == 2
    assert last_step(run) == 2

    def always(*_):
        raise StoreError("no network")

    monkeypatch.setattr(staging, "send", always)
    with pytest.raises(UserError, match=r"could not be written: no network; the run stops"):
        train(short, place("memory://bucket/gone"))
