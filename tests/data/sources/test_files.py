"""Local files give exact bytes, or a clear sentence."""

import bz2
import gzip
import json
import lzma
import re
import tracemalloc

import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import Files
from bytelm.data.sources.file_formats import zstd
from bytelm.data.sources.files import FilesReader
from bytelm.data.sources.reader import Document

COMPRESSORS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}


def read(*patterns, split="train", **fields):
    reader = Files(files=tuple(map(str, patterns)), **fields).reader(None)
    return [document.text for document in reader.documents(split)]


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_text_file_is_one_document_of_the_same_bytes(tmp_path, ending):
    text = b"\xef\xbb\xbfa\r\nb\0\xff\n"
    # Two compressed streams in one file, such as from `cat a.gz b.gz`.
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
        (b'"text"', "it is no JSON object"),
        (b'{"text": 3}', "not a string"),
        (b'{"text": "\\ud83d"}', "surrogate"),
    ],
)
def test_bad_lines(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "fine"}\n')
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2: .*{reason}.*--data.skip-bad"):
        read(path)
    reader = FilesReader(Files(files=(str(path),), skip_bad=True))
    assert [document.text for document in reader.documents("train")] == [b"good", b"fine"]
    assert reader.skipped == 1


def test_scripts_of_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "lang": "eng"}\n{"lang": "rus", "text": ""}\n')
    reader = FilesReader(Files(files=(str(path),), script_key="lang"))
    assert list(reader.documents("train")) == [Document(b"a", "eng"), Document(b"", "rus")]
    reader = FilesReader(Files(files=(str(path),)))
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
    (tmp_path / "a.warc.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.warc\.gz ends in none"):
        read(tmp_path / "*")


def test_a_file_in_two_splits(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    with pytest.raises(UserError, match="both the train and the validation files"):
        read(tmp_path / "*", validation_files=(str(tmp_path / "a.txt"),))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no" + data])
def test_damaged_files(tmp_path, ending, damage):
    content = COMPRESSORS[ending](b'{"text": "a"}\n' * 1000)
    (tmp_path / f"a.jsonl{ending}").write_bytes(damage(content))
    with pytest.raises(UserError, match=rf"a\.jsonl{ending} cannot be read, or is damaged"):
        read(tmp_path / "*")


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["b.txt", "b.jsonl"])
def test_a_damaged_file_is_an_error_or_left_out_whole(tmp_path, ending, name, caplog):
    line = b'{"text": "fine"}\n'
    (tmp_path / f"a.jsonl{ending}").write_bytes(COMPRESSORS[ending](line))
    second = tmp_path / f"{name}{ending}"
    for rest in (b"rubbish", COMPRESSORS[ending](line * 500)[:-5]):
        second.write_bytes(COMPRESSORS[ending](line * 1000) + rest)
        with pytest.raises(UserError, match=rf"{name}{ending} cannot be read, or is damaged"):
            read(tmp_path / "*")
        reader = FilesReader(Files(files=(str(tmp_path / "*"),), skip_bad=True))
        assert [document.text for document in reader.documents("train")] == [b"fine"]
        assert reader.skipped == 1
        assert f"{name}{ending} is damaged, and skipped" in caplog.text


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_byte_order_mark_is_no_part_of_json_lines(tmp_path, skip_bad):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "first"}\n{"text": "\xef\xbb\xbfsecond"}\n')
    assert read(path, skip_bad=skip_bad) == [b"first", b"\xef\xbb\xbfsecond"]
    path.write_bytes('{"text": "a"}\n'.encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.jsonl is in UTF-16 .*iconv"):
        read(path, skip_bad=skip_bad)


def test_a_byte_order_mark_stays_part_of_a_text(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    assert read(tmp_path / "a.txt") == [b"\xef\xbb\xbftext"]
    assert "a.txt begins with a byte order mark, which stays part of its text" in caplog.text


@pytest.mark.parametrize(
    "name", ["a.json", "a.ndjson", "a.json.gz", "a.jsonl.bz2", "A.JSONL", "a", "a.gz"]
)
def test_names_of_json_lines(tmp_path, name):
    ending = name[1:] if name[1:] in COMPRESSORS else "." + name.split(".")[-1]
    content = b'{"text": "one"}\n{"text": "two"}\n'
    (tmp_path / name).write_bytes(COMPRESSORS.get(ending, bytes)(content))
    assert read(tmp_path / name) == [b"one", b"two"]


@pytest.mark.parametrize("name", ["input", "enwik8.bz2"])
def test_a_text_without_an_ending(tmp_path, name):
    content = bz2.compress(b"<mediawiki>") if name.endswith("2") else b"<mediawiki>"
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == [b"<mediawiki>"]


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("a.json", b'[{"text": "a"}]', "jq -c '.[]'"),
        ("a.jsonl", b'[\n{"text": "a"}\n]', "jq -c '.[]'"),
        ("a.json", b'{\n  "text": "a"\n}', "jq -c '.'"),
    ],
)
def test_json_that_is_no_json_lines(tmp_path, name, content, advice):
    (tmp_path / name).write_bytes(content)
    for skip_bad in (False, True):
        with pytest.raises(UserError, match=re.escape(advice)):
            read(tmp_path / name, skip_bad=skip_bad)


def test_a_name_that_lies_about_compression(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b'{"text": "a"}'))
    assert read(tmp_path / "a.jsonl") == [b"a"]
    assert "a.jsonl is compressed with gzip, which its name does not say" in caplog.text
    (tmp_path / "b.txt.gz").write_bytes(b"plain text")
    with pytest.raises(UserError, match=r"b\.txt\.gz .*not compressed with gzip; .*\.gz off"):
        read(tmp_path / "b.txt.gz")


def test_files_of_no_bytes(tmp_path):
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).write_bytes(b"")
    assert read(tmp_path / "a.txt") == [b""]
    assert read(tmp_path / "b.jsonl") == []


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_long_text_is_held_once(tmp_path, ending):
    size = 2**25
    (tmp_path / f"a.txt{ending}").write_bytes(COMPRESSORS[ending](bytes(size)))
    tracemalloc.start()
    try:
        [text] = read(tmp_path / "*")
        assert tracemalloc.get_traced_memory()[1] < 1.3 * size
    finally:
        tracemalloc.stop()
    assert len(text) == size


def test_inputs_change_with_the_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a")
    config = Files(files=(str(path),))
    before = FilesReader(config).inputs("train")
    assert FilesReader(config).inputs("train") == before
    path.write_bytes(b"ab")
    assert FilesReader(config).inputs("train") != before
