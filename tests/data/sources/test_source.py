"""Every document is in exactly one split, for every kind of source."""

import itertools

from bytelm.data.config import DataConfig, Files, Mixture, PythonLibrary, Tfds
from bytelm.data.open_data import OpenData
from bytelm.data.sources.placement import Document
from bytelm.data.sources.source import Source
from bytelm.data.text_record import SPLITS


class ListReader:
    """Documents in memory."""

    name = "list"
    skipped = 0

    def __init__(self, **splits):
        self.settings = {}
        self.stored = splits

    @property
    def own_splits(self):
        return frozenset(self.stored)

    def inputs(self, split):
        return len(self.stored[split])

    def documents(self, split):
        return map(Document, self.stored[split])


def texts(source, split):
    return [document.text for document in source.documents(split)]


DOCUMENTS = [str(number).encode() for number in range(1000)]


def test_the_hash_puts_every_document_in_one_split():
    source = Source(ListReader(train=DOCUMENTS), held_out=0.1)
    parts = {split: texts(source, split) for split in SPLITS}
    assert sorted(itertools.chain(*parts.values())) == sorted(DOCUMENTS)
    assert 70 < len(parts["validation"]) < 130
    assert 70 < len(parts["test"]) < 130
    fewer = Source(ListReader(train=DOCUMENTS[::2]), held_out=0.1)
    assert texts(fewer, "test") == [d for d in DOCUMENTS[::2] if d in parts["test"]]


def test_a_split_of_its_own_leaves_the_others_as_they_were():
    hashed = Source(ListReader(train=DOCUMENTS), held_out=0.1)
    source = Source(ListReader(train=DOCUMENTS, validation=[b"v"]), held_out=0.1)
    assert texts(source, "validation") == [b"v"]
    assert texts(source, "test") == texts(hashed, "test")
    expected = {*texts(hashed, "train"), *texts(hashed, "validation")}
    assert set(texts(source, "train")) == expected


def test_nothing_held_out():
    source = Source(ListReader(train=DOCUMENTS), held_out=0.0)
    assert texts(source, "train") == DOCUMENTS
    assert texts(source, "test") == []


def test_fingerprint_depends_on_what_decides_the_documents():
    reader = ListReader(train=DOCUMENTS)
    fingerprints = {
        Source(reader, 0.1).fingerprint("train"),
        Source(reader, 0.1).fingerprint("test"),
        Source(reader, 0.2).fingerprint("train"),
        Source(ListReader(train=DOCUMENTS, test=[]), 0.1).fingerprint("train"),
        Source(ListReader(train=DOCUMENTS[1:]), 0.1).fingerprint("train"),
    }
    assert len(fingerprints) == 5
    assert Source(reader, 0.1).fingerprint("train") in fingerprints


def test_one_script_for_all_documents():
    source = Source(ListReader(train=DOCUMENTS), held_out=0.1, script="eng")
    assert {document.script for split in SPLITS for document in source.documents(split)} == {"eng"}
    unnamed = Source(ListReader(train=DOCUMENTS), held_out=0.1)
    assert {document.script for document in unnamed.documents("train")} == {None}
    assert texts(source, "test") == texts(unnamed, "test")
    assert source.fingerprint("train") != unnamed.fingerprint("train")
    assert "script" not in unnamed.settings("train")


def test_the_script_of_a_config_reaches_every_kind_of_source(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    files = Files(files=(str(tmp_path / "a.txt"),), script="eng")
    tfds = Tfds(dataset="lm1b", script="rus")
    library = PythonLibrary(script="python")
    sources = OpenData(DataConfig(source=Mixture(sources=(files, tfds, library)))).sources
    assert [source.script for source in sources] == ["eng", "rus", "python"]
