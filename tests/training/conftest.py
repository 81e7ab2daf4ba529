"""A tiny run, which several modules of tests resume, damage and compare with."""

import os
import shutil
from pathlib import Path

import pytest

from bytelm.training.experiment import ExperimentConfig
from bytelm.training.loop import train
from tests.training.tiny_run import tiny_config


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> ExperimentConfig:
    return tiny_config(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def whole(config, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    train(config, run)
    return run


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy whose files are links: unlink them before you write."""
    shutil.copytree(whole, tmp_path / "run", copy_function=os.link)
    return tmp_path / "run"
