"""Paths of this machine and addresses, in a store of fsspec's that lies in memory."""

import sys
from pathlib import Path

import fsspec
import pytest

from bytelm.core.errors import UserError
from bytelm.core.files import (
    check_folder,
    check_new_file,
    new_file,
    new_folder,
    write_new,
    write_next,
    write_whole,
)
from bytelm.core.places import fetch, is_address, local, move, objects, place, remove, send


@pytest.fixture
def folder():
    folder = place("memory://bucket/run")
    yield folder
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_text_names_a_path_or_an_address():
    assert place("runs/books") == Path("runs/books")
    assert place("file:///data/with%20space") == Path("/data/with space")
    assert place("file://localhost/data/a?#[ab].txt") == Path("/data/a?#[ab].txt")
    for text in ("memory://bucket/run", "memory://bucket/run/"):
        address = place(text)
        assert is_address(address) and not is_address(Path("run"))
        assert str(address / "config.json") == "memory://bucket/run/config.json"
        assert place(str(address)) == address == place(address)


def test_an_address_that_cannot_be_used_is_one_sentence(monkeypatch):
    for text, sentence in {
        "s4://bucket/run": "no addresses that begin with s4://",
        "file://books/a.txt": "names the machine books; .* three slashes",
        "s3:/bucket/run": "which has two slashes",
    }.items():
        with pytest.raises(UserError, match=sentence):
            place(text)
    with pytest.raises(UserError, match="--trace-dir: memory://x is an address"):
        local(place("memory://x"), "--trace-dir")
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(UserError, match=r"memory://x: .* `pip install 'bytelm\[buckets\]'`"):
        place("memory://x")


def test_a_missing_package_is_named(monkeypatch):
    def missing(kind):
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match="Install gcsfs to access Google Storage"):
        place("gs://bucket/run")


def test_files_are_written_whole_and_new_ones_replace_none(folder):
    write_whole(folder / "a.json", "naïve")
    assert (folder / "a.json").read_bytes() == "naïve".encode()
    write_new(folder / "b.json", "one")
    with pytest.raises(FileExistsError):
        write_new(folder / "b.json", "two")
    assert (folder / "b.json").read_text() == "one"
    assert write_next(folder / "b.json", "two").name == "b-2.json"
    with pytest.raises(UserError, match="exists already"):
        check_new_file(folder / "b.json")
    with pytest.raises(UserError, match=r"b\.json is a file"):
        check_folder(folder / "b.json")
    with new_file(folder / "c.json") as file:
        file.write(b"three")
    assert (folder / "c.json").read_bytes() == b"three"
    with pytest.raises(FileExistsError), new_file(folder / "c.json") as file:
        file.write(b"four")
    assert (folder / "c.json").read_bytes() == b"three"
    check_new_file(folder / "d.json")
    check_folder(folder)


def test_a_folder_is_sent_with_its_mark_last(folder, monkeypatch):
    sent = []
    monkeypatch.setattr("bytelm.core.files.send", lambda *each: (sent.append(each[2]), send(*each)))
    with new_folder(folder, last="mark") as partial:
        for name in ("x", "mark", "below/y"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(name)
    assert sent == [["below/y", "x"], ["mark"]]
    assert objects(folder) == ["below/y", "mark", "x"]
    with pytest.raises(UserError, match="holds files"), new_folder(folder, last="mark"):
        pass


def test_folders_move_and_go(folder, tmp_path):
    (tmp_path / "[1]").mkdir()
    (tmp_path / "[1]" / "a").write_text("a")
    (tmp_path / "mark").write_text("")
    send(tmp_path, folder, ["[1]/a", "mark"])
    move(folder, folder.with_name("aside"), last="mark")
    assert objects(folder) == []
    fetch(folder.with_name("aside"), tmp_path / "back", ["[1]/a", "mark"])
    assert (tmp_path / "back/[1]/a").read_text() == "a"
    remove(folder.with_name("aside"), first="mark")
    assert objects(folder.with_name("aside")) == []
