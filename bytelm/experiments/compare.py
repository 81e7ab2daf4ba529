"""Runs a comparison: tokenizers, the sweep of learning rates, the runs, their tests, the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bytelm.core.figure import Figure
from bytelm.core.terminal_text import command_line, say
from bytelm.data.config import Files
from bytelm.evaluation.languages import Languages
from bytelm.evaluation.suite import Evaluation
from bytelm.experiments.comparison import Comparison, in_folder
from bytelm.experiments.measurements import (
    Speeds,
    measure_adaptation,
    measure_run,
    measure_speeds,
    read_speeds,
)
from bytelm.experiments.plan import Plan, Stage
from bytelm.experiments.records import Heading, run_figures
from bytelm.experiments.runs import Run, RunResult
from bytelm.experiments.sizing import adapted_run, comparison_runs, run_name, train_tokenizers
from bytelm.training.hardware import describe_machine


def run_comparison(
    comparison: Comparison, output: Path, *, root: Path = Path(), task: int | None = None
) -> int:
    """Does the remaining runs of a comparison, one after another.

    After each run the report in `output` is rewritten, its images at the end. A run that fails
    does not stop the others.

    Args:
        comparison: what to run.
        output: directory of the report, the runs and the tokenizers.
        root: directory that the files of corpora are relative to.
        task: number of the only run to do; None for all.

    Returns:
        an exit status: 0, 1 if a run failed, 143 if a signal asked to stop.

    Raises:
        UserError: before anything runs, if something cannot run; for a task whose learning rate is
            unknown.
    """
    return ComparisonPlan(in_folder(comparison, root), output).execute(task)


class ComparisonPlan(Plan):
    """The runs of a comparison, and their outcomes."""

    def __init__(self, comparison: Comparison, output: Path):
        tokenizers = train_tokenizers(comparison, output)
        super().__init__(output, comparison_runs(comparison, tokenizers, output / "runs"))
        self.comparison = comparison
        self._languages = Languages(comparison.parallel)
        self._speeds = Speeds()

    def stages(self) -> list[Stage]:
        """The last stage continues some runs on other text."""
        max_bytes = self.comparison.max_bytes
        adaptation = Stage(
            "adaptation",
            self.adapted,
            self._adapted_is_listed,
            lambda run: measure_adaptation(run, max_bytes),
            lambda run: {"max_bytes": max_bytes},
        )
        return [*super().stages(), adaptation]

    def adapted(self) -> list[Run]:
        """The runs that continue others on other text."""
        return [
            adapted_run(run, corpus, data)
            for run in self.final()
            if self._is_adapted(run) and run.is_trained
            for corpus, data in self.comparison.adaptation.items()
        ]

    def _adapted_is_listed(self) -> bool:
        """Whether all runs are known that continue others."""
        if not self.comparison.adaptation:
            return True
        return self.rates_are_known() and all(
            run.is_trained or self.outcome(run).state == "failed"
            for run in self.final()
            if self._is_adapted(run)
        )

    def _is_adapted(self, run: Run) -> bool:
        """Whether other runs continue it: at the largest budget, of the first seed and corpus."""
        first = self.comparison.seeds[0], next(iter(self.comparison.corpora))
        return self._is_largest(run) and (run.seed, run.corpus) == first

    def finish(self) -> None:
        """Times steps of the trained runs in turns, unless that was done."""
        runs = [run for run in self.final() if run.is_trained]
        known = read_speeds(self.output)
        if self.comparison.timed_steps and not all(map(known.figures, runs)):
            say(f"timing {self.comparison.timed_steps} steps of each contender, in turns")
            measure_speeds(runs, self.comparison.timed_steps, self.output)

    def _is_largest(self, run: Run) -> bool:
        return run.budget == max(self.comparison.budgets)

    def test(self, run: Run) -> RunResult:
        """Bits and costs; at the largest budget also noise and parallel text."""
        comparison = self.comparison
        more: list[tuple[Evaluation, int | None]] = []
        if self._is_largest(run) and comparison.robustness is not None:
            more.append((comparison.robustness, comparison.robustness_bytes))
        if self._is_largest(run) and comparison.parallel:
            more.append((self._languages, None))
        return measure_run(run, comparison.max_bytes, with_costs=True, more=more)

    def asked(self, run: Run) -> Mapping[str, Any]:
        """The tests, and digests of the parallel text."""
        comparison = self.comparison
        noise, parallel = comparison.robustness, comparison.parallel
        words = "None"
        if noise is not None:
            of_all = f"max_bytes={comparison.robustness_bytes}"
            words = f"Robustness(kinds={noise.kinds!r}, rates={noise.rates!r}, {of_all})"
        largest = self._is_largest(run)
        return {
            "max_bytes": comparison.max_bytes,
            "robustness": words if largest else "",
            "parallel": _digests(parallel) if largest else [],
        }

    def figures(self, run: Run, result: RunResult) -> Mapping[str, Figure]:
        """Also speeds timed in turns, and what runs that continued this one learned."""
        text = {"train_raw_bytes": run.config.train.steps * run.bytes_per_step}
        values = run_figures({**text, **self._speeds.figures(run)})
        figures = {**super().figures(run, result), **values}
        for corpus in self.comparison.adaptation if self._is_adapted(run) else ():
            adapted = self.outcomes.get(run_name(run, corpus))
            if adapted and adapted.report:
                figures |= adapted.report.figures
        return figures

    def write(self, *, images: bool) -> bool:
        """Uses speeds in turns only if they are known for all runs."""
        speeds = read_speeds(self.output)
        done = [run for run in self.final() if self.is_done(run)]
        self._speeds = speeds if all(map(speeds.figures, done)) else Speeds()
        return super().write(images=images)

    def heading(self) -> Heading:
        """Names the axis."""
        comparison = self.comparison
        return Heading(
            title=comparison.title,
            axis=comparison.axis,
            baseline=comparison.baseline,
            command=command_line(),
            machine=describe_machine(),
            sweep=self.sweep_rows(),
            reference=self._languages.reference,
            notes=_notes(comparison, self._speeds.machine),
        )


def _digests(files: Sequence[str]) -> object:
    """Digests of files, so that a test of other text is repeated."""
    return Files(files=tuple(files)).reader(None).inputs("train") if files else []


def _notes(comparison: Comparison, timed_on: str) -> tuple[str, ...]:
    """How the runs were made, and where they were timed in turns."""
    notes = [
        f"All contenders read the same text in the same order, in shuffled shards of "
        f"{comparison.shard_bytes} bytes; validation is on the same text for all.",
        "Training FLOPs count the matrix products of three forward passes with all slots of "
        "patches in use, and one of a frozen entropy model; inference FLOPs per byte count the "
        "patches that the test text had.",
        "Training bytes per second are from steps of all contenders in turns, so that a slow hour "
        f"affects all equally, on {timed_on}; those of the runs themselves are in runs.csv."
        if timed_on
        else "Training bytes per second are the medians of the runs, one after another: a "
        "machine's speed may change between them.",
    ]
    if len(comparison.learning_rates) > 1:
        tried = ", ".join(f"{multiple:g}" for multiple in comparison.learning_rates)
        notes.append(
            f"Every contender tried {tried} times its own learning rate at the smallest budget; "
            "the multiple with the fewest validation bits per byte is kept everywhere."
        )
    return tuple(notes)
