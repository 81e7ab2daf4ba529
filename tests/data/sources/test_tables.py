"""Tables give the bytes of their cells, or a clear sentence."""

import json

import pyarrow
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import Files
from bytelm.data.sources.files import FilesReader
from bytelm.data.sources.tables import ROWS

TEXTS = ["é\n\u2028\0", "", "\U0001f600", 'a "b", c\r\n']


def reader(*patterns, **fields):
    return FilesReader(Files(files=tuple(map(str, patterns)), **fields))


def read(*patterns, **fields):
    return [document.text for document in reader(*patterns, **fields).documents("train")]


def write_stream(table, path):
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_file(table, path):
    with pyarrow.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS = {
    "a.parquet": lambda table, path: pyarrow.parquet.write_table(
        table, path, compression="zstd", row_group_size=3
    ),
    "a.arrow": write_stream,
    "b.arrow": write_file,
    "a.feather": pyarrow.feather.write_feather,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.binary()], ids=str
)
def test_a_row_is_one_document_of_the_same_bytes(tmp_path, name, kind):
    texts = [text.encode() for text in TEXTS * (ROWS // 2)]
    body = pyarrow.array(texts, pyarrow.binary()).cast(kind)
    table = pyarrow.table({"number": range(len(texts)), "body": body})
    WRITERS[name](table, tmp_path / name)
    assert read(tmp_path / name) == texts


def test_bytes_that_are_no_utf8_stay_as_they_are(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [b"\xff\0a"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [b"\xff\0a"]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_row_of_csv(tmp_path, ending, delimiter):
    rows = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    content = f"id{delimiter}text\n" + "".join(f"1{delimiter}{row}\n" for row in rows)
    (tmp_path / f"a.{ending}").write_bytes(content.encode())
    assert read(tmp_path / f"a.{ending}") == [text.encode() for text in TEXTS]


def test_nested_and_encoded_columns_targets_and_scripts(tmp_path):
    page = pyarrow.array([{"text": "a", "at": {"lang": "eng"}}, {"text": "b", "at": None}])
    table = pyarrow.table(
        {
            "page": page,
            "lang": pyarrow.array(["eng", "fra"]).dictionary_encode(),
            "answers": [["x", "y"], ["z"]],
            "other": ["1", "2"],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    keys = {"text_key": "page.text", "script_key": "lang", "target_key": "answers"}
    found = reader(tmp_path / "a.parquet", **keys).documents("train")
    expected = [(b"a", "eng", b"x"), (b"b", "fra", b"z")]
    assert [tuple(document) for document in found] == expected
    rows = [json.dumps(row) + "\n" for row in table.to_pylist()]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    lines = list(reader(tmp_path / "a.jsonl", **keys).documents("train"))
    assert [tuple(document) for document in lines] == expected
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: no key 'page\.url'"):
        read(tmp_path / "a.jsonl", text_key="page.url")


def test_a_missing_value_is_named_or_skipped(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 2: a value is missing.*--data.skip-bad"):
        read(tmp_path / "a.parquet")
    skipping = reader(tmp_path / "a.parquet", skip_bad=True)
    assert [document.text for document in skipping.documents("train")] == [b"a", b"b"]
    assert skipping.skipped == 1


@pytest.mark.parametrize(
    ("columns", "key", "reason"),
    [
        ({"a": ["x"], "b": ["y"]}, None, "unclear which column .* it has a, b: .*--data.text-key"),
        ({"a": ["x"], "n": [1]}, "n", "no column of text 'n'; it has a"),
        ({"n": [1]}, None, "no column of text; it has n"),
    ],
)
def test_columns_that_are_unclear_or_no_text(tmp_path, columns, key, reason):
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=reason):
        read(tmp_path / "a.parquet", text_key=key)


def test_a_list_is_no_document(tmp_path):
    table = pyarrow.table({"text": [["a", "b"]], "lang": ["eng"], "other": ["c"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for keys in ({}, {"script_key": "lang"}, {"target_key": "other"}):
        with pytest.raises(UserError, match=r"a\.parquet, row 1: the value is a list of strings"):
            read(tmp_path / "a.parquet", **keys)


def test_two_columns_of_one_name_are_refused(tmp_path):
    twice = [pyarrow.array(["x"]), pyarrow.array(["y"])]
    nested = [pyarrow.array(["x"]), pyarrow.array([{"b": "y"}])]
    for columns, names in ((twice, ["text", "text"]), (nested, ["a.b", "a"])):
        table = pyarrow.Table.from_arrays(columns, names)
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(UserError, match=rf"several columns '{names[0]}'"):
            read(tmp_path / "a.parquet", text_key=names[0])


@pytest.mark.parametrize("header", ["id;text", "id\ttext"])
def test_columns_divided_by_something_else(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n1\n")
    with pytest.raises(UserError, match=r"the only column of .*a\.csv is named .* not by ','"):
        read(tmp_path / "a.csv")


def test_names_of_columns_that_are_no_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"t\xe9xt\na\n")
    with pytest.raises(UserError, match=r"the names of the columns of .*a\.csv are not UTF-8"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_a_damaged_table_is_named_or_skipped(tmp_path, name):
    table = pyarrow.table({"text": ["long text " * 50] * 20})
    WRITERS[name](table, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    (tmp_path / "good.txt").write_text("good")
    with pytest.raises(UserError, match=rf"{name} cannot be read, or is damaged"):
        read(tmp_path / name)
    assert read(tmp_path / "*", skip_bad=True) == [b"good"]


def test_tables_that_are_compressed_twice_or_of_another_kind_are_refused(tmp_path):
    for name, reason in (("a.parquet.gz", "compressed twice"), ("a.warc", "extract its text")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=reason):
            read(tmp_path / name)


def test_utf16_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\na\n".encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16"):
        read(tmp_path / "a.csv")


def test_the_same_documents_as_lines_and_as_tables_have_the_same_packed_rows(tmp_path):
    from bytelm.data.config import DataConfig
    from bytelm.data.open_data import OpenData

    texts = [f"{index} {'word ' * index}" for index in range(60)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(lines)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    found = []
    for ending in ("jsonl", "parquet"):
        source = Files(files=(str(tmp_path / f"a.{ending}"),))
        data = OpenData(DataConfig(source=source, cache_dir=str(tmp_path / "cache")))
        found.append(
            {
                split: data.packed(data.sources[0], split).symbols.tobytes()
                for split in ("train", "validation", "test")
            }
        )
    assert found[0] == found[1]
