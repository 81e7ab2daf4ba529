"""Digests depend only on content, and each file is read once."""

import os

import pytest

from bytelm.data.sources import contents
from bytelm.data.sources.contents import content_digests


@pytest.fixture
def read(monkeypatch):
    """A list whose one item is how many files were read."""
    count = [0]
    progress = contents.TextProgress

    def counted(action, total):
        count[0] += int(action.split()[1])
        return progress(action, total)

    monkeypatch.setattr(contents, "TextProgress", counted)
    return count


def old(path, content):
    """A file last changed an hour ago, by the clock of `contents`."""
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def later(monkeypatch):
    """Moves the clock of `contents` an hour ahead."""
    import time

    now = time.time() + 3600
    monkeypatch.setattr(contents.time, "time", lambda: now)


def test_is_read_once(tmp_path, read):
    paths = [old(tmp_path / name, name.encode()) for name in "abc"]
    first = content_digests(paths, tmp_path / "cache")
    assert len(set(first)) == 3 and read == [3]
    assert content_digests(paths[::-1], tmp_path / "cache") == first[::-1]
    assert read == [3]
    assert content_digests(paths, None) == first


def test_touched_moved_and_copied_files_are_the_same(tmp_path):
    path = old(tmp_path / "a", b"text")
    (digest,) = content_digests([path], tmp_path / "cache")
    os.utime(path, (1, 1))
    assert content_digests([path], tmp_path / "cache") == [digest]
    assert content_digests([old(tmp_path / "b", b"text")], tmp_path / "cache") == [digest]


def test_another_content_of_the_same_size_and_time_is_seen(tmp_path):
    path = old(tmp_path / "a", b"text")
    stat = path.stat()
    (digest,) = content_digests([path], tmp_path / "cache")
    path.write_bytes(b"next")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_digests([path], tmp_path / "cache") != [digest]


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, read, monkeypatch):
    path = old(tmp_path / "a", b"text")
    monkeypatch.setattr(contents.time, "time", lambda: path.stat().st_mtime + 1)
    for _ in range(2):
        content_digests([path], tmp_path / "cache")
    assert read == [2]


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 3}', "\xff"])
def test_a_damaged_memory_is_forgotten(tmp_path, damage):
    path = old(tmp_path / "a", b"text")
    expected = content_digests([path], tmp_path / "cache")
    (tmp_path / "cache" / "contents.json").write_bytes(damage.encode("latin-1"))
    assert content_digests([path], tmp_path / "cache") == expected


def test_what_is_gone_is_forgotten_and_no_cache_is_no_matter(tmp_path, read):
    path, other = (old(tmp_path / name, b"text") for name in "ab")
    content_digests([path], tmp_path / "cache")
    path.unlink()
    content_digests([other], tmp_path / "cache")
    assert str(path) not in (tmp_path / "cache" / "contents.json").read_text()
    content_digests([other], tmp_path / "b" / "no directory")
