"""A directory of the cache is either complete or absent."""

import json

import pytest

from bytelm.core.errors import UserError
from bytelm.data.corpus.build_once import build_once, is_complete


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
