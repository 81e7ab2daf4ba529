"""Local files give exact bytes, and a clear sentence where they cannot."""

import gzip
import json
import lzma

import pytest

from bytelm.data.config import SourceConfig
from bytelm.data.document import Document
from bytelm.data.files import FilesReader, zstd
from bytelm.errors import UserError

COMPRESSORS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress}


def read(*patterns, split="train", **fields):
    reader = FilesReader(SourceConfig(files=tuple(map(str, patterns)), **fields))
    return [document.text for document in reader.documents(split)]


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_text_file_is_one_document_of_the_same_bytes(tmp_path, ending):
    text = b"\xef\xbb\xbfa\r\nb\0\xff\n"
    # Two compressed streams in one file, as `cat a.gz b.gz` makes.
    compressed = COMPRESSORS[ending](text) + COMPRESSORS[ending](b"more")
    (tmp_path / f"a.txt{ending}").write_bytes(compressed)
    assert read(tmp_path / "*") == [text + b"more"]


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_json_line_is_one_document(tmp_path, ending):
    texts = ["é\n\u2028\0", "", "\ud83d\ude00"]
    lines = [json.dumps({"body": text, "id": 1}) for text in texts]
    content = "\r\n\n".join(lines).encode()
    (tmp_path / f"a.jsonl{ending}").write_bytes(COMPRESSORS[ending](content))
    found = read(tmp_path / "*", text_key="body")
    assert found == ["é\n\u2028\0".encode(), b"", "\U0001f600".encode()]


def test_files_are_read_in_the_order_of_their_paths_once(tmp_path):
    for name in ("b/1.txt", "a/2.txt", "a/deep/1.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = read(tmp_path / "**/*.txt", tmp_path / "a/2.txt")
    assert found == [b"a/2.txt", b"a/deep/1.txt", b"b/1.txt"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "broken JSON"),
        (b'{"text": "\xff"}', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"other": "x"}', "no key 'text'"),
        (b'"text"', "no key 'text'"),
        (b'{"text": 3}', "not a string"),
        (b'{"text": "\\ud83d"}', "surrogate"),
    ],
)
def test_bad_lines(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "fine"}\n')
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2: .*{reason}.*--data.skip-bad"):
        read(path)
    reader = FilesReader(SourceConfig(files=(str(path),), skip_bad=True))
    assert [document.text for document in reader.documents("train")] == [b"good", b"fine"]
    assert reader.skipped == 1


def test_scripts_of_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "lang": "eng"}\n{"lang": "rus", "text": ""}\n')
    reader = FilesReader(SourceConfig(files=(str(path),), script_key="lang"))
    assert list(reader.documents("train")) == [Document(b"a", "eng"), Document(b"", "rus")]
    reader = FilesReader(SourceConfig(files=(str(path),)))
    assert {document.script for document in reader.documents("train")} == {None}


@pytest.mark.parametrize("bad", ['{"text": "x"}', '{"text": "x", "lang": null}'])
def test_a_line_without_its_script_is_a_bad_line(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good", "lang": "eng"}}\n{bad}\n')
    with pytest.raises(UserError, match=r"line 2: .*'lang'.*--data.script-key"):
        read(path, script_key="lang")
    assert read(path, script_key="lang", skip_bad=True) == [b"good"]


def test_text_files_have_no_keys(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    with pytest.raises(UserError, match=r"a\.txt is text without keys.*--data.script-key None"):
        read(tmp_path / "a.txt", script_key="lang")


def test_a_pattern_that_matches_nothing(tmp_path):
    with pytest.raises(UserError, match=r"data.files: no file matches '.*x\*\.txt'"):
        read(tmp_path / "x*.txt")


def test_another_kind_of_file(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.csv\.gz ends in neither"):
        read(tmp_path / "*")


def test_a_file_in_two_splits(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    with pytest.raises(UserError, match="both the train and the validation files"):
        read(tmp_path / "*", validation_files=(str(tmp_path / "a.txt"),))


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no" + data])
def test_damaged_files(tmp_path, ending, damage):
    content = COMPRESSORS[ending](b'{"text": "a"}\n' * 1000)
    (tmp_path / f"a.jsonl{ending}").write_bytes(damage(content))
    with pytest.raises(UserError, match=rf"a\.jsonl{ending} cannot be read, or is damaged"):
        read(tmp_path / "*")


def test_inputs_change_with_the_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a")
    config = SourceConfig(files=(str(path),))
    before = FilesReader(config).inputs("train")
    assert FilesReader(config).inputs("train") == before
    path.write_bytes(b"ab")
    assert FilesReader(config).inputs("train") != before
