import json
import shutil
import subprocess
import sys

import jax
import pytest

from bytelm.training import run_directory as module
from bytelm.training.run_directory import provenance


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
