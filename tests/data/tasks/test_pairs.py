"""Pairs of an input and a target from JSON lines."""

import itertools
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD, START, UNSCORED
from bytelm.data.config import DataConfig, Files, Pairs, VowelRemoval
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.data.tasks.pairs import PairRows
from bytelm.data.tasks.task import Pair
from bytelm.data.text_record import SPLITS
from bytelm.data.validation import ValidationBatches

LINES = [{"typo": f"{n} tpyo é", "fix": [f"{n} typo é", "else"], "of": "eng"} for n in range(60)]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return (str(path),)


@pytest.fixture
def pair_config(tmp_path):
    return DataConfig(
        source=Files(
            files=write(tmp_path / "pairs.jsonl", LINES),
            text_key="typo",
            target_key="fix",
            held_out=0.2,
        ),
        task=Pairs(target_length=14),
        sequence_length=16,
        batch_size=4,
        cache_dir=str(tmp_path / "cache"),
    )


def test_a_pair_is_in_the_split_of_its_input(pair_config):
    parts = {split: list(pair_config.task.pairs(OpenData(pair_config), split)) for split in SPLITS}
    assert all(parts.values())
    everything = sorted(itertools.chain(*parts.values()))
    wanted = sorted(Pair(line["typo"].encode(), line["fix"][0].encode(), None) for line in LINES)
    assert everything == wanted
    plain = DataConfig(source=Files(files=pair_config.source.files, text_key="typo", held_out=0.2))
    (source,) = OpenData(plain).sources
    for split, found in parts.items():
        inputs = [document.text for document in source.documents(split)]
        assert [pair.input for pair in found] == inputs


def test_batches_of_pairs(pair_config):
    config = replace(
        pair_config, source=replace(pair_config.source, script_key="of"), scripts=("rus", "eng")
    )
    found = list(config.task.pairs(OpenData(config), "train"))
    batches = list(ValidationBatches(OpenData(config), split="train"))
    assert len(batches) == -(-len(found) // 4)
    rows = [
        (
            batch.inputs[row],
            batch.ids[row],
            batch.targets[row],
            batch.document_ids[row],
            batch.scripts[row],
        )
        for batch in batches
        for row in range(4)
    ]
    for pair, (inputs, ids, targets, document_ids, scripts) in zip(found, rows, strict=False):
        text, wanted = [*pair.input, END], [*pair.target, END]
        assert inputs.tolist() == text + [PAD] * (16 - len(text))
        rest = 14 - len(wanted)
        assert targets.tolist() == wanted + [UNSCORED] * rest
        assert ids.tolist() == [START, *wanted[:-1]] + [PAD] * rest
        assert document_ids.tolist() == [1] * len(wanted) + [0] * rest
        assert scripts.tolist() == [1] * 14
    for inputs, ids, targets, document_ids, scripts in rows[len(found) :]:
        assert (inputs == PAD).all()
        assert (ids == PAD).all()
        assert (targets == UNSCORED).all()
        assert not document_ids.any()
        assert (scripts == -1).all()


def test_an_epoch_of_training_has_every_pair_once(pair_config):
    loader = train_loader(OpenData(replace(pair_config, batch_size=1)), seed=3)
    count = len(list(pair_config.task.pairs(OpenData(pair_config), "train")))
    for _ in range(2):
        epoch = [next(loader).inputs[0] for _ in range(count)]
        texts = {bytes(row[row < END].tolist()) for row in epoch}
        assert texts == {
            pair.input for pair in pair_config.task.pairs(OpenData(pair_config), "train")
        }


def test_worker_processes_give_the_same_batches(pair_config):
    first, second = (train_loader(OpenData(replace(pair_config, workers=n)), 0) for n in (0, 1))
    for _ in range(3):
        np.testing.assert_array_equal(next(first).targets, next(second).targets)
    second.close()


def test_fingerprint_changes_with_a_target(pair_config, tmp_path):
    config = replace(pair_config, source=replace(pair_config.source, held_out=0.0))
    changed = [*LINES[:-1], LINES[-1] | {"fix": "another"}]
    other = replace(
        config, source=replace(config.source, files=write(tmp_path / "other.jsonl", changed))
    )
    same = replace(
        config, source=replace(config.source, files=write(tmp_path / "same.jsonl", LINES))
    )
    prints = [train_loader(OpenData(c), 0).fingerprint for c in (config, other, same)]
    assert prints[0] == prints[2] != prints[1]


def test_a_pair_is_never_cut(pair_config):
    config = replace(
        pair_config,
        task=replace(pair_config.task, target_length=11),
        source=replace(pair_config.source, held_out=0.0),
        sequence_length=10,
    )
    (source,) = OpenData(config).sources
    message = (
        r"50 of the 60 pairs of pairs.jsonl \(train\) are longer than a row: set "
        r"data.sequence_length \(10\) to 11 and data.target_length \(11\) to 11"
    )
    with pytest.raises(UserError, match=message):
        PairRows(Pairs(target_length=11), source, "train", 10)
    rows = PairRows(Pairs(target_length=11), source, "train", 11)
    assert len(pickle.loads(pickle.dumps(rows))) == 60


def test_no_pairs_in_a_split(pair_config):
    with pytest.raises(UserError, match="no text in its validation split"):
        ValidationBatches(
            OpenData(replace(pair_config, source=replace(pair_config.source, held_out=0.0)))
        )


def test_pairs_without_a_script(pair_config):
    with pytest.raises(UserError, match=r"documents of pairs.jsonl have no script"):
        train_loader(OpenData(replace(pair_config, scripts=("eng",))), 0)
    with pytest.raises(UserError, match=r"script eng, which is not in data.scripts \(rus\)"):
        train_loader(
            OpenData(
                replace(
                    pair_config,
                    source=replace(pair_config.source, script_key="of"),
                    scripts=("rus",),
                )
            ),
            0,
        )


@pytest.mark.parametrize("fix", [None, [], [3], 3, "\ud83d"])
def test_a_line_without_its_target_is_a_bad_line(pair_config, tmp_path, fix):
    lines = [LINES[0], {"typo": "x"} | ({} if fix is None else {"fix": fix}), LINES[1]]
    config = replace(
        pair_config,
        source=replace(
            pair_config.source, held_out=0.0, files=write(tmp_path / "bad.jsonl", lines)
        ),
    )
    with pytest.raises(UserError, match=r"line 2: .*'fix'.*--data.text-key or --data.target-key"):
        list(config.task.pairs(OpenData(config), "train"))
    skipping = OpenData(replace(config, source=replace(config.source, skip_bad=True)))
    assert len(list(config.task.pairs(skipping, "train"))) == 2


def test_text_files_have_no_targets(pair_config, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    config = replace(
        pair_config, source=replace(pair_config.source, files=(str(tmp_path / "a.txt"),))
    )
    with pytest.raises(UserError, match=r"a.txt is text without keys.*data.target_key is fix"):
        list(config.task.pairs(OpenData(config), "train"))


def test_pairs_of_the_tasks(pair_config):
    diagnostic = DataConfig(task=VowelRemoval(), sequence_length=20)
    found = list(diagnostic.task.pairs(OpenData(diagnostic), "test"))
    assert len(found) == 1024
    batch = next(iter(ValidationBatches(OpenData(diagnostic), split="test")))
    assert bytes(batch.inputs[0, :-1].tolist()) == found[0].input
    assert DataConfig().task.pairs(OpenData(DataConfig()), "test") is None
