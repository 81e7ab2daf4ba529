"""Datasets of Hugging Face from folders, and each mistake in naming one."""

import json
import pickle
import socket

import pyarrow
import pyarrow.parquet
import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, HuggingFace
from bytelm.data.open_data import OpenData
from bytelm.data.sources.hugging_face import NAME, HuggingFaceReader

datasets = pytest.importorskip("datasets")
TEXTS = [f"{index} é {'word ' * index}" for index in range(40)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same documents as lines of files, as a saved dataset, and as one with two splits."""
    root = tmp_path_factory.mktemp("hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        lines = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS)
        (root / "lines").mkdir()
        (root / "lines" / "train.jsonl").write_text(lines)
        table = datasets.Dataset.from_dict({"text": TEXTS, "n": [1] * len(TEXTS)})
        table.save_to_disk(root / "saved")
        datasets.DatasetDict(train=table, test=table.select(range(3))).save_to_disk(root / "splits")
        yield root


def reader(folder, **fields):
    return HuggingFaceReader(HuggingFace(dataset=f"hf:{folder}", **fields))


@pytest.mark.parametrize("name", ["lines", "saved"])
def test_a_folder_gives_its_documents(folders, name):
    found = reader(folders / name)
    assert found.own_splits == {"train"}
    assert [d.text for d in found.documents("train")] == [text.encode() for text in TEXTS]
    texts = pickle.loads(pickle.dumps(found.random_access("train")))
    assert len(texts) == len(TEXTS)
    assert texts[7] == TEXTS[7].encode()
    assert found.inputs("train") == reader(folders / name).inputs("train")
    assert found.size("train") > 100


def test_a_stream_is_packed_as_the_stored_dataset_is(folders):
    found = reader(folders / "lines", streaming=True)
    assert [d.text for d in found.documents("train")] == [text.encode() for text in TEXTS]
    assert found.random_access("train") is None


def test_splits_are_its_own(folders):
    found = reader(folders / "splits")
    assert found.own_splits == {"train", "test"}
    assert len(list(found.documents("test"))) == 3
    part = reader(folders / "lines", train_split="train[:25%]", validation_split="train[25%:]")
    assert len(list(part.documents("train"))) == 10
    assert len(list(part.documents("validation"))) == 30


def test_packed_as_the_same_documents_in_files(folders, tmp_path):
    sources = (
        Files(files=(str(folders / "lines" / "train.jsonl"),)),
        HuggingFace(dataset=f"hf:{folders / 'saved'}"),
    )
    opened = [OpenData(DataConfig(source=each, cache_dir=str(tmp_path))) for each in sources]
    ours, theirs = (data.packed(data.sources[0], "train") for data in opened)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.symbols.tobytes() == theirs.symbols.tobytes()


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("lines", {"test_split": "tset"}, "no split 'tset'; it has train"),
        ("lines", {"text_key": "n"}, "no column of text 'n'; it has text"),
        ("saved", {"train_split": "train[:5]"}, "is a saved folder"),
        ("missing/a/b/c", {}, "neither a folder nor NAME/CONFIG@REVISION"),
    ],
)
def test_mistakes_are_one_sentence(folders, name, fields, reason):
    with pytest.raises(UserError, match=reason):
        list(reader(folders / name, **fields).documents("train"))


def test_a_dataset_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf:nobody/nothing cannot be read: .*; check"):
        reader("nobody/nothing").own_splits  # noqa: B018


def test_a_missing_value_is_named_or_skipped(tmp_path):
    table = datasets.Dataset.from_dict({"text": ["a", None, "b"]})
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved, row 2: a value is missing; .*--data.skip-bad"):
        list(reader(tmp_path / "saved").documents("train"))
    skipping = reader(tmp_path / "saved", skip_bad=True)
    assert [document.text for document in skipping.documents("train")] == [b"a", b"b"]
    assert skipping.skipped == 1
    with pytest.raises(UserError, match="row 2 of the dataset has no string as text"):
        skipping.random_access("train")[1]


def test_a_damaged_file_is_one_sentence(tmp_path):
    path = tmp_path / "train.parquet"
    table = pyarrow.table({"text": [f"{number} " * 500 for number in range(40)]})
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    path.write_bytes(content[:9000] + b"\xaa" * 4000 + content[13000:])
    with pytest.raises(UserError, match=r"hf:.* cannot be read: .*; check"):
        list(reader(tmp_path, streaming=True).documents("train"))


def test_names():
    assert NAME.fullmatch("allenai/c4/en@v1.0").groups() == ("allenai/c4", "en", "v1.0")
    assert NAME.fullmatch("pg19").groups() == ("pg19", None, None)
    assert NAME.fullmatch("a/b@refs/convert/parquet").groups()[2] == "refs/convert/parquet"
