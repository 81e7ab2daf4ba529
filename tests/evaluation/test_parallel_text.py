import json
import lzma

import pytest

from bytelm.core.errors import UserError
from bytelm.evaluation.languages import read_parallel


def write(path, *records):
    keys = ("id", "lang", "text")
    lines = [json.dumps(dict(zip(keys, record, strict=True))) for record in records]
    content = "\n".join(lines).encode()
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    return str(path)


def test_translations_may_lie_in_other_files_and_in_another_order(tmp_path):
    write(tmp_path / "1.jsonl", ("a", "eng", "one\ntwo\r\n"), ("b", "eng", " x\u2028y\n"))
    write(tmp_path / "2.jsonl", ("b", "deu", "ü"), ("a", "deu", "eins\nzwei"))
    found = read_parallel([str(tmp_path / "*.jsonl")])
    assert found == {
        "eng": [b"one", b"two\r", " x\u2028y".encode()],
        "deu": [b"eins", b"zwei", "ü".encode()],
    }


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (("b", "deu", "x"), "document a exists in eng and not in deu"),
        (("b", "eng", "x"), "document b exists in eng and not in fra"),
        (("a", "eng", "x\ny"), "document a appears twice in eng"),
        (("a", "deu", "x\n"), "document a has 1 line in deu and 2 in eng"),
        (("a", "deu", "\nx\n"), "document a in deu, line 1 is empty"),
        (("a", "deu", 3), "line 3: the value of 'text' is not a string"),
        (("a", 3, "x\ny"), "line 3: the value of 'lang' is not a string"),
        ((3, "deu", "x\ny"), "line 3: the value of 'id' is not a string"),
    ],
)
def test_languages_that_are_not_aligned(tmp_path, record, message):
    path = write(tmp_path / "a.jsonl", ("a", "eng", "x\ny"), ("a", "fra", "x\ny"), record)
    with pytest.raises(UserError, match=message):
        read_parallel([path])


def test_files_without_a_document(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl: the files hold no document"):
        read_parallel([str(tmp_path / "a.jsonl")])
    with pytest.raises(UserError, match="no file matches"):
        read_parallel([str(tmp_path / "b.jsonl")])
