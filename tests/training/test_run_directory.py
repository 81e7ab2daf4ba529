"""The run directory: its lock, its name, the record of its text, and its provenance."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, MergeAbc, Pairs, PythonLibrary
from bytelm.data.open_data import OpenData
from bytelm.data.text_record import FILE, SPLITS, load_record
from bytelm.models.transformer import TransformerConfig
from bytelm.training import run_directory as module
from bytelm.training.checkpoints.checkpoint import load_model
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.loop import train
from bytelm.training.run_directory import lock, new_run_directory, provenance
from tests.training.tiny_run import keep_record

HOLD = """
import sys
from pathlib import Path
from bytelm.training.run_directory import lock
with lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A second process that holds the lock of `tmp_path` until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_error_names_the_process_that_has_it(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"{tmp_path} is in use by process {holder.pid} on "),
        lock(tmp_path),
    ):
        pass


def test_free_again_after_kill_9(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_free_again_after_an_error_inside(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path):
        with pytest.raises(UserError, match="in use"), lock(tmp_path):
            pass
        raise KeyError
    with lock(tmp_path):
        pass


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="without locks"), lock(tmp_path):
        pass


def test_a_directory_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be written"), lock(tmp_path / "missing"):
        pass


def test_first_free_name(tmp_path):
    base = tmp_path / "runs" / "tiny.v1"
    names = [new_run_directory(base).name for _ in range(3)]
    assert names == ["tiny.v1", "tiny.v1-2", "tiny.v1-3"]
    (base.parent / "tiny.v1-2").rmdir()
    assert new_run_directory(base).name == "tiny.v1-2"


def test_two_at_once_get_different_directories(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run_directory(tmp_path / "run"), range(32)))
    assert len(set(made)) == 32


TEXTS = [f"document {number}" for number in range(60)]


