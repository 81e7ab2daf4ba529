"""Whatever way a run's text is named, evaluation scores the documents that the run held out."""

import dataclasses
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files, MergeAbc, Mixture, Pairs, VowelRemoval
from bytelm.data.open_data import Documents, OpenData
from bytelm.data.text_record import SPLITS, make_record, placed_passages
from bytelm.evaluation.text import (
    UNKNOWN,
    FirstBytes,
    GivenText,
    describe_text,
    evaluation_text,
    shared_windows,
)
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig
from tests.training.tiny_run import keep_record

TEXTS = [f"document {number} of the run" for number in range(80)]
OTHERS = [f"text {number} of another corpus" for number in range(30)]
BOOK = "".join(f"line {number * number} of a book\n" for number in range(9000))


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def run_of(config, tmp_path):
    """What evaluation sees of a run on a config."""
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    record = keep_record(
        run, ExperimentConfig(model=TransformerConfig(), data=config), resuming=False
    )
    return SimpleNamespace(config=SimpleNamespace(data=config), text_record=record)


def with_changes(config, **changes):
    """The config with fields of its source changed, and fields of its own."""
    names = {field.name for field in dataclasses.fields(config.source)}
    own = {name: changes.pop(name) for name in names & changes.keys()}
    return dataclasses.replace(config, source=dataclasses.replace(config.source, **own), **changes)


