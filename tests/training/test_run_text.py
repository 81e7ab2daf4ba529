"""The record of what a run's parameters were trained on."""

import dataclasses
import json

import pytest

from bytelm.data.config import DataConfig, Files, MergeAbc, Pairs, PythonLibrary
from bytelm.data.open_data import OpenData
from bytelm.data.splits import SPLITS
from bytelm.data.text_record import FILE, load_record
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from tests.training.tiny_run import keep_record

TEXTS = [f"document {number}" for number in range(60)]


def write(path, texts):
    lines = [{"text": text, "target": text.upper()} for text in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return (str(path),)


@pytest.fixture
def config(tmp_path):
    files = write(tmp_path / "texts.jsonl", TEXTS)
    data = DataConfig(source=Files(files=files, held_out=0.2), cache_dir=str(tmp_path / "cache"))
    return ExperimentConfig(model=TransformerConfig(width=16, depth=1, head_width=8), data=data)


def with_data(config, **changes):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def with_source(config, **changes):
    return with_data(config, source=dataclasses.replace(config.data.source, **changes))


def new_run(path, name):
    run = path / name
    run.mkdir()
    return run


def masks(run, texts=TEXTS):
    record = load_record(run)
    return record.masks([text.encode() for text in texts]).tolist()


def expected(config):
    """The mask of each text, by the splits of its source."""
    (source,) = OpenData(config.data).sources
    found = {d.text.decode(): split for split in SPLITS for d in source.documents(split)}
    return [1 << SPLITS.index(found[text]) for text in TEXTS]


def test_every_document_and_its_split(config, tmp_path):
    run = new_run(tmp_path, "run")
    record = keep_record(run, config, resuming=False)
    assert record.complete
    assert masks(run) == expected(config)
    assert set(masks(run)) == {1, 2, 4}
    (source,) = load_record(run).sources
    path = (tmp_path / "texts.jsonl").resolve()
    assert source["places"]["train"] == [[str(path), path.stat().st_size]]


def test_pairs(config, tmp_path):
    data = dataclasses.replace(
        config.data,
        source=dataclasses.replace(config.data.source, target_key="target"),
        task=Pairs(),
    )
    pairs = dataclasses.replace(config, data=data)
    run = new_run(tmp_path, "run")
    assert keep_record(run, pairs, resuming=False).complete
    assert masks(run) == expected(pairs)


def test_files_of_their_own(config, tmp_path):
    files = write(tmp_path / "validation.jsonl", ["held", TEXTS[0]])
    own = with_source(config, validation_files=files, held_out=0.0)
    run = new_run(tmp_path, "run")
    keep_record(run, own, resuming=False)
    assert masks(run, ["held", TEXTS[0], TEXTS[1], "new"]) == [2, 1 | 2, 1, 0]


def test_a_run_that_goes_on_with_other_text(config, tmp_path):
    run = new_run(tmp_path, "run")
    keep_record(run, config, resuming=False)
    before = masks(run)
    other = with_source(config, held_out=0.4)
    assert keep_record(run, other, resuming=True).complete
    after = masks(run)
    assert after == [new | old & 1 for old, new in zip(before, expected(other), strict=True)]
    assert 1 | 2 in after


def test_a_run_that_starts_from_another(config, tmp_path):
    run, next_run = new_run(tmp_path, "run"), new_run(tmp_path, "next")
    keep_record(run, config, resuming=False)
    files = write(tmp_path / "others.jsonl", [f"other {number}" for number in range(60)])
    following = with_source(config, files=files)
    following = dataclasses.replace(following, train=TrainConfig(initial=str(run)))
    assert keep_record(next_run, following, resuming=False).complete
    assert masks(next_run) == masks(run)
    (run / FILE).unlink()
    assert not keep_record(next_run, following, resuming=False).complete


def test_an_older_run_without_a_record_stays_unknown(config, tmp_path):
    run = new_run(tmp_path, "run")
    assert not keep_record(run, config, resuming=True).complete
    assert not keep_record(run, config, resuming=True).complete


def test_tasks_without_text(config, tmp_path):
    diagnostic = with_data(config, source=PythonLibrary(), task=MergeAbc())
    record = keep_record(new_run(tmp_path, "run"), diagnostic, resuming=False)
    assert record.complete
    assert not len(record.digests)
