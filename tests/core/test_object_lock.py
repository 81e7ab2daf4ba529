"""Locks at an address, with the pauses of a millisecond instead of seconds."""

import json
import subprocess
import sys
import threading
import time

import pytest

from bytelm.core import locks, object_lock
from bytelm.core.files import write_whole
from bytelm.core.locks import exclusive, is_held
from bytelm.core.object_lock import ObjectLock
from bytelm.core.places import place
from bytelm.training import run_directory
from bytelm.training.run_directory import InUseError, lock


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.setattr(object_lock, "BEAT_SECONDS", 0.002)
    monkeypatch.setattr(object_lock, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(object_lock, "SETTLE_SECONDS", 0.01)
    for module in (locks, run_directory):
        monkeypatch.setattr(module, "OBJECT_POLL_SECONDS", 0.002)
    return place("memory://locks/run")


def left_behind(path, **about):
    """A lock whose holder no longer renews it."""
    write_whole(path, json.dumps({"holder": "process 1 on far", "id": "x", **about}))


def test_a_living_holder_is_named_and_the_lock_is_free_afterwards(folder):
    for _ in range(2):
        with lock(folder):
            with pytest.raises(InUseError, match="in use by process"), lock(folder):
                pass
            assert is_held(folder / ".lock")
        assert not is_held(folder / ".lock")
        assert not (folder / ".lock").exists()


def test_a_holder_that_is_silent_for_long_is_replaced(folder, caplog):
    left_behind(folder / ".lock")
    assert not is_held(folder / ".lock")
    with lock(folder):
        assert json.loads((folder / ".lock").read_bytes())["id"] != "x"
    assert "process 1 on far still uses" in caplog.text


def test_who_is_not_patient_takes_a_free_lock_alone(folder):
    left_behind(folder / ".lock")
    with pytest.raises(InUseError, match="process 1 on far"), lock(folder, patient=False):
        pass
    (folder / ".lock").unlink()
    with lock(folder, patient=False):
        assert is_held(folder / ".lock")


def test_a_holder_of_this_machine_that_is_dead_is_replaced_at_once(folder, monkeypatch):
    monkeypatch.setattr(object_lock, "STALE_SECONDS", 1e9)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    left_behind(folder / ".lock", machine=object_lock._machine(), process=process.pid)
    with lock(folder):
        pass


def test_who_waits_gets_it_afterwards(folder):
    path, order = folder / "tokenizer.lock", []

    def wait():
        with exclusive(path, "train it"):
            order.append("second")

    waiting = threading.Thread(target=wait)
    with exclusive(path, "train it"):
        waiting.start()
        time.sleep(0.05)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_holder_that_lost_its_lock_ends(folder, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(object_lock, "_end_process", lambda path, found: ended.set())
    held = ObjectLock(folder / "lost.lock")
    assert held.take()
    left_behind(folder / "lost.lock")
    assert ended.wait(10)
    held.release()
