"""Runs of ablations and comparisons: trained to the end, or resumed, and tested once."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bytelm.core.config_json import differences, to_dict
from bytelm.core.errors import StoppedError, UserError
from bytelm.core.figure import Figure
from bytelm.core.files import make_folder, write_whole
from bytelm.core.terminal_text import say
from bytelm.data.open_data import Documents, OpenData
from bytelm.data.run_text import describe_source
from bytelm.data.text_record import load_record
from bytelm.data.validation import ValidationBatches
from bytelm.evaluation import while_training
from bytelm.experiments.records import RunState, run_figures
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.checkpoints.checkpoint import last_step
from bytelm.training.compatibility import FREE, outcome_changes
from bytelm.training.experiment import ExperimentConfig, as_saved, load_json
from bytelm.training.last_error import NotingErrors, array_of_process, read_last_error
from bytelm.training.loop import train
from bytelm.training.metrics.writer import read_records
from bytelm.training.run_directory import CONFIG, lock, remove_if_unused
from bytelm.training.run_status import is_trained
from bytelm.training.upgrades import upgraded

TEST_REPORT = "test_report.json"
"""File of a run directory that holds its test."""


@dataclass(frozen=True)
class Run:
    """One run of an ablation or a comparison.

    Attributes:
        directory: no two runs share one.
        multiple: of the contender's learning rate.
        flops_per_step: of training.
        bytes_per_step: of text, on average; in an ablation its symbols.
        corpus: name of the text; "" in an ablation.
        budget: on the comparison's axis; 0 in an ablation.
        initial: the run that this one continues on other text; None for a fresh run.
    """

    directory: Path
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
    def name(self) -> str:
        return self.directory.name

    @property
    def upper_bound(self) -> bool:
        """Whether its bits are of one tokenisation, and so upper bounds."""
        return self.config.data.task.tokenizer is not None

    @property
    def is_trained(self) -> bool:
        """Whether it has its last checkpoint and validation."""
        return is_trained(self.directory, self.config.train.steps)

    def metrics(self) -> list[dict[str, Any]]:
        """Its metrics so far, in order."""
        return read_records(self.directory / "metrics.jsonl")


class RunResult(NamedTuple):
    """The result of a run's test: figures by name, bits and raw bytes of each test document, and
    what describes the text (`EvaluationText.about`); None in older reports.
    """

    figures: Mapping[str, Figure]
    document_bits: tuple[float, ...] = ()
    document_bytes: tuple[float, ...] = ()
    text: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The file's form."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        return {**self._asdict(), "figures": figures}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], *, upper_bound: bool) -> "RunResult":
        """What `to_json` wrote, or an older version: plain numbers, which name no upper bounds."""
        saved = fields["figures"]
        plain = {name: value for name, value in saved.items() if not isinstance(value, dict)}
        figures = run_figures(plain, upper_bound=upper_bound)
        figures |= {name: Figure.from_json(saved[name]) for name in saved if name not in plain}
        bits, sizes = (tuple(fields.get(n, ())) for n in ("document_bits", "document_bytes"))
        return cls(figures, bits, sizes, fields.get("text"))


class Outcome(NamedTuple):
    """How a run ended: "waiting" if it has not, "failed" if it could not be trained or tested,
    "stopped" by a signal.
    """

    state: RunState
    reason: str = ""
    report: RunResult | None = None
    """What its test found, if it was tested."""


@contextlib.contextmanager
def claimed(run: Run, *, patient: bool = True) -> Iterator[None]:
    """Makes a run this process's own inside the context; its directory is made if needed.

    At an address one waits to learn whether another process works on it, if `patient`.

    Raises:
        InUseError: if another process works on it.
        UserError: if its directory cannot be written.
    """
    with contextlib.ExitStack() as stack:
        while True:
            make_folder(run.directory)
            try:
                stack.enter_context(lock(run.directory, patient=patient))
                break
            except UserError as error:
                # Another process has just removed the folder, in which its run had left nothing.
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        stack.callback(remove_if_unused, run.directory)
        yield


def known_outcome(run: Run, asked: Mapping[str, Any] | None, since: float) -> Outcome | None:
    """How a run has ended, as its files say; None if work is left.

    Args:
        asked: the settings of its test besides the config, ready for JSON; None for no test.
        since: seconds since 1970. A run that failed later, or in a task of the same array, has
            failed; one that failed earlier is tried again.
    """
    if run.is_trained:
        report = None if asked is None else _saved_report(run, asked)
        if asked is None or report is not None:
            return Outcome("done", report=report)
    error = read_last_error(run.directory)
    if error is None or error.stopped:
        return None
    same_array = error.job is not None and error.job == array_of_process()
    return Outcome("failed", error.sentence) if same_array or error.time >= since else None


def carry_out(
    run: Run, test: Callable[[], RunResult] | None = None, asked: Mapping[str, Any] | None = None
) -> Outcome:
    """Does or finishes a run that is `claimed`. A failure of the run is returned, not raised.

    Args:
        run: started or not.
        test: tests the trained run; None for no test.
        asked: the settings of the test, which its report notes.
    """
    try:
        _check_test(run.config)
        if not run.is_trained:
            stopped_at = _train(run)
            if stopped_at is not None:
                reason = f"after step {stopped_at} of {run.config.train.steps}"
                return Outcome("stopped", reason)
        return Outcome("done", report=test and _tested(run, test, asked or {}))
    except (UserError, jax.errors.JaxRuntimeError) as error:  # the latter when memory runs out
        say(f"{run.name} failed: {error}")
        state: RunState = "stopped" if isinstance(error, StoppedError) else "failed"
        return Outcome(state, str(error))


def check_saved(run: Run) -> None:
    """Raises UserError if the directory holds a checkpoint of another config, or of other text."""
    if last_step(run.directory) is None:
        return
    if different := outcome_changes(load_json(run.directory / CONFIG), run.config):
        raise UserError(
            f"{run.directory} holds a run of another config ({'; '.join(different)}); undo the "
            "change, give it another name, or choose another --output."
        )
    check_text([run])


def _check_test(config: ExperimentConfig) -> None:
    """Raises UserError, before training, if there is no text to test on."""
    if isinstance(config.model, EncoderDecoderConfig):
        ValidationBatches(OpenData(config.data), 1, "test")
    elif not any(Documents(OpenData(config.data), "test")):
        raise UserError("the test split holds no bytes; name data.test_files.")


def _train(run: Run) -> int | None:
    """Trains to the end; returns the step if a signal asked to stop."""
    (run.directory / TEST_REPORT).unlink(missing_ok=True)  # of earlier parameters
    result = train(run.config, run.directory, resume=True, evaluator=while_training)
    return result.step if result.interrupted or result.asked_to_stop else None


def _tested(run: Run, test: Callable[[], RunResult], asked: Mapping[str, Any]) -> RunResult:
    """The report of a test, which is written into the run's directory."""
    with NotingErrors(run.directory, "test") as notes:
        notes.step = lambda: run.config.train.steps
        check_text([run])
        report = test()
        content = {**report.to_json(), **asked, "config": as_saved(run.config)}
        write_whole(run.directory / TEST_REPORT, json.dumps(content, indent=2) + "\n")
        notes.forget()
    return report


