import errno
import os

import pytest

from bytelm.core.files import GrowingFile


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