@pytest.fixture
def config(tmp_path):
    files = (write(tmp_path / "texts.jsonl", TEXTS),)
    return DataConfig(source=Files(files=files, held_out=0.1), cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def run(config, tmp_path):
    return run_of(config, tmp_path)


def scored(run, data, split=None):
    text = evaluation_text(run, data, split)
    return [document.decode() for document in text.documents()]


def counts(run, data, split=None):
    text = evaluation_text(run, data, split)
    about = text.about()
    return about["trained_on_documents"], about["documents"]


def grow(path, texts):
    with open(path, "a") as file:
        file.write("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence_length": 128},
        {"workers": 1},
        {"cache_dir": "other_cache"},
        {"held_out": 0.3},
        {"held_out": 0.01},
        {"held_out": 0.0},
        {"split_above": None},
        {"weight": 2.0},
        {"seed": "by its name in this directory"},
        {"seed": "link"},
        {"seed": "copy"},
        {"seed": "copy", "held_out": 0.3},
        {"seed": "copy", "held_out": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("split", ["validation", "test", "train"])
def test_the_run_s_text_however_it_is_named(run, config, tmp_path, monkeypatch, changes, split):
    monkeypatch.chdir(tmp_path)
    expected = [text.decode() for text in Documents(OpenData(config), split)]
    way, changes = changes.get("seed"), {k: v for k, v in changes.items() if k != "seed"}
    if way == "link":
        os.symlink("texts.jsonl", "link.jsonl")
        changes["files"] = ("link.jsonl",)
    elif way == "copy":
        shutil.copy("texts.jsonl", "copy.jsonl")
        changes["files"] = ("copy.jsonl",)
    elif way:
        changes["files"] = ("texts.jsonl",)
    data = with_changes(config, **changes)
    assert scored(run, data, split) == expected
    if split == "validation":
        assert scored(run, data) == expected
    trained = len(expected) if split == "train" else 0
    assert counts(run, data, split) == (trained, len(expected))


def test_options_that_have_no_effect_are_said(run, config):
    def told(**changes):
        data = with_changes(config, **changes)
        return describe_text(evaluation_text(run, data, "validation").about())

    assert "no effect" not in told(workers=1)
    assert "data.held_out and data.split_above had no effect" in told(
        held_out=0.3, split_above=None
    )


def test_a_file_that_grew(run, config):
    before = {split: scored(run, config, split) for split in ("train", "validation", "test")}
    grow(config.source.files[0], [f"added {number}" for number in range(200)])
    for held_out in (0.1, 0.3):
        data = with_changes(config, held_out=held_out)
        for split, texts in before.items():
            after = scored(run, data, split)
            assert [text for text in after if text in TEXTS] == texts
            assert set(after) - set(texts)
        assert counts(run, data)[0] == 0
        text = evaluation_text(run, data)
        about = text.about()
        assert about["new_bytes"] == sum(len(t) for t in scored(run, data) if t not in TEXTS) > 0
        assert "bytes are new to the run" in describe_text(about)


def test_other_text_is_scored_whole(run, config, tmp_path):
    data = with_changes(config, files=(write(tmp_path / "others.jsonl", OTHERS),))
    text = evaluation_text(run, data)
    assert scored(run, data) == OTHERS
    assert (text.whole, text.label, text.is_run_text) == (True, "all", False)
    about = text.about()
    assert describe_text(about) == "no passage of it was trained on"
    assert 0 < len(scored(run, data, "validation")) < len(OTHERS)


def test_other_text_with_some_of_the_run_says_so(run, config, tmp_path):
    known = scored(run, config, "train")[:3]
    held_out = scored(run, config, "validation")[:1]
    mixed = [*OTHERS, *known, *held_out]
    data = with_changes(config, files=(write(tmp_path / "mixed.jsonl", mixed),))
    assert scored(run, data) == mixed
    text = evaluation_text(run, data)
    about = text.about()
    assert (about["split"], about["source"]) == ("all", "mixed.jsonl")
    assert about["trained_on_bytes"] == sum(map(len, known))
    assert (
        f"{sum(map(len, known))} of its {sum(map(len, mixed))} bytes were trained on, in 3 of 34 "
        "documents"
    ) == describe_text(about)


def test_files_of_their_own(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = write(tmp_path / "held.jsonl", OTHERS)
    own = with_changes(config, validation_files=(held,), held_out=0.0)
    run = run_of(own, tmp_path)
    shutil.copy("texts.jsonl", "copy.jsonl")
    for changes in (
        {"workers": 1},
        {"files": ("texts.jsonl",)},
        {"files": ("copy.jsonl",)},
        {"files": (held,), "validation_files": ()},
    ):
        assert scored(run, with_changes(own, **changes)) == OTHERS
    only_trained = with_changes(own, files=("copy.jsonl",), validation_files=())
    with pytest.raises(UserError, match=r"no text of the run's validation split.*--split"):
        scored(run, only_trained)
    new = write(tmp_path / "new.jsonl", ["new", TEXTS[0]])
    named = with_changes(own, files=("copy.jsonl",), validation_files=(new,))
    assert scored(run, named) == ["new", TEXTS[0]]
    assert counts(run, named) == (1, 2)


def test_files_of_another_split_choose_it(run, config, tmp_path):
    test, copy = write(tmp_path / "test.jsonl", OTHERS), write(tmp_path / "copy.jsonl", ["other"])
    for changes in ({"test_files": (test,)}, {"files": (copy,), "test_files": (test,)}):
        data = with_changes(config, **changes)
        assert scored(run, data) == OTHERS
        text = evaluation_text(run, data)
        assert (text.label, text.name) == ("test", "test.jsonl")
    both = with_changes(config, validation_files=(copy,), test_files=(test,))
    assert scored(run, both) == ["other"]
    assert evaluation_text(run, both).name == "copy.jsonl"


def test_a_mixture(config, tmp_path):
    second = write(tmp_path / "second.jsonl", OTHERS)
    source = Files(files=config.source.files, held_out=0.1)
    mixture = dataclasses.replace(
        config, source=Mixture(sources=(source, Files(files=(second,), held_out=0.2)))
    )
    run = run_of(mixture, tmp_path)
    expected = scored(run, mixture, "validation")
    assert scored(run, dataclasses.replace(mixture, batch_size=2)) == expected
    alone = with_changes(config, files=(second,))
    assert scored(run, alone) == [text for text in expected if text in OTHERS]
    new = with_changes(config, files=(write(tmp_path / "new.jsonl", ["new"]),))
    assert scored(run, new) == ["new"]


def test_one_long_text(config, tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(BOOK)
    book = with_changes(config, files=(str(path),), split_above=65536)
    run = run_of(book, tmp_path)
    expected = scored(run, book, "validation")
    copy = tmp_path / "copy.txt"
    shutil.copy(path, copy)
    for changes in ({"held_out": 0.3}, {"split_above": 10**6}, {"files": (str(copy),)}):
        assert scored(run, with_changes(book, **changes)) == expected
    with open(copy, "a") as file:
        file.write("".join(f"line {number} of a sequel\n" for number in range(3000)))
    grown = with_changes(book, files=(str(copy),))
    assert expected[0] in "".join(scored(run, grown))
    assert counts(run, grown)[0] == 0


def test_the_first_bytes(config, tmp_path):
    (tmp_path / "book.txt").write_text(BOOK)
    book = with_changes(config, files=(str(tmp_path / "book.txt"),), split_above=65536)
    about = evaluation_text(run_of(book, tmp_path), book, "train").about(max_bytes=1000)
    assert (about["documents"], about["bytes"], about["trained_on_bytes"]) == (1, 1000, 1000)


def test_pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"text": t, "target": "x"}) + "\n" for t in TEXTS))
    config = DataConfig(
        source=Files(files=(str(path),), target_key="target", held_out=0.1),
        task=Pairs(),
        sequence_length=64,
    )
    run = run_of(config, tmp_path)
    text = evaluation_text(run, config)
    expected = list(text.pairs())
    shutil.copy(path, tmp_path / "copy.jsonl")
    copy = with_changes(config, files=(str(tmp_path / "copy.jsonl"),), held_out=0.3)
    assert list(evaluation_text(run, copy).pairs()) == expected
    assert counts(run, copy) == (0, len(expected))
    # Other targets are other text, and other than documents with these bytes.
    about = text.about()
    prints = {about["fingerprint"], evaluation_text(run, copy).about()["fingerprint"]}
    assert len(prints) == 1 and about["bytes"] == sum(len(pair.input) for pair in expected)
    path.write_text(path.read_text().replace('"x"', '"y"'))
    prints.add(evaluation_text(run, config).about()["fingerprint"])
    prints.add(GivenText(tuple(pair.input for pair in expected)).about()["fingerprint"])
    assert len(prints) == 3


