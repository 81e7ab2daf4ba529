"""Training and validation batches from packed text."""

import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD, START, UNSCORED
from bytelm.data.config import Files, Mixture
from bytelm.data.corpus.fingerprints import fingerprint_like
from bytelm.data.loader import train_loader
from bytelm.data.open_data import Documents, OpenData
from bytelm.data.validation import ValidationBatches
from bytelm.models.contract import Batch
from bytelm.tokenizers.unigram import Unigram


def take(loader, count):
    return [stack([batch]) for batch in itertools.islice(loader, count)]


def stack(batches):
    """Concatenated batches, as one array [3, B, T]."""
    parts = [[batch.ids, batch.targets, batch.document_ids] for batch in batches]
    return np.concatenate(np.array(parts), axis=1)


def expected_scored(config, split):
    """Symbols that are scored: every byte and END of the split."""
    (source,) = OpenData(config).sources
    return sum(len(document.text) + 1 for document in source.documents(split))


def test_an_epoch_scores_every_byte_and_end_once(config):
    config = replace(config, batch_size=1)
    loader = train_loader(OpenData(config), seed=1)
    rows = len(ValidationBatches(OpenData(config), split="train"))
    for _ in range(2):
        epoch = stack(itertools.islice(loader, rows))
        assert (epoch[1] != UNSCORED).sum() == expected_scored(config, "train")
        assert ((epoch[2] == 0) == (epoch[0] == PAD)).all()
    assert loader.state() == {"rows": 2 * rows}


def test_gives_batches_of_the_contract(config):
    batch = next(train_loader(OpenData(config), seed=0))
    assert isinstance(batch, Batch)
    for value in (batch.ids, batch.targets, batch.document_ids):
        assert (value.shape, value.dtype) == ((6, 16), np.int32)
    assert batch.scripts is None
    assert batch.boundaries is None


def test_resumed_is_uninterrupted(config):
    loader = train_loader(OpenData(config), seed=2)
    uninterrupted = take(loader, 9)
    first = train_loader(OpenData(config), seed=2)
    take(first, 4)
    state = json.loads(json.dumps(first.state()))
    assert state == {"rows": 24}
    second = train_loader(OpenData(config), seed=2)
    next(second)
    second.restore(state)
    np.testing.assert_array_equal(take(second, 5), uninterrupted[4:])
    first.restore(state)
    np.testing.assert_array_equal(take(first, 5), uninterrupted[4:])
    assert not np.array_equal(take(train_loader(OpenData(config), seed=3), 9), uninterrupted)


def test_resumes_on_another_number_of_processes_and_another_batch(config):
    rows = stack(itertools.islice(train_loader(OpenData(config), seed=2), 6))
    halves = [train_loader(OpenData(config), 2, index, 2) for index in range(2)]
    for loader in halves:
        loader.restore({"rows": 12})
    batch = stack([next(loader) for loader in halves])
    np.testing.assert_array_equal(batch, rows[:, 12:18])
    larger = train_loader(OpenData(replace(config, batch_size=20)), seed=2)
    larger.restore({"rows": 12})
    np.testing.assert_array_equal(stack([next(larger)]), rows[:, 12:32])


def test_worker_processes_give_the_same_batches(config):
    expected = take(train_loader(OpenData(config), seed=4), 5)
    loader = train_loader(OpenData(replace(config, workers=2)), seed=4)
    np.testing.assert_array_equal(take(loader, 5), expected)
    assert loader.state() == {"rows": 30}
    loader.close()


def test_a_mixture_of_sources(config, tmp_path):
    (tmp_path / "x.txt").write_text("x" * 200)
    mixture = (
        Files(files=config.source.files, weight=3),
        Files(files=(str(tmp_path / "x.txt"),), held_out=0),
    )
    mixed = replace(config, source=Mixture(sources=mixture))
    batches = stack(itertools.islice(train_loader(OpenData(mixed), seed=0), 20))
    of_x = (batches[0] == ord("x")).any(axis=1).sum()
    assert 28 <= of_x <= 32
    loader, alone = (train_loader(OpenData(each), seed=0) for each in (mixed, config))
    assert loader.fingerprint != alone.fingerprint
    before = [
        fingerprint_like("0", "2.", OpenData(config).packed(source, "train").documents())
        for source in OpenData(mixed).sources
    ]
    first, second = loader.fingerprint.split("-")
    for known in (loader.fingerprint, "-".join(before), f"{first}-{before[1]}"):
        assert loader.reads(known) and not alone.reads(known)
    for other in (f"{second}-{first}", first, "-".join([*before, "0"])):
        assert not loader.reads(other)
    training = ValidationBatches(OpenData(mixed), rows=8, split="train")
    (first, second) = training
    assert (stack([first, second])[0] == ord("x")).any(axis=1).sum() == 2


def test_validation_covers_the_split_in_order_padded(config):
    batches = ValidationBatches(OpenData(config))
    whole = stack(batches)
    assert whole.shape[1] == 6 * len(batches)
    assert (whole[1] != UNSCORED).sum() == expected_scored(config, "validation")
    text = whole[0][whole[0] < START]
    (source,) = OpenData(config).sources
    documents = [document.text for document in source.documents("validation")]
    assert bytes(text[text < 256].tolist()) == b"".join(documents)
    np.testing.assert_array_equal(stack(batches), whole)


def test_the_first_rows_of_validation_padded(config):
    whole = stack(ValidationBatches(OpenData(config), split="train"))
    batches = list(ValidationBatches(OpenData(config), 8, "train"))
    assert [len(batch.ids) for batch in batches] == [6, 6]
    rows = stack(batches)
    np.testing.assert_array_equal(rows[:, :8], whole[:, :8])
    assert (rows[0, 8:] == PAD).all()
    assert (rows[1, 8:] == UNSCORED).all()