def _saved_report(run: Run, asked: Mapping[str, Any]) -> RunResult | None:
    """The test report in a run's directory, if it has the same config and settings."""
    if (found := _read_report(run.directory / TEST_REPORT)) is None:
        return None
    changed = differences(upgraded(found["config"]), to_dict(run.config))
    same_test = {key: found.get(key) for key in asked} == asked
    if not same_test or not all(field.startswith(FREE) for field, _, _ in changed):
        return None
    return RunResult.from_json(found, upper_bound=run.upper_bound)


def _read_report(path: Path) -> dict[str, Any] | None:
    """The content of a report's file; None if it cannot be read."""
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and isinstance(report.get("config"), dict) else None


def check_text(runs: Iterable[Run]) -> None:
    """Raises UserError for a run whose text, or test split, has changed or is gone.

    Runs without a record of the text that they have read are skipped.
    """
    known: dict[Any, list[dict[str, Any]]] = {}
    for run in runs:
        record, data = load_record(run.directory), run.config.data
        if record is None or data.task.makes_text:
            continue
        sources = tuple(dataclasses.replace(part, weight=1.0) for part in data.source_configs)
        if sources not in known:
            known[sources] = [describe_source(source) for source in OpenData(data).sources]
        for had, has in zip(record.sources, known[sources], strict=False):
            changed = [
                name
                for name in ("text", "test")
                if None not in (had[name], has[name]) and had[name] != has[name]
            ]
            if changed:
                what = "other text" if "text" in changed else "a run with other text for its test"
                raise UserError(
                    f"{run.directory} is of {what} than {has['name']} holds now, and a table must "
                    "be of one text; put the text back as it was, or choose another --output."
                )
