"""Digests depend only on content, and are made once; ranges of lines stay when text is appended."""

import hashlib
import itertools
import os
import time

import pytest

from bytelm.core.places import place
from bytelm.data.sources import contents as module
from bytelm.data.sources.contents import LineRange, content_digests, contents, has_range


@pytest.fixture
def read(monkeypatch):
    """A list whose one item is how many files were read."""
    count = [0]
    progress = module.TextProgress

    def counted(action, total):
        count[0] += int(action.split()[1])
        return progress(action, total)

    monkeypatch.setattr(module, "TextProgress", counted)
    return count


def old(path, content):
    """A file last changed an hour ago, by the clock of the module."""
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def later(monkeypatch):
    """Moves the clock of the module an hour ahead."""
    now = time.time() + 3600
    monkeypatch.setattr(module.time, "time", lambda: now)


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
    monkeypatch.setattr(module.time, "time", lambda: path.stat().st_mtime + 1)
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


def test_an_object_at_an_address_is_read_once(tmp_path, monkeypatch):
    path = place("memory://contents/a.txt")
    path.write_bytes(b"one document")
    (digest,) = content_digests([path], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "READ_BYTES", None)  # it is not read again
        assert content_digests([path], tmp_path) == [digest]
    path.write_bytes(b"another document")
    assert content_digests([path], tmp_path) != [digest]


def line_of(size):
    return b"{}" + b" " * (size - 3) + b"\n"


def ranges_of(tmp_path, text, size=100):
    (content,) = contents([old(tmp_path / "a.jsonl", text)], tmp_path / "cache", size)
    assert content.digest == content_digests([tmp_path / "a.jsonl"], None)[0]
    for begin, end, digest in content.ranges:
        assert digest == hashlib.blake2b(text[begin:end], digest_size=16).hexdigest()
    return content.ranges


@pytest.mark.parametrize("block", [1, 7, 2**20])
def test_a_range_has_the_lines_that_begin_in_it(tmp_path, monkeypatch, block):
    monkeypatch.setattr(module, "READ_BYTES", block)
    sizes = [30, 70, 60, 60, 10, 250, 90, 20, 5, 15, 40]  # 650 bytes
    text = b"".join(map(line_of, sizes))
    edges = [0, 100, 220, 480, 570, 610, 650]
    found = ranges_of(tmp_path, text)
    assert [(begin, end) for begin, end, _ in found] == list(itertools.pairwise(edges))
    longer = ranges_of(tmp_path, text + b"{}")
    assert longer[:5] == found[:5] and longer[5][:2] == (610, 652)
    assert ranges_of(tmp_path, text.replace(b"{}", b"{ ", 1))[1:] == found[1:]
    assert ranges_of(tmp_path, b"{}" + b" " * 500) == (
        LineRange(0, 502, hashlib.blake2b(b"{}" + b" " * 500, digest_size=16).hexdigest()),
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", line_of(300)),
        ("a.csv", line_of(300)),
        ("a.jsonl", line_of(200)),
        ("a.jsonl", b"\x1f\x8b\x08" + line_of(300)),
        ("a.jsonl.gz", b"\x1f\x8b\x08" + line_of(300)),
        ("a", b"{text}" + line_of(300)),
    ],
)
def test_what_is_not_divided(tmp_path, name, content):
    (found,) = contents([old(tmp_path / name, content)], None, 100)
    assert found.ranges == ()


def test_ranges_are_made_once_and_only_if_needed(tmp_path, read):
    path = old(tmp_path / "a", b'{"a": 1}\n' * 50)
    cache = tmp_path / "cache"
    (digest,) = content_digests([path], cache)
    assert contents([path], cache, 100, divided=False)[0] == (digest, ()) and read == [1]
    (found,) = contents([path], cache, 100)
    assert len(found.ranges) == 5 and read == [2]
    assert contents([path], cache, 100) == [found] and content_digests([path], cache) == [digest]
    assert contents([path], cache, 200)[0].ranges[0].end > 200 and read == [3]
    (found,) = contents([path], cache, 100)
    assert has_range(path, found.ranges[1], cache)
    path.write_bytes(path.read_bytes() + b"{}\n")
    assert has_range(path, found.ranges[1], cache) and has_range(path, found.ranges[1], None)
    path.write_bytes(b"{}\n" * 300)
    assert not has_range(path, found.ranges[1], cache)
