"""Runs an ablation: the sweep of learning rates, the runs, their tests, the table and the plot."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bytelm.api import load
from bytelm.cli.option_checks import Count
from bytelm.core.config_json import differences, to_dict
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.data.open_data import Documents, OpenData
from bytelm.evaluation.first_bytes import FirstBytes
from bytelm.evaluation.suite import Scoring
from bytelm.evaluation.targets import Targets
from bytelm.evaluation.text import evaluation_text
from bytelm.experiments.ablation import Ablation, PointRun
from bytelm.experiments.measurements import text_figures
from bytelm.experiments.plan import Plan
from bytelm.experiments.record import RunRecord
from bytelm.experiments.results import AblationResults, finished
from bytelm.experiments.runs import Outcome, carry_out, check_saved
from bytelm.training.cost import with_steps
from bytelm.training.experiment import ExperimentConfig


@dataclass(frozen=True)
class AblateCommand:
    """Trains and tests the points of an ablation; what is done is not done again."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    baseline: str | None = None
    """Point from which differences are taken; none = the first."""
    seeds: tuple[int, ...] = ()
    """Run every point with each of these seeds; none = with its config's own."""
    learning_rates: tuple[float, ...] = (1.0,)
    """Multiples of its own learning rate that every point tries, such as 0.5 1 2; the one with the
    fewest validation bits is kept."""
    output: Path | None = None
    """Where the runs, the table and the plot go; none = runs/ablations/NAME."""
    max_bytes: Count | None = None
    """Bytes that are tested on, the last document cut (with an encoder: inputs, whole rows); none =
    all of the split."""
    task: int | None = None
    """Do one run alone, by its number, as the task of an array of jobs; then call without it."""
    tasks: bool = False
    """Print how many tasks the sweep of learning rates has, and how many there are in all."""


def run_ablation(
    ablation: Ablation, output: Path, *, max_bytes: int | None = None, task: int | None = None
) -> int:
    """Trains and tests every run of each point, and compares the points.

    What is done is not run again, what was interrupted is resumed, and a run that fails does not
    keep the others from running. After each run `table.md`, `table.json` and `runs.csv` in
    `output` are written again, and `plot.png` in the end.

    Args:
        ablation: what to run.
        output: made if it does not exist.
        max_bytes: the test is on so many bytes, and its last document is cut; None for all of
            the test split.
        task: number of the only run to do; None for all.

    Returns:
        an exit status: 0, 1 if a run failed, 143 if a signal asked to stop.

    Raises:
        UserError: if a run's directory holds a run of another config; nothing is run then.
    """
    plan = AblationPlan(ablation, output, max_bytes)
    output.mkdir(parents=True, exist_ok=True)
    return plan.do_all() if task is None else plan.do_task(task)


class AblationPlan(Plan[PointRun]):
    """The runs of an ablation and what is known of them."""

    def __init__(self, ablation: Ablation, output: Path, max_bytes: int | None = None):
        measure = "validation_bits_per_target_byte" if ablation.has_encoder else "validation_bpb"
        super().__init__(output, list(ablation.points), ablation.learning_rates, measure)
        self.ablation, self.max_bytes = ablation, max_bytes
        every = {
            (point, multiple): [_with_steps(run) for run in ablation.runs_of(point, multiple)]
            for point in ablation.points
            for multiple in ablation.learning_rates
        }
        self._runs = every
        if len(self.learning_rates) > 1:
            self.sweep = [runs[0] for runs in every.values()]
        # Whatever cannot be run is found before anything is.
        for runs in every.values():
            for run in runs:
                check_saved(self.run_dir(run), run.config)

    def runs_of(self, contender: str, multiple: float) -> list[PointRun]:
        """The runs of a point at a multiple of its learning rate, one for each seed."""
        return self._runs[contender, multiple]

    def train_and_test(self, run: PointRun) -> Outcome:
        """Does what is left to do of a run."""
        test = functools.partial(_test, max_bytes=self.max_bytes)
        asked = {"max_bytes": self.max_bytes, "by_document": True}
        return carry_out(self.run_dir(run), run.config, test, asked)

    def report(self, *, images: bool = False) -> None:
        """Writes what is known."""
        self.results().write(self.output, self.max_bytes, images=images)

    def do_all(self) -> int:
        """Does all runs that are left, and writes the tables after each; an exit status."""
        status = super().do_all()
        self.results().show()
        say(f"table and plot: {self.output}")
        return status

    def results(self) -> AblationResults:
        """What is known."""
        base = to_dict(self.ablation.base)
        changes = {
            point: {path: new for path, _, new in differences(base, to_dict(config))}
            for point, config in self.ablation.configs.items()
        }
        records = []
        for point in self.contenders:
            multiple = self.chosen(point)
            runs = self.runs_of(point, multiple or self.learning_rates[0])
            records += [self._record(run, multiple is not None) for run in runs]
        return AblationResults(
            self.ablation.reference,
            changes,
            tuple(records),
            self.sweep_rows(),
            self.ablation.has_encoder,
            bool(self.ablation.seeds),
        )

    def _record(self, run: PointRun, rate_is_known: bool) -> RunRecord:
        if not rate_is_known:
            state, reason = self.before_the_rate(run.contender)
            return RunRecord(run.contender, "", 0.0, run.seed, state, reason)
        record = self.record(run)
        if record.state != "done":
            return record
        report = self.outcomes[self.key(run)].report
        return finished(record, run.config, self.run_dir(run), report)


def _with_steps(run: PointRun) -> PointRun:
    """The run with the steps of its budget."""
    try:
        return dataclasses.replace(run, config=with_steps(run.config, OpenData(run.config.data)))
    except UserError:  # it fails for the same reason when its turn comes, and the others go on
        return run


def _test(run_dir: Path, config: ExperimentConfig, max_bytes: int | None) -> dict[str, Any]:
    """The report on the test split: `figures`, and the bits and bytes of each document."""
    loaded = load(run_dir, config.train.steps)
    if not loaded.has_encoder:
        first = FirstBytes(Documents(OpenData(config.data), "test"), max_bytes)
        documents = list(first)
        return text_figures(loaded, documents, cut=first.cut)[0]
    text = evaluation_text(loaded, config.data, "test")
    result = Targets().run(loaded, text, Scoring(max_bytes=max_bytes))
    found = {figure.name: figure for figure in result.figures}
    bits = found["bits_per_target_byte"].value
    if not math.isfinite(bits):
        raise UserError(f"its test bits per target byte are {bits}: it diverged.")
    names = ("bits_per_target_byte", "exact_match", "deleted", "encoder_time_saved")
    figures = {name: found[name].value for name in names if name in found}
    if (interval := found["bits_per_target_byte"].interval) is not None:
        low, high = interval
        figures |= {"bits_per_target_byte_low": low, "bits_per_target_byte_high": high}
    return {
        "figures": figures,
        "document_bits": result.documents.bits.tolist(),
        "document_bytes": result.documents.bytes.tolist(),
    }
