"""The size and the record of the text that a run is trained on."""

import dataclasses

import pytest

from bytelm.core.vocabulary import END
from bytelm.data.config import DataConfig, Files, Mixture, NextByte, Tfds
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import TextSize, run_text, text_size


def test_datasets_that_are_packed_and_streamed(tfds_dir, tmp_path):
    config = DataConfig(
        source=Tfds(dataset="tiny_text", data_dir=tfds_dir, held_out=0.2), cache_dir=str(tmp_path)
    )
    packed = run_text(OpenData(config))
    assert packed.complete
    texts = [b"%d of 60 \xff" % number * (number % 7 + 1) for number in range(60)]
    assert set(packed.masks(texts)) == {1, 2}  # the test split is one of its own
    streamed = run_text(
        OpenData(dataclasses.replace(config, task=dataclasses.replace(config.task, read="stream")))
    )
    assert not streamed.complete
    assert not len(streamed.digests)
    assert streamed.sources == packed.sources
    other = run_text(
        OpenData(
            dataclasses.replace(config, source=dataclasses.replace(config.source, held_out=0.3))
        )
    )
    assert other.sources[0]["text"] == packed.sources[0]["text"] is not None


def test_bytes_and_rows_of_a_mixture(tmp_path):
    sources = []
    for number, weight in ((1, 1.0), (2, 3.0)):
        (tmp_path / f"{number}.txt").write_bytes(b"a" * 94 * number)
        sources.append(Files(files=(str(tmp_path / f"{number}.txt"),), weight=weight))
    config = DataConfig(
        source=Mixture(
            sources=tuple(dataclasses.replace(source, held_out=0.0) for source in sources)
        ),
        sequence_length=32,
        cache_dir=str(tmp_path),
    )
    # 96 symbols are 3 rows, and 190 are 6 of which the last is not full.
    mean = (94 / 3 + 3 * 188 / 6) / 4
    assert text_size(OpenData(config)) == TextSize(94 * 3, 9, pytest.approx(mean))


def test_a_row_has_as_many_bytes_as_training_scores(config):
    size = text_size(OpenData(config))
    loader = train_loader(OpenData(dataclasses.replace(config, batch_size=size.rows)), seed=0)
    targets = next(loader).targets
    assert size.bytes == ((targets >= 0) & (targets < END)).sum()
    assert size.bytes_per_row == size.bytes / size.rows


def test_where_nobody_has_counted(tfds_dir):
    stream = DataConfig(
        source=Tfds(dataset="tiny_text", data_dir=tfds_dir),
        task=NextByte(read="stream"),
        sequence_length=16,
    )
    assert text_size(OpenData(stream)) == TextSize(None, None, 16)
