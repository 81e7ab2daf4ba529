"""Runs of earlier versions, as they were stored, are loaded, scored and resumed."""

import re
import tarfile
from pathlib import Path

import pytest

import bytelm
from bytelm.training.checkpoints.checkpoint import last_step
from bytelm.training.experiment import load_json
from bytelm.training.loop import train
from tests.training.checkpoints.make_stored import STORED, TEXT

SCORES = {
    "spacebyte_635aa20": (7.819147555987712, 7.756540910731931),
    "dynamic_pooling_635aa20": (7.6521720623324345, 7.546430321689693),
    "spacebyte_schema6": (7.819147555987712, 7.756540910731931),
}
"""Bits per byte of `TEXT`, as the version that wrote the run gave them: after step 3, where there
is a checkpoint, and at the end of the same run when nothing had stopped it."""


@pytest.fixture(params=SCORES)
def unpacked(request, tmp_path, monkeypatch) -> str:
    """A stored run, unpacked into the current folder with its text."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(STORED / f"{request.param}.tar.xz") as archive:
        archive.extractall(filter="data")
    return request.param


@pytest.mark.parametrize("name", SCORES)
def test_a_stored_run_names_no_folder_of_the_machine_that_made_it(name):
    with tarfile.open(STORED / f"{name}.tar.xz") as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member).read() if member.isfile() else b""
            assert not re.search(rb"/(tmp|home|root|work|Users)/", content), member.name


@pytest.mark.filterwarnings("ignore:checkpoint .* has no digests")
def test_a_stored_run_is_loaded_scored_and_resumed(unpacked, capsys):
    run = Path(unpacked.rpartition("_")[0])
    before, after = SCORES[unpacked]
    assert last_step(run) == 3
    assert bytelm.load(run).bits_per_byte([TEXT]) == pytest.approx(before, rel=1e-6)

    config = load_json(run / "config.json")
    result = train(config, run, resume=True)
    assert (result.step, result.interrupted) == (config.train.steps, False)
    resumed = bytelm.load(run)
    assert resumed.bits_per_byte([TEXT]) == pytest.approx(after, rel=1e-5)
