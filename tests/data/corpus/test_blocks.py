"""Damaged files of the cache are found when they are read."""

import pickle

import numpy as np
import pytest

from bytelm.data.corpus import blocks
from bytelm.data.corpus.blocks import CheckedArray, DamagedError, block_digests, damaged_files, seal


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 16)


def checked(path, dtype):
    return CheckedArray(path, dtype, block_digests(path))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i8"])
def test_is_the_array(tmp_path, small_blocks, dtype):
    expected = np.arange(75, dtype=dtype)
    (tmp_path / "numbers").write_bytes(expected.tobytes())
    found = checked(tmp_path / "numbers", dtype)
    assert (len(found), found.dtype, found.tobytes()) == (75, expected.dtype, expected.tobytes())
    np.testing.assert_array_equal(found, expected)
    places = np.array([[3, 70], [8, 8]])
    np.testing.assert_array_equal(found[places], expected[places])
    for part in (slice(7, 40), slice(-9, None), slice(70, 99), slice(5, 5), slice(None)):
        np.testing.assert_array_equal(checked(tmp_path / "numbers", dtype)[part], expected[part])


def test_a_damaged_block_is_refused_and_the_others_are_not(tmp_path, small_blocks):
    path = tmp_path / "numbers"
    path.write_bytes(bytes(40))
    digests = block_digests(path)
    path.write_bytes(bytes(20) + b"\1" + bytes(19))
    array = CheckedArray(path, "u1", digests)
    assert not array[0:16].any() and not array[32:40].any() and not array[np.array([3, 39])].any()
    for part in (slice(10, 17), slice(16, 17), slice(None), np.array([1, 31])):
        with pytest.raises(DamagedError, match=r"numbers is damaged at bytes 16 to 32.*--resume"):
            array[part]


@pytest.mark.parametrize("name", ["one", "two", "digests.bin", "summary.json"])
def test_every_flipped_bit_and_cut_of_a_directory_is_found(tmp_path, small_blocks, name):
    (tmp_path / "one").write_bytes(b"x" * 16 + b"y")
    (tmp_path / "two").write_bytes(b"z" * 5)
    seal(tmp_path, {"name": "three"})
    assert damaged_files(tmp_path) == []
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    path = tmp_path / name
    for place, byte in enumerate(whole[path][:-1]):
        flipped = whole[path][:place] + bytes([byte ^ 4]) + whole[path][place + 1 :]
        for damaged in (flipped, whole[path][:place]):
            path.write_bytes(damaged)
            assert damaged_files(tmp_path), (place, damaged)
            for each, content in whole.items():
                each.write_bytes(content)
    assert damaged_files(tmp_path) == []


def test_the_error_goes_through_processes(tmp_path):
    error = DamagedError(tmp_path / "a", " at bytes 0 to 3")
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.path, type(sent)) == (str(error), error.path, DamagedError)
