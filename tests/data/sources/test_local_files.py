"""Patterns match each real file once."""

import gzip
import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from bytelm.core.errors import UserError
from bytelm.core.places import place, send
from bytelm.data.sources.files import Files
from bytelm.data.sources.local_files import find_files


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return write


def found(*patterns):
    return [str(path) for path in find_files(patterns, "data.files")]


def test_a_file_named_twice_counts_once(make, tmp_path):
    make("a.txt")
    os.symlink("a.txt", "link.txt")
    os.symlink(".", "latest")
    os.link("a.txt", "hard.txt")
    assert found("a.txt", str(tmp_path / "a.txt"), "link.txt", "latest/a.txt", "./a.txt") == [
        "a.txt"
    ]
    assert found("link.txt") == ["link.txt"]
    assert found("*.txt") == ["a.txt"]


def test_directories_that_lead_to_themselves_are_read_once(make):
    make("d/x.txt", "d/sub/y.txt")
    os.symlink(".", "d/latest")
    os.symlink("..", "d/sub/again")
    os.symlink("../sub", "d/sub/other")
    assert found("d/**/*.txt") == ["d/sub/y.txt", "d/x.txt"]
    assert found("d/**") == ["d/sub/y.txt", "d/x.txt"]
    assert found("**/*.txt", "**/latest/*.txt") == ["d/sub/y.txt", "d/x.txt"]


def test_a_linked_directory_is_read(make):
    make("elsewhere/deep/x.txt")
    os.mkdir("d")
    os.symlink("../elsewhere", "d/data")
    assert found("d/**/*.txt") == ["d/data/deep/x.txt"]
    assert found("d/data/*/x.txt") == ["d/data/deep/x.txt"]


def test_links_that_lead_nowhere_are_named(make, caplog):
    make("d/x.txt")
    os.symlink("b.txt", "d/a.txt")
    os.symlink("a.txt", "d/b.txt")
    assert found("d/*.txt") == ["d/x.txt"]
    assert "d/a.txt is a broken link" in caplog.text


@pytest.mark.parametrize("name", ["books [2019].txt", "[D]/x.txt", "[D]/[a]/[x].txt", "[!a].txt"])
def test_brackets_in_a_name_that_exists(make, tmp_path, name):
    make(name, "2/a/x.txt", "D/a/x.txt", "books 2.txt", "b.txt")
    assert found(name) == [name]
    assert found(str(tmp_path / name)) == [str(tmp_path / name)]


def test_brackets_and_wildcards(make):
    make("[D]/part-1.txt", "[D]/part-x.txt", "D/part-2.txt", "[D]/.hidden.txt")
    assert found("[D]/part-[0-9].txt") == ["[D]/part-1.txt"]
    assert found("[D]/*.txt") == ["[D]/part-1.txt", "[D]/part-x.txt"]
    assert found("[DE]/*.txt") == ["D/part-2.txt"]
    assert found("*/part-?.txt", "*/.h*") == [
        "D/part-2.txt",
        "[D]/.hidden.txt",
        "[D]/part-1.txt",
        "[D]/part-x.txt",
    ]


def test_a_name_that_is_not_utf8(make):
    make("b\udcff.txt", "\u4e66" * 75 + ".txt")
    assert found("*.txt") == ["b\udcff.txt", "\u4e66" * 75 + ".txt"]
    assert found("b\udcff.txt") == ["b\udcff.txt"]


def test_the_order_does_not_depend_on_the_spelling(make, tmp_path):
    make("a/2.txt", "a/10.txt", "b.txt")
    names = ["a/10.txt", "a/2.txt", "b.txt"]
    assert found("b.txt", "a/*.txt") == names
    absolute = [str(tmp_path / name) for name in names]
    assert found(str(tmp_path / "**/*.txt")) == absolute
    assert found(absolute[2], *names[:2]) == [*names[:2], absolute[2]]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("x*.txt", r"data.files: no file matches 'x\*\.txt'"),
        ("none/**/a.txt", "no file matches"),
        ("a\0.txt", "no file matches"),
        ("d", r"d is a directory; name the files in it, such as 'd/\*\*/\*\.txt'"),
        ("pipe", "pipe is not a regular file"),
    ],
)
def test_patterns_without_a_file(make, pattern, message):
    make("d/x.txt")
    os.mkfifo("pipe")
    with pytest.raises(UserError, match=message):
        found(pattern)


def test_files_at_an_address_are_those_of_a_disk(tmp_path):
    texts = [f"line {number}" for number in range(5)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    table = pyarrow.table({"text": texts})
    (tmp_path / "a.txt").write_text("one document")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "d.arrow"), table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "e.csv").write_text("text\n" + "\n".join(texts))
    far = place("memory://text")
    send(tmp_path, far / "deep", [path.name for path in tmp_path.iterdir()])

    near = Files(files=(f"{tmp_path}/*",)).reader(tmp_path)
    reader = Files(files=("memory://text/**",)).reader(tmp_path)
    assert list(reader.documents("train")) == list(near.documents("train"))
    assert reader.inputs("train") == near.inputs("train")
    assert found("memory://text/*/a.*", "memory://text/deep/a.txt") == ["memory://text/deep/a.txt"]
    for pattern, words in {
        "memory://text/x*": "check the address",
        "memory://text": "/\\*\\*",
    }.items():
        with pytest.raises(UserError, match=words):
            found(pattern)
