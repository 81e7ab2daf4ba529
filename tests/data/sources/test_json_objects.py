import lzma

import pytest

from bytelm.core.errors import UserError
from bytelm.data.sources.json_objects import json_objects


def test_values_of_each_line(tmp_path):
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"a": "x", "b": null}\n\n{"a": ["y", "\\u00fc"]}'))
    first, second = json_objects(path)
    assert (first.text("a"), "a" in first, "b" in first) == ("x", True, False)
    assert (first.texts("a"), second.texts("a")) == (["x"], ["y", "ü"])
    assert second.where == f"{path}, line 3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 1 is not a JSON object, but another value"),
        ('{"a"', "line 1 is not a JSON object: "),
        ('{"b": "x"}', "line 1 has no 'a'; it has b"),
        ('{"a": null}', "line 1 has no 'a'"),
        ('{"a": 3}', "line 1: the value of 'a' is not a string"),
        ('{"a": ["x", 3]}', "line 1: the value of 'a' is not a string"),
        ('{"a": "\\ud800"}', "line 1: the value of 'a' is not text"),
        ('{"a": []}', "line 1: the list 'a' is empty"),
    ],
)
def test_mistakes_are_told_with_the_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        [each.texts("a") for each in json_objects(path)]


def test_a_file_that_is_damaged(tmp_path):
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"a": "x"}')[:-8])
    with pytest.raises(UserError, match="cannot be read, or is damaged"):
        list(json_objects(path))
