"""A config that trains in a second, and whether two runs hold the same, for tests of runs."""

from pathlib import Path

import jax
import numpy as np

from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData
from bytelm.data.text_record import TextRecord
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.checkpoints.checkpoint import load_model
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.run import TrainingRun
from bytelm.training.run_directory import text_trained_on

STEPS = 6


def tiny_config(folder: Path) -> ExperimentConfig:
    """On a small text that is written into a folder; checkpoints after steps 2, 4 and 6."""
    for name, seed in (("train", 0), ("valid", 1)):
        words = np.random.default_rng(seed).choice(["to", "be", "or", "not", "\n"], 2000)
        (folder / f"{name}.txt").write_text(" ".join(words))
    return ExperimentConfig(
        model=TransformerConfig(width=16, depth=2, head_width=8),
        data=DataConfig(
            source=Files(
                files=(str(folder / "train.txt"),),
                validation_files=(str(folder / "valid.txt"),),
                held_out=0.0,
            ),
            sequence_length=32,
            batch_size=8,
            cache_dir=str(folder / "cache"),
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(
            steps=STEPS,
            log_every=1,
            validate_every=1000,
            validation_rows=8,
            checkpoint_every=2,
            keep=3,
            sample_bytes=0,
            tensorboard=False,
        ),
    )


def stop_after(patch, step: int) -> None:
    """Makes a run see a request to stop once it has done `step` steps."""

    def check_stop(run: TrainingRun) -> None:
        run.is_stopping = run.step == step and not run.is_done

    patch.setattr(TrainingRun, "check_stop", check_stop)


def params(run: Path, step: int | None = None) -> dict:
    return jax.tree.map(np.asarray, load_model(run, step).params)


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def keep_record(run: Path, config: ExperimentConfig, *, resuming: bool) -> TextRecord:
    """Writes the record of the text of a run, as the run does, and returns it."""
    record = text_trained_on(run, config, OpenData(config.data), resuming=resuming)
    record.save(run)
    return record
