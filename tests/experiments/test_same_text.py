"""No table mixes runs of different text."""

import dataclasses

import pytest

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files
from bytelm.data.text_record import FILE
from bytelm.experiments.same_text import check_text
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig
from tests.training.tiny_run import keep_record


@pytest.fixture
def config(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"text to {name}")
    data = DataConfig(
        source=Files(
            files=(str(tmp_path / "train.txt"),),
            validation_files=(str(tmp_path / "valid.txt"),),
            test_files=(str(tmp_path / "test.txt"),),
        ),
        cache_dir=str(tmp_path / "cache"),
    )
    return ExperimentConfig(model=TransformerConfig(), data=data)


@pytest.fixture
def runs(config, tmp_path):
    """A run that has started, and one that has not."""
    (tmp_path / "done").mkdir()
    keep_record(tmp_path / "done", config, resuming=False)
    return [(tmp_path / "done", config), (tmp_path / "waiting", config)]


def test_the_same_text(runs, config, tmp_path):
    check_text(runs)
    (tmp_path / "train.txt").touch()
    moved = (tmp_path / "train.txt").rename(tmp_path / "other.txt")
    data = dataclasses.replace(
        config.data,
        source=dataclasses.replace(config.data.source, files=(str(moved),)),
        sequence_length=8,
    )
    check_text([(runs[0][0], dataclasses.replace(config, data=data))])


@pytest.mark.parametrize(
    "name, what",
    [("train", "other text"), ("valid", "other text"), ("test", "other text for its test")],
)
def test_other_text(runs, tmp_path, name, what):
    (tmp_path / f"{name}.txt").write_text(f"text to {name} again")
    with pytest.raises(UserError, match=rf"done is of .*{what} than train.txt holds now.*--output"):
        check_text(runs)
    (tmp_path / "done" / FILE).unlink()  # an older run: nothing is known
    check_text(runs)
