"""Corpora that several tests read."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from bytelm.data.config import DataConfig, Files, NextByte
from bytelm.data.open_data import OpenData, training_text
from bytelm.tokenizers.training import train_tokenizer
from tests.data.tokenized import DOCUMENTS, TOKENS
from tests.tokenizers.subword_fixtures import corpus, trained, unigram_model

__all__ = ["corpus", "trained", "unigram_model"]


class TinyText(tfds.core.GeneratorBasedBuilder):
    """A TFDS dataset with train, test and two text features."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {"body": tfds.features.Text(), "text": tfds.features.Text()}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._examples(60), "test": self._examples(3)}

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError

    def _examples(self, count: int) -> Iterator[tuple[int, dict[str, bytes]]]:
        for number in range(count):
            text = b"%d of %d \xff" % (number, count) * (number % 7 + 1)
            yield number, {"body": b"not this", "text": text}


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory with the dataset `tiny_text`, prepared."""
    directory = str(tmp_path_factory.mktemp("tfds"))
    tfds.disable_progress_bar()
    TinyText(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.fixture
def documents() -> list[bytes]:
    """Documents of all lengths, one of them empty."""
    return [f"{number}: ".encode() + b"\xc3\xa9" * (number % 11) for number in range(70)] + [b""]


@pytest.fixture
def config(tmp_path: Path, documents: list[bytes]) -> DataConfig:
    """Config of a JSON lines file of `documents`, with short rows."""
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text.decode()}) + "\n" for text in documents))
    return DataConfig(
        source=Files(files=(str(path),), held_out=0.1),
        cache_dir=str(tmp_path / "cache"),
        sequence_length=16,
        batch_size=6,
    )


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Config of `DOCUMENTS` as tokens, with short rows."""
    directory = tmp_path_factory.mktemp("tokenized")
    for number, text in enumerate(DOCUMENTS):
        (directory / f"{number}.txt").write_bytes(text)
    for name in ("validation", "testing"):
        (directory / f"{name}.txt").write_bytes(b"held out text")
    config = DataConfig(
        source=Files(
            files=(str(directory / "?.txt"),),
            validation_files=(str(directory / "validation.txt"),),
            test_files=(str(directory / "testing.txt"),),
        ),
        cache_dir=str(directory / "cache"),
        sequence_length=16,
        batch_size=2,
    )
    path = directory / "bpe.json"
    texts = training_text(OpenData(config), 10**6)
    path.write_bytes(train_tokenizer(texts, "bpe", TOKENS))
    return dataclasses.replace(config, task=NextByte(tokenizer=str(path)))
