import errno
import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bytelm.core.errors import UserError
from bytelm.training.run_directory import lock, new_run_directory

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
