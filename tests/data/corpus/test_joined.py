"""Arrays of several files are read as one, and few of them are open at a time."""

import numpy as np
import pytest

from bytelm.data.corpus import joined
from bytelm.data.corpus.entries import CheckedArray, DamagedError, block_digests
from bytelm.data.corpus.joined import JoinedArray


def test_slices_are_those_of_one_array(tmp_path, monkeypatch):
    monkeypatch.setattr(joined, "MOST_MAPPED", 2)
    whole = np.arange(40, dtype=np.uint8)
    parts = np.split(whole, [7, 8, 20])
    opened = []
    for index, part in enumerate(parts):
        (tmp_path / f"{index}").write_bytes(part.tobytes())

    def open_part(index):
        opened.append(index)
        path = tmp_path / f"{index}"
        return CheckedArray(path, np.uint8, block_digests(path))

    array = JoinedArray(np.uint8, [len(part) for part in parts], open_part)
    assert len(array) == 40 and not opened
    for first in range(0, 42, 3):
        for last in range(0, 44, 5):
            np.testing.assert_array_equal(array[first:last], whole[first:last])
    np.testing.assert_array_equal(np.asarray(array), whole)
    assert array.tobytes() == whole.tobytes()
    assert len(opened) > 4


def test_a_closed_file_is_not_checked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(joined, "MOST_MAPPED", 1)
    for name in "01":
        (tmp_path / name).write_bytes(bytes(5))
    digests = block_digests(tmp_path / "0")
    array = JoinedArray(
        np.uint8, [5, 5], lambda index: CheckedArray(tmp_path / f"{index}", np.uint8, digests)
    )
    assert not array[:5].any()
    (tmp_path / "1").write_bytes(b"other")
    with pytest.raises(DamagedError, match="1 is damaged"):
        array[3:7]
    (tmp_path / "0").write_bytes(b"other")
    assert array[0:5].tobytes() == b"other"