def test_text_that_a_task_makes_has_a_fingerprint_of_its_own(tmp_path):
    tasks = VowelRemoval(), MergeAbc()
    data = [DataConfig(task=task, sequence_length=12) for task in tasks]
    run = run_of(data[0], tmp_path)
    abouts = [evaluation_text(run, each, split).about() for each in data for split in SPLITS]
    assert len({about["fingerprint"] for about in abouts}) == 6
    assert all(about["documents"] == 1024 and about["bytes"] == 11 * 1024 for about in abouts)
    first = evaluation_text(run, data[0], "test").about(max_bytes=100)
    assert first["bytes"] == 100 and first["fingerprint"] not in {a["fingerprint"] for a in abouts}


def test_an_older_run_without_a_record(run, config, tmp_path):
    expected = scored(run, config, "validation")
    run.text_record = None
    for changes in ({"sequence_length": 128}, {"held_out": 0.3}, {"workers": 1}):
        data = with_changes(config, **changes)
        assert scored(run, data) == expected
        text = evaluation_text(run, data)
        assert describe_text(text.about()).startswith(UNKNOWN)


def test_no_such_split(run, config):
    with pytest.raises(UserError, match="there is no split 'dev'"):
        evaluation_text(run, config, "dev")


@given(st.lists(st.binary(max_size=9)), st.integers(1, 60))
def test_exactly_so_many_bytes_and_whole_documents_but_the_last(documents, max_bytes):
    first = FirstBytes(documents, max_bytes)
    found = list(first)
    assert b"".join(found) == b"".join(documents)[:max_bytes]
    assert found[:-1] == documents[: len(found)][:-1]
    assert first.cut == (found != documents[: len(found)])
    assert list(first) == found  # again


def test_no_limit_and_a_senseless_one():
    first = FirstBytes(iter([b"a", b"", b"bc"]), None)
    assert list(first) == [b"a", b"", b"bc"] and not first.cut
    with pytest.raises(UserError, match="max-bytes is -1"):
        FirstBytes([], -1)


def words(seed: int) -> bytes:
    """A document of 3 kB, shorter than a passage of a longer one."""
    found = np.random.default_rng(seed).integers(97, 123, 3000).astype(np.uint8)
    found[::50] = ord("\n")
    return found.tobytes()


def test_pieces_without_a_whole_passage_are_found_by_a_sample():
    trained = [words(seed) for seed in range(10)]
    rows = [placed_passages(trained, "train")]
    record = make_record(rows, True, [])
    joined = words(20) + b"\n\n".join([words(21), trained[3], trained[4]])
    about = GivenText((joined,), record).about()
    assert about["trained_on_bytes"] == 0
    assert describe_text(about).startswith("no whole passage of it was trained on; about ")
    assert 0.35 < about["trained_on_windows"] / about["windows"] < 0.65
    assert shared_windows(GivenText((trained[3][1000:2000],), record).about()).startswith(
        "about 100"
    )
    assert describe_text(GivenText((words(30),), record).about()) == (
        "no passage of it was trained on"
    )
    older = dataclasses.replace(record, marks=None)
    assert describe_text(GivenText((joined,), older).about()) == "no passage of it was trained on"
