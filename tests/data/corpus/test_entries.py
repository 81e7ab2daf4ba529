"""A directory of the cache is complete or absent; damaged files are found when they are read."""

import json
import pickle

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.corpus import entries
from bytelm.data.corpus.entries import (
    CheckedArray,
    DamagedError,
    block_digests,
    build_once,
    damaged_files,
    is_complete,
    seal,
)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(entries, "BLOCK_BYTES", 16)


def checked(path, dtype):
    return CheckedArray(path, dtype, block_digests(path))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i8"])
def test_is_the_array(tmp_path, small_blocks, dtype):
    expected = np.arange(75, dtype=dtype)
    (tmp_path / "numbers").write_bytes(expected.tobytes())
    found = checked(tmp_path / "numbers", dtype)
    assert (len(found), found[:].dtype, found.tobytes()) == (75, expected.dtype, expected.tobytes())
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


def test_complete_or_not_there(tmp_path):
    directory = tmp_path / "cache" / "one"

    def write(partial):
        assert not directory.exists()
        (partial / "data").write_text("data")
        return {"who": "me"}

    assert not is_complete(directory)
    build_once(directory, "it", 4, write)
    assert is_complete(directory)
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["who"], summary["sizes"]) == ("me", {"data": 4})
    build_once(directory, "it", 4, lambda partial: pytest.fail("was built again"))
    (directory / "data").write_text("dat")
    assert not is_complete(directory)
    build_once(directory, "it", 4, write)
    assert is_complete(directory)


def test_nothing_is_left_of_a_failure(tmp_path):
    def fail(partial):
        (partial / "data").write_text("data")
        raise UserError("no text")

    with pytest.raises(UserError, match="no text"):
        build_once(tmp_path / "one", "it", 0, fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_too_little_room(tmp_path):
    with pytest.raises(UserError, match="has no room for the text; put the cache elsewhere"):
        build_once(tmp_path / "one", "the text", 1e30, lambda partial: pytest.fail("was built"))
