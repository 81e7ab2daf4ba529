"""Runs of ablations and comparisons: trained to the end, or resumed, and tested once."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bytelm.core.config_json import differences, to_dict
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.files import write_whole
from bytelm.core.terminal_text import say
from bytelm.data.loader import ValidationBatches
from bytelm.data.open_data import Documents, OpenData
from bytelm.data.run_text import describe_source
from bytelm.data.sources.source import open_source
from bytelm.data.text_record import load_record
from bytelm.experiments.figures import saved_figures
from bytelm.experiments.records import RunState
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.checkpoints.checkpoint import last_step
from bytelm.training.compatibility import FREE, outcome_changes
from bytelm.training.experiment import ExperimentConfig, as_saved, load_json
from bytelm.training.loop import train
from bytelm.training.metrics.writer import read_records
from bytelm.training.run_directory import CONFIG, lock, remove_if_unused
from bytelm.training.upgrades import upgraded

TEST_REPORT = "test_report.json"
"""File of a run directory that holds its test."""


@dataclass(frozen=True)
class Run:
    """One run of an ablation or a comparison.

    Attributes:
        name: of its directory; no two runs share one.
        multiple: of the contender's learning rate.
        flops_per_step: of training.
        bytes_per_step: of text, on average; in an ablation its symbols.
        corpus: name of the text; "" in an ablation.
        budget: on the comparison's axis; 0 in an ablation.
        initial: the run that this one continues on other text; None for a fresh run.
    """

    name: str
    contender: str
    seed: int
    multiple: float
    config: ExperimentConfig
    flops_per_step: float
    bytes_per_step: float
    corpus: str = ""
    budget: float = 0.0
    initial: "Run | None" = None

    @property
    def upper_bound(self) -> bool:
        """Whether its bits are of one tokenisation, and so upper bounds."""
        return self.config.data.task.tokenizer is not None


class RunResult(NamedTuple):
    """The result of a run's test: figures by name, bits and raw bytes of each test document."""

    figures: Mapping[str, Figure]
    document_bits: tuple[float, ...] = ()
    document_bytes: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The file's form."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        return {**self._asdict(), "figures": figures}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], *, upper_bound: bool) -> "RunResult":
        """What `to_json` wrote, or an older version of it.

        Args:
            upper_bound: whether bits are upper bounds, which older files do not say.
        """
        bits, sizes = (tuple(fields.get(n, ())) for n in ("document_bits", "document_bytes"))
        return cls(saved_figures(fields["figures"], upper_bound=upper_bound), bits, sizes)


class Outcome(NamedTuple):
    """How a run ended: "waiting" if it has not, "failed" if it could not be trained or tested,
    "stopped" by a signal.
    """

    state: RunState
    reason: str = ""
    report: RunResult | None = None
    """What its test found, if it was tested."""


def carry_out(
    run_dir: Path,
    config: ExperimentConfig,
    test: Callable[[Path, ExperimentConfig], RunResult] | None,
    asked: Mapping[str, Any],
) -> Outcome:
    """Does or finishes a run. A failure of the run is returned, not raised.

    Args:
        run_dir: of the run.
        config: of the run.
        test: tests a trained run; None for no test.
        asked: the settings of the test besides the config, ready for JSON; a saved report of the
            same config and settings is reused.
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
    """The metrics of a run, in order."""
    return read_records(run_dir / "metrics.jsonl")


def _check_test(config: ExperimentConfig) -> None:
    """Raises UserError, before training, if there is no text to test on."""
    if isinstance(config.model, EncoderDecoderConfig):
        ValidationBatches(OpenData(config.data), 1, "test")
    elif not any(Documents(OpenData(config.data), "test")):
        raise UserError("the test split holds no bytes; name data.test_files.")


def _train(run_dir: Path, config: ExperimentConfig) -> int | None:
    """Trains to the end; returns the step if it is interrupted."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with lock(run_dir):
        (run_dir / TEST_REPORT).unlink(missing_ok=True)  # of earlier parameters
        try:
            result = train(config, run_dir, resume=True)
        except UserError:
            remove_if_unused(run_dir)
            raise
    return result.step if result.interrupted else None


def _tested(
    run_dir: Path,
    config: ExperimentConfig,
    test: Callable[[Path, ExperimentConfig], RunResult],
    asked: Mapping[str, Any],
) -> RunResult:
    """The test report, from its file if that has the same config and settings."""
    path = run_dir / TEST_REPORT
    if (found := _read_report(path)) is not None:
        changed = differences(upgraded(found["config"]), to_dict(config))
        if {key: found.get(key) for key in asked} == asked and all(
            field.startswith(FREE) for field, _, _ in changed
        ):
            return RunResult.from_json(found, upper_bound=config.data.task.tokenizer is not None)
    report = test(run_dir, config)
    content = {**report.to_json(), **asked, "config": as_saved(config)}
    write_whole(path, json.dumps(content, indent=2) + "\n")
    return report


def _read_report(path: Path) -> dict[str, Any] | None:
    """The content of a report's file; None if it cannot be read."""
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and isinstance(report.get("config"), dict) else None


def check_text(runs: Iterable[tuple[Path, ExperimentConfig]]) -> None:
    """Compares the text that runs have read with what they would read now.

    Args:
        runs: directory and config of each; runs without a record are skipped.

    Raises:
        UserError: for a run whose text, or test split, has changed or is gone.
    """
    known: dict[Any, list[dict[str, Any]]] = {}
    for run_dir, config in runs:
        record = load_record(run_dir)
        if record is None or config.data.task.makes_text:
            continue
        parts, cache = config.data.source_configs, config.data.cache_path
        sources = tuple(dataclasses.replace(part, weight=1.0) for part in parts)
        if sources not in known:
            known[sources] = [describe_source(open_source(part, cache)) for part in sources]
        for had, has in zip(record.sources, known[sources], strict=False):
            changed = [name for name in ("text", "test") if _differ(had[name], has[name])]
            if changed:
                what = "other text" if "text" in changed else "a run with other text for its test"
                raise UserError(
                    f"{run_dir} is of {what} than {has['name']} holds now, and a table must be of "
                    "one text; put the text back as it was, or choose another --output."
                )


def _differ(had: str | None, has: str | None) -> bool:
    """Whether both are known and differ."""
    return had is not None and has is not None and had != has
