"""Makes a stored run of the present schema for test_stored.py, and prints its two scores.

python -m tests.training.checkpoints.make_stored
"""

import contextlib
import tarfile
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import bytelm
from bytelm.data.config import DataConfig, Files
from bytelm.data.sources.files import FilesReader
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.loop import train
from bytelm.training.optimizer import Muon
from bytelm.training.upgrades import SCHEMA
from tests.training.tiny_run import stop_after

STORED = Path(__file__).with_name("stored")
STOPS_AFTER = 3
TEXT = "to be or not to be\n"

CONFIG = ExperimentConfig(
    SpaceByteConfig(
        local_width=8, local_depth=2, global_width=8, global_depth=1, head_width=4, window=16
    ),
    DataConfig(
        Files(files=("text.txt",), validation_files=("valid.txt",), held_out=0.0),
        sequence_length=32,
        batch_size=8,
        cache_dir="cache",
    ),
    Muon(learning_rate=1e-2),
    MeshConfig(data=1),
    TrainConfig(
        steps=6,
        log_every=2,
        validate_every=2,
        validation_rows=4,
        checkpoint_every=4,
        keep=1,
        sample_bytes=0,
        tensorboard=False,
    ),
)


def make(name: str) -> tuple[float, float]:
    """Stores a run of `CONFIG` that stops after its third step; makes it in the current folder.

    Its files hold no path of the machine that makes it.

    Returns:
        bits per byte of `TEXT` after that step, and at the end of a run that was not stopped.
    """
    words = np.random.default_rng(0).choice(["to", "be", "or", "not", "\n"], 700)
    Path("text.txt").write_text(" ".join(words))
    Path("valid.txt").write_text(" ".join(words[::-1][:200]))
    with (
        mock.patch("sys.argv", ["train"]),
        mock.patch("platform.platform", lambda: "Linux"),
        mock.patch("bytelm.training.run_directory._git", lambda: None),
        mock.patch.object(FilesReader, "places", _without_folder),
    ):
        train(CONFIG, Path("whole"))
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, STOPS_AFTER)
            train(CONFIG, Path("spacebyte"))
    for path in Path("spacebyte/checkpoints").iterdir():
        if path.name != str(STOPS_AFTER):
            path.rename(f"unused_{path.name}")
    for path in Path("spacebyte").rglob("commit_success.txt"):
        path.unlink()  # it holds absolute paths, and nothing reads it
    with tarfile.open(STORED / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        for path in ("spacebyte", "text.txt", "valid.txt"):
            archive.add(path, filter=_without_owner)
    runs = (bytelm.load("spacebyte"), bytelm.load("whole"))
    before, after = (run.bits_per_byte([TEXT]) for run in runs)
    return before, after


def _without_folder(reader, split, places=FilesReader.places) -> list[list[object]]:
    return [[Path(path).name, size] for path, size in places(reader, split)]


def _without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    return info.replace(uid=0, gid=0, uname="", gname="", deep=False)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        print(f'"spacebyte_schema{SCHEMA}": {make(f"spacebyte_schema{SCHEMA}")},')
