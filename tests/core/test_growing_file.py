import errno
import os
import time

import pytest

from bytelm.core import growing_file as module
from bytelm.core.growing_file import GrowingFile, GrowingObject, growing_file
from bytelm.core.places import place


class Disk:
    """A file on a disk that has room for so many more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.file.write(data[: self.room])
        self.room -= count
        return count

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_records_are_whole_and_follow_when_there_is_room_again(tmp_path):
    path = tmp_path / "file"
    growing = GrowingFile(path)
    growing.append(b"one\n")
    disk = growing._file = Disk(growing._file, 2)
    for record in (b"two\n", b"three\n"):
        with pytest.raises(OSError, match="No space left"):
            growing.append(record)
        assert path.read_bytes() == b"one\n"
    disk.room = 100
    growing.append(b"four\n")
    growing.close()
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_a_file_that_was_removed_is_an_error(tmp_path):
    growing = GrowingFile(tmp_path / "file")
    os.unlink(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="removed"):
        growing.append(b"one\n")
    with pytest.raises(FileNotFoundError, match="removed"):
        growing.close()
    assert growing._file.closed


def test_an_object_is_written_from_time_to_time_and_when_it_is_flushed(monkeypatch):
    path = place("memory://growing/metrics.jsonl")
    growing = growing_file(path)
    growing.append(b"one\n")
    growing.append(b"two\n")
    growing.flush()
    assert path.read_bytes() == b"one\ntwo\n"
    growing.append(b"three\n")  # not yet time
    assert path.read_bytes() == b"one\ntwo\n"
    growing.close()

    monkeypatch.setattr(module, "SECONDS", 0.0)
    growing = growing_file(path)
    growing.append(b"four\n")
    while not path.read_bytes().endswith(b"four\n"):
        time.sleep(0.001)
    growing.close()
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_an_object_that_cannot_be_written_keeps_its_records(monkeypatch):
    class StoreError(Exception):
        pass

    def refuse(path, content):
        raise StoreError("no network")

    path = place("memory://growing/other.jsonl")
    growing = GrowingObject(path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", refuse)
        growing.append(b"one\n")
        with pytest.raises(OSError, match="no network"):
            growing.flush()
        with pytest.raises(OSError, match="no network"):
            growing.flush()
    growing.append(b"two\n")
    growing.close()
    assert path.read_bytes() == b"one\ntwo\n"
