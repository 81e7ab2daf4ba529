"""Locks keep other processes out, say who holds them, and are never in the way of a signal."""

import errno
import fcntl
import gc
import time

import pytest

from bytelm.core.locks import Share, exclusive, is_locked, unused


def test_who_holds_a_lock_that_is_waited_for(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.lock"
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", nap)
    with exclusive(path, "write it") as held:
        assert held and is_locked(path)
        with pytest.raises(KeyboardInterrupt), exclusive(path, "write it"):
            pytest.fail("was locked twice")
        assert "waiting for process" in caplog.text
        assert f"to write it; if that process no longer runs, remove {path}" in caplog.text
        assert len(caplog.records) == 1
        # A lock that nobody drops, such as that of a machine that is gone, can be removed.
        path.unlink()
        with exclusive(path, "write it") as held:
            assert held
    assert not is_locked(path)


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path / "a.lock", "write it") as held:
        assert not held
    assert "without locks (No locks available): two processes may" in caplog.text
    (tmp_path / "a").touch()
    Share(tmp_path / "a")
    with unused(tmp_path / "a") as free:
        assert not free


def test_what_is_shared_is_in_use(tmp_path):
    path = tmp_path / "a"
    path.touch()
    one, two = Share(path), Share(path)
    for remaining in (one, two):
        with unused(path) as free:
            assert not free
        del remaining
    del one, two
    gc.collect()
    with unused(path) as free:
        assert free
    path.unlink()
    with pytest.raises(FileNotFoundError):
        Share(path)
    with unused(path) as free:
        assert free
