"""The report of a run's test is read back, and no table mixes runs of different text."""

import dataclasses
import json

import pytest

from bytelm.core.errors import StoppedError, UserError
from bytelm.core.figure import Figure
from bytelm.data.config import DataConfig, Files
from bytelm.data.text_record import FILE
from bytelm.experiments.runs import Outcome, Run, RunResult, _read_report, carry_out, check_text
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig
from tests.training.tiny_run import keep_record


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"config": 3}', b"\xff"])
def test_a_damaged_report_leads_to_another_test(tmp_path, content):
    path = tmp_path / "test.json"
    assert _read_report(path) is None
    path.write_bytes(content)
    assert _read_report(path) is None
    path.write_text('{"config": {"a": 1}, "bpb": 2.5}')
    assert _read_report(path) == {"config": {"a": 1}, "bpb": 2.5}


def test_a_report_is_read_back():
    figures = {"bpb": Figure("bpb", 2.5, "bpb", 2.4, 2.7, True), "parameters": Figure("n", 3.0)}
    result = RunResult(figures, (5.0, 10.0), (2, 4), {"trained_on_bytes": 0})
    saved = json.loads(json.dumps(result.to_json()))
    assert RunResult.from_json(saved, upper_bound=False) == result


def test_a_report_of_an_older_version_is_read():
    """Its figures were plain numbers, and the ends of an interval had names of their own."""
    figures = {"bpb": 2.5, "bpb_low": 2.4, "bpb_high": 2.7, "train_flops": 1e9}
    saved = {"figures": figures, "document_bits": [5.0], "document_bytes": [2]}
    for bound in (True, False):
        result = RunResult.from_json(saved, upper_bound=bound)
        assert result.figures["bpb"] == Figure("bpb", 2.5, "bpb", 2.4, 2.7, bound)
        assert result.figures["train_flops"] == Figure("train_flops", 1e9, "FLOP")
        assert set(result.figures) == {"bpb", "train_flops"}
    assert result.document_bits == (5.0,)
    adapted = RunResult.from_json({"figures": {"adapted/de/bpb": 2.0}}, upper_bound=False)
    assert adapted.document_bits == ()


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
    return [Run(tmp_path / name, name, 0, 1.0, config, 1.0, 1.0) for name in ("done", "waiting")]


def test_the_same_text(runs, config, tmp_path):
    check_text(runs)
    (tmp_path / "train.txt").touch()
    moved = (tmp_path / "train.txt").rename(tmp_path / "other.txt")
    data = dataclasses.replace(
        config.data,
        source=dataclasses.replace(config.data.source, files=(str(moved),)),
        sequence_length=8,
    )
    moved_config = dataclasses.replace(config, data=data)
    check_text([dataclasses.replace(runs[0], config=moved_config)])


def test_a_run_that_fails_after_a_signal_is_stopped(runs, monkeypatch):
    for error, state in ((UserError, "failed"), (StoppedError, "stopped")):

        def fails(*arguments, error=error, **options):
            raise error("the disk is full")

        monkeypatch.setattr("bytelm.experiments.runs.train", fails)
        assert carry_out(runs[1]) == Outcome(state, "the disk is full")


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
