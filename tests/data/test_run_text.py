"""What training records of datasets that are not files."""

import dataclasses

from bytelm.data.config import DataConfig, Tfds
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import run_text


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
