"""Runs of ablations and comparisons: trained to the end, or resumed, and tested once."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bytelm.core.atomic_write import write_whole
from bytelm.core.config_json import differences, to_dict
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.data.loader import ValidationBatches
from bytelm.data.open_data import Documents, OpenData
from bytelm.experiments.record import State
from bytelm.experiments.same_text import check_text
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.checkpoints.checkpoint import last_step
from bytelm.training.compatibility import FREE, outcome_changes
from bytelm.training.experiment import ExperimentConfig, as_saved, load_json
from bytelm.training.loop import train
from bytelm.training.metrics.records import read_records
from bytelm.training.run_directory import lock, remove_if_unused
from bytelm.training.run_files import CONFIG
from bytelm.training.upgrades import upgraded

TEST_REPORT = "test_report.json"
"""File of a run directory that holds its test."""
METRICS = "metrics.jsonl"


class Outcome(NamedTuple):
    """How a run ended: "waiting" if it has not, "failed" if it could not be trained or tested,
    "stopped" by a signal.
    """

    state: State
    reason: str = ""
    report: Mapping[str, Any] = {}
    """What its test found, if it is done."""


def carry_out(
    run_dir: Path,
    config: ExperimentConfig,
    test: Callable[[Path, ExperimentConfig], dict[str, Any]] | None,
    asked: Mapping[str, Any],
) -> Outcome:
    """Does of a run what is left to do. No failure of its own is raised.

    Args:
        run_dir: of the run.
        config: of the run.
        test: makes the report of a run that is trained, ready for JSON; None for no test.
        asked: what else the report depends on, ready for JSON; one of the same config and of the
            same wishes is not made again.
    """
    try:
        _check_test(config)
        if not is_trained(run_dir, config):
            interrupted_at = _train(run_dir, config)
            if interrupted_at is not None:
                return Outcome("stopped", f"after step {interrupted_at} of {config.train.steps}")
        if test is None:
            return Outcome("done")
        check_text([(run_dir, config)])
        return Outcome("done", report=_tested(run_dir, config, test, asked))
    except (UserError, jax.errors.JaxRuntimeError) as error:  # the latter when memory runs out
        say(f"{run_dir.name} failed: {error}")
        return Outcome("failed", str(error))


def check_saved(run_dir: Path, config: ExperimentConfig) -> None:
    """Raises UserError if the directory holds a checkpoint of another config, or of other text."""
    if last_step(run_dir) is None:
        return
    if different := outcome_changes(load_json(run_dir / CONFIG), config):
        raise UserError(
            f"{run_dir} holds a run of another config ({'; '.join(different)}); undo the change, "
            "give it another name, or choose another --output."
        )
    check_text([(run_dir, config)])


def is_trained(run_dir: Path, config: ExperimentConfig) -> bool:
    """Whether the run has its last checkpoint."""
    return last_step(run_dir) == config.train.steps


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """What a run recorded, in order."""
    return read_records(run_dir / METRICS)


def _check_test(config: ExperimentConfig) -> None:
    """Raises UserError, before anything is trained, if there is nothing to test it on."""
    if isinstance(config.model, EncoderDecoderConfig):
        ValidationBatches(OpenData(config.data), 1, "test")
    elif not any(Documents(OpenData(config.data), "test")):
        raise UserError("the test split holds no bytes; name data.test_files.")


def _train(run_dir: Path, config: ExperimentConfig) -> int | None:
    """Trains to the end, or up to the step that it returns when it is interrupted."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with lock(run_dir):
        (run_dir / TEST_REPORT).unlink(missing_ok=True)  # it is of parameters that there were
        try:
            result = train(config, run_dir, resume=True)
        except UserError:
            remove_if_unused(run_dir)
            raise
    return result.step if result.interrupted else None


def _tested(
    run_dir: Path,
    config: ExperimentConfig,
    test: Callable[[Path, ExperimentConfig], dict[str, Any]],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """The report on the test split, from the file if it is there already."""
    path = run_dir / TEST_REPORT
    if (report := _read_report(path)) is not None:
        changed = differences(upgraded(report["config"]), to_dict(config))
        if {key: report.get(key) for key in asked} == asked and all(
            field.startswith(FREE) for field, _, _ in changed
        ):
            return report
    report = {**test(run_dir, config), **asked, "config": as_saved(config)}
    write_whole(path, json.dumps(report, indent=2) + "\n")
    return report


def _read_report(path: Path) -> dict[str, Any] | None:
    """A report; None where there is none that can be read, which is then made again."""
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and isinstance(report.get("config"), dict) else None
