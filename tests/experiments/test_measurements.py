import dataclasses
from pathlib import Path

import jax
import pytest

from bytelm.data.config import DataConfig
from bytelm.experiments import measurements
from bytelm.experiments.contenders import changed
from bytelm.experiments.runs import Run
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.timing import RepeatedStep, Timing


def run(contender: str, bytes_per_step: float) -> Run:
    config = ExperimentConfig(TransformerConfig(width=16, depth=1, head_width=8), DataConfig())
    return Run(Path(contender), contender, 0, 1.0, config, 1e6, bytes_per_step, "books", 1e9)


FAST, SLOW = run("fast", 100.0), run("slow", 400.0)


@pytest.fixture
def known(tmp_path, monkeypatch) -> measurements.Speeds:
    monkeypatch.setattr(measurements, "_step", lambda run: RepeatedStep(run.contender, 3, 7))
    taken = {"fast": (4.0, 1.0, 2.0), "slow": (8.0, 8.0, 8.0)}
    monkeypatch.setattr(
        measurements,
        "in_turns",
        lambda steps, rounds, warm_up: {n: Timing(taken[step]) for n, step in steps.items()},
    )
    measurements.measure_speeds([FAST, SLOW], 3, tmp_path)
    return measurements.read_speeds(tmp_path)


def test_speeds_are_the_bytes_of_a_step_over_its_median(known):
    for timed, bytes_per_second in ((FAST, 50.0), (SLOW, 50.0)):
        assert known.figures(timed) == {
            "train_bytes_per_second_in_turns": bytes_per_second,
            "peak_memory_bytes": 7,
        }


def test_runs_share_the_steps_that_are_alike(known):
    later = dataclasses.replace(FAST, budget=1e10, seed=1, bytes_per_step=10.0)
    assert known.figures(later)["train_bytes_per_second_in_turns"] == 5
    for field, value in (("data.batch_size", 16), ("train.accumulation", 2), ("model.width", 32)):
        config = changed(FAST.config, {field: value})
        assert not known.figures(dataclasses.replace(FAST, config=config))


def test_contenders_that_find_no_room_together_are_not_timed(tmp_path, monkeypatch, capsys):
    def full(run):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(measurements, "_step", full)
    measurements.measure_speeds([FAST], 3, tmp_path)
    assert "could not be timed: RESOURCE_EXHAUSTED" in capsys.readouterr().out
    assert measurements.read_speeds(tmp_path) == measurements.Speeds()
