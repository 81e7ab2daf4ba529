"""The validation rows of a run."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import PAD, START, UNSCORED
from bytelm.data.config import (
    DataConfig,
    Files,
    Mixture,
    NextByte,
    SpanCorruption,
    Tfds,
    VowelRemoval,
)
from bytelm.data.open_data import OpenData
from bytelm.data.validation import ValidationBatches, ValidationText

LENGTH = 32


def batches(text):
    return itertools.chain.from_iterable(map(text.batches, text.sources))


def cost(found) -> float:
    """Mean cost of the targets for a model that knows only the letter a."""
    targets = np.concatenate([batch.targets for batch in found])
    return float(np.where(targets == ord("a"), 0.2, 5.0)[targets != UNSCORED].mean())


@pytest.fixture
def skewed(tmp_path):
    """An easy and a hard file, under names in either order."""

    def files(easy: str, hard: str) -> DataConfig:
        folder = tmp_path / easy
        folder.mkdir()
        (folder / "train.txt").write_bytes(b"text to train on")
        (folder / easy).write_bytes(b"a" * 30_000)
        (folder / hard).write_bytes(np.random.RandomState(0).bytes(25_000))
        return DataConfig(
            source=Files(
                files=(str(folder / "train.txt"),),
                validation_files=(str(folder / "[12].txt"),),
                held_out=0.0,
            ),
            sequence_length=LENGTH,
            batch_size=8,
            cache_dir=str(tmp_path / "cache"),
        )

    return files("1.txt", "2.txt"), files("2.txt", "1.txt")


def test_skewed_text_has_the_figure_of_the_whole_split_under_any_names(skewed):
    first, second = (ValidationText(OpenData(config), 64) for config in skewed)
    whole = cost(ValidationBatches(OpenData(skewed[0])))
    error = 4.8 * np.sqrt(0.25 / 64)
    for text in (first, second):
        assert abs(cost(batches(text)) - whole) < 2 * error
    assert first.fingerprint == second.fingerprint
    rows = [
        {row.tobytes() for batch in batches(text) for row in batch.ids} for text in (first, second)
    ]
    assert rows[0] == rows[1]
    # The first rows of the split are all of one file.
    assert abs(cost(ValidationBatches(OpenData(skewed[0]), 64)) - whole) > 2 * error


def test_each_source_of_a_mixture_has_its_share_and_its_name(tmp_path):
    sources = []
    for number, (letter, size, weight) in enumerate([("a", 20_000, 3.0), ("b", 500, 1.0)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("text.txt", "valid.txt"):
            (folder / name).write_text(letter * size)
        files, held_out = (str(folder / "text.txt"),), (str(folder / "valid.txt"),)
        sources.append(Files(files=files, validation_files=held_out, weight=weight))
    config = DataConfig(
        source=Mixture(sources=tuple(sources)),
        sequence_length=LENGTH,
        batch_size=64,
        cache_dir=str(tmp_path),
    )
    text = ValidationText(OpenData(config), 128, multiple=4)
    assert [source.name for source in text.sources] == ["text.txt", "text.txt #2"]
    sums = []
    for source, letter in zip(text.sources, b"ab", strict=True):
        found = list(text.batches(source))
        # 96 rows of the larger source are two batches.
        assert {len(batch.ids) for batch in found} == {48}
        ids = np.concatenate([batch.ids for batch in found])
        assert set(np.unique(ids)) <= {letter, START - 1, START, PAD}
        sums.append(source.factor * (ids != PAD).sum())
    # The small source has less text than its share of 32 rows, and counts as if it had them.
    assert sums[0] == pytest.approx(3 * sums[1])


def test_processes_share_the_rows(config):
    whole = np.concatenate(
        [batch.ids for batch in batches(ValidationText(OpenData(config), 8, multiple=3))]
    )
    parts = [
        [
            batch.ids
            for batch in batches(
                ValidationText(OpenData(config), 8, multiple=3, process_index=i, process_count=3)
            )
        ]
        for i in range(3)
    ]
    np.testing.assert_array_equal(
        np.concatenate(list(map(np.concatenate, zip(*parts, strict=True)))), whole
    )


def test_the_fingerprint_tells_other_rows(skewed):
    config = skewed[0]
    found = [ValidationText(OpenData(config), 8), ValidationText(OpenData(config), 9)]
    found.append(ValidationText(OpenData(replace(config, sequence_length=17)), 8))
    assert len({text.fingerprint for text in found}) == 3
    again = ValidationText(OpenData(replace(config, batch_size=2)), 8)
    assert again.fingerprint == found[0].fingerprint


def test_examples_are_drawn_from_all_of_them(skewed):
    corrupted = replace(skewed[0], task=SpanCorruption(), sequence_length=24)
    (source,) = ValidationText(OpenData(corrupted), 5).sources
    assert len(source.rows) == 5
    inputs = [batch.inputs for batch in ValidationText(OpenData(corrupted), 5).batches(source)]
    first = next(iter(ValidationBatches(OpenData(corrupted), 5))).inputs
    assert not np.array_equal(inputs[0][:5], first[:5])
    diagnostic = DataConfig(task=VowelRemoval(), sequence_length=8, batch_size=100)
    assert len(ValidationText(OpenData(diagnostic), 150).sources[0].rows) == 150


def test_a_stream_is_read_at_random(tfds_dir, tmp_path):
    config = DataConfig(
        source=Tfds(dataset="tiny_text", data_dir=tfds_dir, held_out=0.3),
        task=NextByte(read="stream"),
        cache_dir=str(tmp_path / "cache"),
        sequence_length=16,
        batch_size=4,
    )
    text = ValidationText(OpenData(config), 4)
    assert not config.cache_path.exists()
    (source,) = text.sources
    assert source.origin.endswith("documents at random of a stream of 60")
    (opened,) = OpenData(config).sources
    held_out = b"\n".join(document.text for document in opened.documents("validation"))
    for batch in text.batches(source):
        for ids in batch.ids:
            runs = bytes(np.where(ids < 256, ids, 10).astype(np.uint8)).split(b"\n")
            assert all(run in held_out for run in runs)
    with pytest.raises(UserError, match="no text in its validation split"):
        ValidationText(OpenData(replace(config, source=replace(config.source, held_out=0.0))), 4)
