"""TFDS datasets by name, and each mistake in naming one."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from bytelm.core.errors import UserError
from bytelm.data.config import Tfds
from bytelm.data.sources.reader import Document
from bytelm.data.sources.tfds import NotInstalledError, TfdsReader


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_reads_prepared_data_by_name(tfds_dir):
    reader = TfdsReader(Tfds(dataset="tiny_text:1.0.0", data_dir=tfds_dir))
    assert reader.own_splits == {"train", "test"}
    assert sorted(document.text for document in reader.documents("test")) == [
        b"0 of 3 \xff",
        b"1 of 3 \xff" * 2,
        b"2 of 3 \xff" * 3,
    ]
    assert len(reader.random_access("train")) == 60
    assert reader.size("train") > 60


def test_data_lies_on_this_machine(tfds_dir):
    reader = TfdsReader(Tfds(dataset="tiny_text", data_dir=f"file://{tfds_dir}"))
    assert reader.inputs("train")[1].startswith(str(tfds_dir))
    with pytest.raises(UserError, match="read on a disk or at gs:// alone"):
        TfdsReader(Tfds(dataset="tiny_text", data_dir="memory://tfds")).splits  # noqa: B018


def test_named_splits_and_feature(tfds_dir):
    config = Tfds(
        dataset="tiny_text",
        data_dir=tfds_dir,
        train_split="train[:50%]",
        validation_split="train[50%:]",
        text_key="body",
    )
    reader = TfdsReader(config)
    assert reader.own_splits == {"train", "validation", "test"}
    assert list(reader.documents("train")) == [Document(b"not this")] * 30
    assert reader.inputs("train") != reader.inputs("validation")


def test_a_dataset_of_the_catalogue_finds_its_text():
    reader = TfdsReader(Tfds(dataset="pg19"))
    with tfds.testing.mock_data(num_examples=3):
        # The mock has features and examples, and no splits.
        vars(reader).update(builder=tfds.builder("pg19"), splits={"train": "train"})
        assert set(reader.builder.info.features) > {"book_text", "book_title"}
        documents = list(reader.documents("train"))
    assert len(documents) == 3
    assert all(isinstance(document.text, bytes) and document.text for document in documents)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "tiny_shakespear"}, "no dataset named .*nearest names.*tiny_shakespeare"),
        ({"dataset": "wiki4b/en"}, "nearest names.*wiki40b"),
        ({"dataset": "lm1b"}, "not prepared in .*download_and_prepare.*--data.data-dir"),
        ({"dataset": "lm1b:9.9.9"}, "cannot open lm1b:9.9.9"),
        ({"dataset": "tiny_text", "train_split": "tain"}, "no split 'tain'; it has"),
        ({"dataset": "tiny_text", "data_dir": "a\udcff"}, "path is not UTF-8.*name a link"),
        ({"dataset": "tiny_text", "text_key": "txt"}, "no text feature 'txt'.*body, text"),
    ],
)
def test_mistakes(tfds_dir, fields, message):
    with pytest.raises(UserError, match=message):
        list(TfdsReader(Tfds(**{"data_dir": tfds_dir, **fields})).documents("train"))


@pytest.mark.parametrize("part", ["text", "whole"])
def test_nothing_is_imported_that_a_dataset_names(tmp_path, monkeypatch, tfds_dir, part):
    (tmp_path / "foreign_module.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "foreign_text/1.0.0"
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        content = Path(tfds_dir, "tiny_text/1.0.0", name).read_text()
        own = {"text": "text_feature.Text", "whole": "features_dict.FeaturesDict"}[part]
        content = content.replace(f"tensorflow_datasets.core.features.{own}", "foreign_module.Own")
        (folder / name).write_text(content.replace("tiny_text", "foreign_text"))
    reader = TfdsReader(Tfds(dataset="foreign_text", data_dir=str(tmp_path)))
    with pytest.raises(UserError, match=r"features\.json names the class foreign_module\.Own"):
        list(reader.documents("train"))
    assert "foreign_module" not in sys.modules
    # TFDS is restored.
    with pytest.raises(SystemExit, match="was imported"):
        tfds.features.FeatureConnector.cls_from_name("foreign_module.Own")


@pytest.mark.parametrize("name", ["huggingface:pg19", "some-body:pg19/en:1.0.0"])
def test_nothing_is_fetched_from_a_namespace(name):
    with pytest.raises(UserError, match="namespace whose code or data TFDS would fetch"):
        list(TfdsReader(Tfds(dataset=name)).documents("train"))


def test_no_train_split(tfds_dir, monkeypatch):
    reader = TfdsReader(Tfds(dataset="tiny_text", data_dir=tfds_dir))
    monkeypatch.delitem(reader.builder.info.splits, "train")
    with pytest.raises(UserError, match="no split `train`; choose one of test"):
        list(reader.documents("train"))


def test_a_format_without_random_access(tmp_path, tfds_dir):
    copy = tmp_path / "tiny_text/1.0.0"
    copy.mkdir(parents=True)
    for path in Path(tfds_dir, "tiny_text/1.0.0").iterdir():
        if path.suffix == ".json":
            (copy / path.name).write_text(path.read_text().replace("array_record", "tfrecord"))
    assert json.loads((copy / "dataset_info.json").read_text())["fileFormat"] == "tfrecord"
    reader = TfdsReader(Tfds(dataset="tiny_text", data_dir=str(tmp_path)))
    with pytest.raises(UserError, match="format tfrecord, which has no random access"):
        list(reader.documents("train"))


def test_damaged_files_are_one_sentence(tmp_path, tfds_dir):
    shutil.copytree(Path(tfds_dir, "tiny_text"), tmp_path / "tiny_text")
    reader = TfdsReader(Tfds(dataset="tiny_text", data_dir=str(tmp_path)))
    assert list(reader.documents("train"))
    for path in (tmp_path / "tiny_text/1.0.0").glob("*train*"):
        path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"tiny_text in .* is damaged: .*; prepare it once more"):
        list(reader.documents("train"))


def test_without_tfds(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(NotInstalledError, match="pip install"):
        list(TfdsReader(Tfds(dataset="lm1b")).documents("train"))
