"""Every document is in exactly one split, for every kind of source."""

import itertools
import pickle

import pytest

from bytelm.data.config import DataConfig, Files, Mixture, PythonLibrary, Tfds
from bytelm.data.open_data import OpenData
from bytelm.data.sources.reader import Document
from bytelm.data.sources.source import Placement, Source
from bytelm.data.text_record import SPLITS, make_record, passages, placed_passages
from tests.data.test_text_record import TEXTS, lines


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


LEAST = 4 * 16384


def parts(placement, text):
    return [(part.split, part.document.text) for part in placement.parts(Document(text))]


def place(held_out=0.05, own=(), split_above=LEAST, record=None):
    return Placement(frozenset({"train", *own}), held_out, split_above, record)


def record_of(found):
    """The record of a run that read these parts."""
    rows = [placed_passages([text], split) for split, text in found]
    return make_record(rows, complete=True, sources=[])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_long_document_is_split_by_position(text):
    found = parts(place(), text)
    assert [split for split, _ in found] == ["train", "validation", "test"]
    assert b"".join(part for _, part in found) == text
    sizes = [len(part) / len(text) for _, part in found]
    assert sizes == pytest.approx([0.9, 0.05, 0.05], abs=16384 / len(text))


@pytest.mark.parametrize(
    "own, expected", [(["test"], ["train", "validation"]), (["validation"], ["train", "test"])]
)
def test_splits_that_the_source_has_get_nothing_of_it(own, expected):
    found = parts(place(own=own), TEXTS["lines"])
    assert [split for split, _ in found] == expected
    assert len(found[0][1]) == pytest.approx(0.95 * len(TEXTS["lines"]), abs=16384)


@pytest.mark.parametrize(
    "placement",
    [
        place(held_out=0.0),
        place(own=["validation", "test"]),
        place(split_above=None),
        place(split_above=len(TEXTS["lines"])),
    ],
)
def test_a_document_that_stays_whole(placement):
    ((_, text),) = parts(placement, TEXTS["lines"])
    assert text == TEXTS["lines"]


def test_a_text_with_a_target_stays_whole():
    document = Document(TEXTS["lines"], target=b"target")
    (placed,) = place().parts(document)
    assert placed.document == document
    assert not placed.is_part


def test_the_least_document_has_all_splits():
    for text in (b"x" * (LEAST + 1), b"y\n" * (LEAST // 2 + 1)):
        assert [split for split, _ in parts(place(held_out=0.001), text)] == list(SPLITS)


def test_the_part_in_a_split():
    placement = pickle.loads(pickle.dumps(place()))
    assert placement.part_in("train", TEXTS["lines"]) == parts(place(), TEXTS["lines"])[0][1]
    held_out = next(b"%d" % n for n in range(99) if parts(place(), b"%d" % n)[0][0] == "test")
    assert placement.part_in("train", held_out) is None


@pytest.mark.parametrize("held_out", [0.05, 0.2, 0.01])
def test_known_documents_keep_their_split(held_out):
    documents = [b"document %d" % number for number in range(300)]
    before = [pair for text in documents for pair in parts(place(0.05), text)]
    placement = place(held_out, record=record_of(before))
    assert [pair for text in documents for pair in parts(placement, text)] == before


@pytest.mark.parametrize("held_out", [0.05, 0.2, 0.01])
@pytest.mark.parametrize("split_above", [LEAST, 100_000])
def test_a_known_long_document_is_cut_where_it_was(held_out, split_above):
    before = parts(place(), TEXTS["lines"])
    placement = place(held_out, split_above=split_above, record=record_of(before))
    assert parts(placement, TEXTS["lines"]) == before


def test_a_long_document_that_has_grown():
    """Trained text is never held out, and held-out text stays held out."""
    before = dict(parts(place(), TEXTS["lines"]))
    grown = b"a heading\n" + TEXTS["lines"] + lines(2000)
    after = parts(place(record=record_of(before.items())), grown)
    assert b"".join(part for _, part in after) == grown
    validation = b"".join(part for split, part in after if split == "validation")
    assert before["validation"] in validation
    trained = set(passages(before["train"]))
    assert not trained & {p for split, part in after if split != "train" for p in passages(part)}
    # Without the record, the new length would move text between the splits.
    assert len(dict(parts(place(), grown))["train"]) > len(TEXTS["lines"])


def test_a_whole_document_that_has_grown_keeps_its_split():
    text = TEXTS["lines"][:60_000]
    for split in SPLITS:
        placement = place(split_above=None, record=record_of([(split, text)]))
        grown = text + b"one more line\n"
        assert parts(placement, grown) == [(split, grown)]