def write(path, texts):
    lines = [{"text": text, "target": text.upper()} for text in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return (str(path),)


@pytest.fixture
def config(tmp_path):
    files = write(tmp_path / "texts.jsonl", TEXTS)
    data = DataConfig(source=Files(files=files, held_out=0.2), cache_dir=str(tmp_path / "cache"))
    return ExperimentConfig(model=TransformerConfig(width=16, depth=1, head_width=8), data=data)


def with_data(config, **changes):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def with_source(config, **changes):
    return with_data(config, source=dataclasses.replace(config.data.source, **changes))


def new_run(path, name):
    run = path / name
    run.mkdir()
    return run


def masks(run, texts=TEXTS):
    record = load_record(run)
    return record.masks([text.encode() for text in texts]).tolist()


def expected(config):
    """The mask of each text, by the splits of its source."""
    (source,) = OpenData(config.data).sources
    found = {d.text.decode(): split for split in SPLITS for d in source.documents(split)}
    return [1 << SPLITS.index(found[text]) for text in TEXTS]


def test_every_document_and_its_split(config, tmp_path):
    run = new_run(tmp_path, "run")
    record = keep_record(run, config, resuming=False)
    assert record.complete
    assert masks(run) == expected(config)
    assert set(masks(run)) == {1, 2, 4}
    (source,) = load_record(run).sources
    path = (tmp_path / "texts.jsonl").resolve()
    assert source["places"]["train"] == [[str(path), path.stat().st_size]]


def test_pairs(config, tmp_path):
    data = dataclasses.replace(
        config.data,
        source=dataclasses.replace(config.data.source, target_key="target"),
        task=Pairs(),
    )
    pairs = dataclasses.replace(config, data=data)
    run = new_run(tmp_path, "run")
    assert keep_record(run, pairs, resuming=False).complete
    assert masks(run) == expected(pairs)


def test_files_of_their_own(config, tmp_path):
    files = write(tmp_path / "validation.jsonl", ["held", TEXTS[0]])
    own = with_source(config, validation_files=files, held_out=0.0)
    run = new_run(tmp_path, "run")
    keep_record(run, own, resuming=False)
    assert masks(run, ["held", TEXTS[0], TEXTS[1], "new"]) == [2, 1 | 2, 1, 0]


def test_a_run_that_goes_on_with_other_text(config, tmp_path):
    run = new_run(tmp_path, "run")
    keep_record(run, config, resuming=False)
    before = masks(run)
    other = with_source(config, held_out=0.4)
    assert keep_record(run, other, resuming=True).complete
    after = masks(run)
    assert after == [new | old & 1 for old, new in zip(before, expected(other), strict=True)]
    assert 1 | 2 in after


def test_a_run_that_starts_from_another(config, tmp_path):
    run, next_run = new_run(tmp_path, "run"), new_run(tmp_path, "next")
    keep_record(run, config, resuming=False)
    files = write(tmp_path / "others.jsonl", [f"other {number}" for number in range(60)])
    following = with_source(config, files=files)
    following = dataclasses.replace(following, train=TrainConfig(initial=str(run)))
    assert keep_record(next_run, following, resuming=False).complete
    assert masks(next_run) == masks(run)
    (run / FILE).unlink()
    assert not keep_record(next_run, following, resuming=False).complete


def test_an_older_run_without_a_record_stays_unknown(config, tmp_path):
    run = new_run(tmp_path, "run")
    assert not keep_record(run, config, resuming=True).complete
    assert not keep_record(run, config, resuming=True).complete


def test_tasks_without_text(config, tmp_path):
    diagnostic = with_data(config, source=PythonLibrary(), task=MergeAbc())
    record = keep_record(new_run(tmp_path, "run"), diagnostic, resuming=False)
    assert record.complete
    assert not len(record.digests)


@pytest.mark.parametrize("name", ["[1e-3]", "a\udcff"])
def test_any_name_of_a_run(tmp_path, name):
    text = tmp_path / name / "\u4e66\udcff[1].txt"
    text.parent.mkdir()
    text.write_bytes(b"to be or not to be " * 50)
    other = text.with_name("other.txt")
    other.write_bytes(b"that is the question " * 9)
    run = tmp_path / name / "run"
    run.mkdir()
    config = ExperimentConfig(
        TransformerConfig(width=16, depth=1, head_width=8),
        DataConfig(
            source=Files(files=(str(text),), validation_files=(str(other),)),
            sequence_length=16,
            cache_dir=str(tmp_path / name / "cache"),
        ),
        train=TrainConfig(steps=2, sample_bytes=0, validation_rows=2),
    )
    train(config, run)
    saved = load_model(run)
    assert saved.step == 2
    assert saved.config == config
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.params))
    assert train(config, run, resume=True).step == 2


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit that tracks a stand-in for the module's own file."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    source = tmp_path / "provenance.py"
    source.write_text("1\n")

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    git("init")
    git("add", "provenance.py")
    git("commit", "-m", "first")
    monkeypatch.setattr(module, "__file__", str(source))
    return source, git


def test_is_json_and_complete(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "tiny", "--data.files", "\udcff"])
    record = provenance()
    assert json.loads(json.dumps(record)) == record
    assert record["packages"]["jax"] == jax.__version__
    assert record["devices"] == {jax.devices()[0].device_kind: jax.device_count()}
    assert record["command"][1] == "tiny"
    assert record["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def test_revision_and_dirty_flag(checkout):
    source, git = checkout
    revision = git("rev-parse", "HEAD").stdout.strip()
    assert provenance()["git"] == {"revision": revision, "dirty": False}
    source.write_text("2\n")
    assert provenance()["git"] == {"revision": revision, "dirty": True}


def test_a_checkout_that_does_not_track_the_package_is_not_its_revision(checkout, monkeypatch):
    source, _ = checkout
    installed = source.with_name("installed.py")
    installed.write_text("1\n")
    monkeypatch.setattr(module, "__file__", str(installed))
    assert provenance()["git"] is None


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["git"] is None


def test_a_missing_package_has_no_version(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package-of-that-name",))
    assert provenance()["packages"] == {"no-such-package-of-that-name": None}
