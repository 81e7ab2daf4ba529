import os

import pytest

from bytelm.core.errors import UserError
from bytelm.core.files import (
    check_folder,
    check_new_file,
    name_part,
    plain_path,
    write_new,
    write_whole,
)


def test_a_file_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "there").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for name, message in {
        "": "is a directory",
        "there": "exists already; choose another --output",
        "link": "exists already",
        "missing/x": "no directory",
        "there/x": "no directory",
    }.items():
        with pytest.raises(UserError, match=message):
            check_new_file(tmp_path / name)
    check_new_file(tmp_path / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"--html: .* cannot be written to"):
        check_new_file(tmp_path / "new", "--html")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    check_folder(tmp_path)
    check_folder(tmp_path / "new/folder")
    for name in ("file", "file/below/it"):
        with pytest.raises(UserError, match="is a file"):
            check_folder(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to"):
        check_folder(tmp_path / "new")


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(PermissionError()))
    path = tmp_path / "x.json"
    write_new(path, "naïve")
    with pytest.raises(FileExistsError):
        write_new(path, "other")
    assert path.read_bytes() == "naïve".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_name_part():
    assert name_part("books [2019]/a\udcff\nb.jsonl") == "books-2019-a-b.jsonl"
    assert name_part("\u4e66" * 75) == "\u4e66" * 33


def test_a_file_with_the_longest_name_is_written_whole(tmp_path):
    for name in ("n" * 255, "\u4e66" * 85, "\udcff" * 255):
        write_whole(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    write_whole(tmp_path / ("n" * 255), "b\udcff \u65e5")
    assert (tmp_path / ("n" * 255)).read_text() == "b\\udcff \u65e5"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_plain_path_is_left_as_it_is(tmp_path):
    assert plain_path(tmp_path / "checkpoints") == tmp_path / "checkpoints"
    other = plain_path(tmp_path / "[1]" / "checkpoints")
    assert "[" not in str(other) and other.name == "checkpoints"