def test_a_batch_that_processes_cannot_share(config):
    with pytest.raises(UserError, match="batch_size is 6, which 4 processes"):
        train_loader(OpenData(config), seed=0, process_count=4)


def test_state_of_a_stream_is_refused(config):
    with pytest.raises(UserError, match=r"checkpoint is of --data.read stream"):
        train_loader(OpenData(config), seed=0).restore({"layout": {}, "grain": {}})


@pytest.fixture
def marked(config, tmp_path, unigram_model):
    """Two sources: one of two scripts by line, and one of a third; and a Unigram model."""
    path = tmp_path / "scripts.jsonl"
    texts = {"rus": "мир время the", "jpn": "日本語 of 日本"}
    lines = [{"text": f"{texts[s]} {n}", "lang": s} for n in range(20) for s in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "x.txt").write_text("the texts of the text and " * 20)
    mixture = (
        Files(files=(str(path),), script_key="lang", held_out=0.0),
        Files(files=(str(tmp_path / "x.txt"),), script="eng", held_out=0.0),
    )
    scripts = ("jpn", "eng", "rus")
    return replace(
        config,
        task=replace(config.task, unigram=unigram_model),
        source=Mixture(sources=mixture),
        scripts=scripts,
    )


def extras(batches):
    """Ids, scripts and boundaries of batches, as one array [3, B, T]."""
    parts = [[batch.ids, batch.scripts, batch.boundaries] for batch in batches]
    return np.concatenate(np.array(parts), axis=1)


def check_scripts(ids, scripts):
    """Checks the scripts of a row against its text."""
    assert ((scripts == -1) == (ids == PAD)).all()
    assert (scripts[(ids == 0xD0) | (ids == 0xD1)] == 2).all()
    assert (scripts[(ids == 0xE6) | (ids == 0xE8)] == 0).all()
    assert (scripts[(ids == ord("n")) | (ids == ord("s"))] == 1).all()
    assert {0, 1, 2} <= set(scripts.reshape(-1).tolist())


def test_batches_carry_scripts_and_boundaries(marked, unigram_model):
    loader = train_loader(OpenData(marked), seed=0)
    batch = next(loader)
    assert (batch.scripts.shape, batch.scripts.dtype) == ((6, 16), np.int32)
    assert (batch.boundaries.shape, batch.boundaries.dtype) == ((6, 16), np.bool_)
    ids, scripts, boundaries = extras(itertools.islice(loader, 10))
    check_scripts(ids, scripts)
    assert (boundaries[ids == START] == 1).all()
    assert (boundaries[ids >= END] == (ids[ids >= END] == START)).all()
    digest = Unigram(unigram_model).digest
    plain = train_loader(
        OpenData(replace(marked, task=replace(marked.task, unigram=None), scripts=())), seed=0
    )
    assert loader.fingerprint == f"{plain.fingerprint}-{digest}"
    first = next(plain)
    np.testing.assert_array_equal(first.ids, batch.ids)
    assert first.scripts is None
    assert first.boundaries is None


def test_boundaries_do_not_depend_on_the_rows(marked):
    def whole(length):
        config = replace(marked, sequence_length=length)
        ids, _, boundaries = extras(ValidationBatches(OpenData(config), split="train")).reshape(
            3, -1
        )
        return boundaries[ids != PAD]

    expected = whole(4096)
    assert 0.1 < expected.mean() < 0.7
    for length in (5, 16):
        np.testing.assert_array_equal(whole(length), expected)


def test_resumed_batches_carry_them_too(marked):
    loader = train_loader(OpenData(marked), seed=2)
    uninterrupted = extras(itertools.islice(loader, 6))
    other = train_loader(OpenData(replace(marked, workers=1)), seed=2)
    other.restore({"rows": 4 * 6})
    np.testing.assert_array_equal(extras(itertools.islice(other, 2)), uninterrupted[:, 24:])
    other.close()


def test_validation_carries_them_and_none_in_padding(marked):
    ids, scripts, boundaries = extras(ValidationBatches(OpenData(marked), split="train"))
    check_scripts(ids, scripts)
    assert (ids[-1] == PAD).all()
    assert not boundaries[ids == PAD].any()


def test_mistakes_in_scripts_and_model_are_found_when_it_is_opened(marked, config, tmp_path):
    for opened in (
        lambda c: train_loader(OpenData(c), 0),
        lambda c: ValidationBatches(OpenData(c), split="train"),
    ):
        with pytest.raises(UserError, match="documents of the script jpn, which is not in"):
            opened(replace(marked, scripts=("eng", "rus")))
        with pytest.raises(UserError, match=r"documents of documents.jsonl have no script"):
            opened(replace(config, scripts=("eng",)))
        with pytest.raises(UserError, match=r"data.unigram: cannot read the model"):
            opened(
                replace(config, task=replace(config.task, unigram=str(tmp_path / "missing.model")))
            )


def test_whole_documents_need_neither_scripts_nor_a_model(marked):
    config = replace(marked, task=replace(marked.task, unigram="missing.model"), scripts=("tha",))
    assert len(list(Documents(OpenData(config), "train"))) == 41


def test_runs_in_a_directory_of_its_own(config):
    next(train_loader(OpenData(config), seed=0))
    assert {entry.name for entry in os.scandir(config.cache_dir) if entry.is_dir()} == {
        "packed",
        "shards",
    }
