"""The plan of an ablation or a comparison: its runs, and which of them remain."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.files import make_folder
from bytelm.core.terminal_text import say
from bytelm.experiments.measurements import curve, training_figures
from bytelm.experiments.records import Heading, RunRecord, RunState, SweepRow, run_figures
from bytelm.experiments.report.write import show_results, write_report
from bytelm.experiments.runs import (
    TEST_REPORT,
    Outcome,
    Run,
    RunResult,
    carry_out,
    check_saved,
    check_text,
)
from bytelm.training.program import forget_programs, shares_program
from bytelm.training.run_directory import lock

EXIT_STATUS: Mapping[RunState, int] = {"done": 0, "failed": 1, "stopped": 143}


class Stage(NamedTuple):
    """Runs that are done one after another; they are listed when the stage begins."""

    name: str
    runs: Callable[[], Sequence[Run]]
    do: Callable[[Run], Outcome]
    tested: bool


class Plan(ABC):
    """The runs of several contenders, and their outcomes.

    Each contender first tries every learning rate (the sweep). The one with the fewest validation
    bits is kept for its final runs, which are tested. Making a plan runs and writes nothing.

    Args:
        output: directory of the report.
        runs: the final runs at every learning rate. The first one of a contender at a rate is
            also its run in the sweep, which is empty if there is only one rate.
        measure: name of the bits to compare.
    """

    def __init__(self, output: Path, runs: Sequence[Run], *, measure: str = "bpb"):
        self.output = output
        self.measure = measure
        self._planned = runs
        self._runs: dict[str, dict[float, list[Run]]] = {}
        for run in runs:
            of_contender = self._runs.setdefault(run.contender, {})
            of_contender.setdefault(run.multiple, []).append(run)
        rates = len(next(iter(self._runs.values())))
        firsts = [each[0] for by_rate in self._runs.values() for each in by_rate.values()]
        self.sweep = firsts if rates > 1 else []
        self.outcomes: dict[str, Outcome] = {}
        self._validation: dict[str, float] = {}

    @abstractmethod
    def heading(self) -> Heading:
        """The heading of the report, with the sweep so far."""

    @abstractmethod
    def test(self, run: Run) -> RunResult:
        """Tests a trained run."""

    @abstractmethod
    def asked(self, run: Run) -> Mapping[str, Any]:
        """The settings of a run's test besides its config, ready for JSON."""

    def figures(self, run: Run, result: RunResult) -> Mapping[str, Figure]:
        """The figures of a run that is done."""
        values = training_figures(run, self.measure)
        return {**run_figures(values, upper_bound=run.upper_bound), **result.figures}

    def stages(self) -> list[Stage]:
        """The runs in order."""
        return [
            Stage("learning rate", lambda: self.sweep, self._train_only, tested=False),
            Stage("run", self.final, self.train_and_test, tested=True),
        ]

    def finish(self) -> None:  # noqa: B027 (most have nothing to do)
        """Follows the last run, unless a signal asked to stop."""

    def is_done(self, run: Run) -> bool:
        """Whether it is trained and tested."""
        return self.outcome(run).report is not None

    def outcome(self, run: Run) -> Outcome:
        """How it ended, as far as that is known."""
        return self.outcomes.get(run.name, Outcome("waiting"))

    def execute(self, task: int | None = None) -> int:
        """Does everything that is left, or one task; returns an exit status.

        Raises:
            UserError: if a directory holds a run of another config or text, before anything runs.
        """
        for run in self._planned:
            check_saved(run)
        make_folder(self.output)
        return self.do_all() if task is None else self.do_task(task)

    def final(self) -> list[Run]:
        """The final runs of contenders whose learning rate is known."""
        runs = [
            run
            for name, by_rate in self._runs.items()
            if (multiple := self.chosen(name)) is not None
            for run in by_rate[multiple]
        ]
        return sorted(runs, key=lambda run: run.budget)

    def validation(self, run: Run) -> float | None:
        """The last validation bits of a run that is trained; infinite if it diverged."""
        if run.name not in self._validation:
            if not run.is_trained:
                return None
            name = f"validation_{self.measure}"
            bits = [record[name] for record in run.metrics() if name in record][-1]
            self._validation[run.name] = math.inf if bits is None else bits
        return self._validation[run.name]

    def chosen(self, contender: str) -> float | None:
        """The multiple of the learning rate that is best for a contender; None if unknown yet."""
        if not self.sweep:
            return next(iter(self._runs[contender]))
        found = []
        for run in self._swept(contender):
            if self.outcome(run).state == "failed":
                continue  # for instance because the learning rate is too large
            bits = self.validation(run)
            if bits is None:
                return None
            found.append((bits, run.multiple))
        return min(found, key=lambda each: each[0])[1] if found else None

    def _swept(self, contender: str) -> list[Run]:
        return [run for run in self.sweep if run.contender == contender]

    def sweep_rows(self) -> tuple[SweepRow, ...]:
        """The learning rates, with their validation bits so far."""
        return tuple(
            SweepRow(
                run.contender,
                run.config.optimizer.learning_rate,
                self.validation(run),
                run.multiple == self.chosen(run.contender),
            )
            for run in self.sweep
        )

    def records(self) -> list[RunRecord]:
        """Records of the final runs, smallest budgets first."""
        records = []
        for name, by_rate in self._runs.items():
            multiple = self.chosen(name)
            if multiple is not None:
                records += [self._record(run) for run in by_rate[multiple]]
            else:
                state, reason = self._before_the_rate(name)
                records += [
                    RunRecord(name, run.corpus, run.budget, run.seed, state, reason)
                    for run in next(iter(by_rate.values()))
                ]
        return sorted(records, key=lambda record: record.budget)

    def _before_the_rate(self, contender: str) -> tuple[RunState, str]:
        """State and reason of a contender's final runs while its learning rate is unknown."""
        outcomes = [self.outcome(run) for run in self._swept(contender)]
        if any(outcome.state != "failed" for outcome in outcomes):
            return "waiting", ""
        return "failed", f"no learning rate can be trained: {outcomes[0].reason}"

    def _record(self, run: Run) -> RunRecord:
        outcome, result = self.outcome(run), self.outcome(run).report
        tested: dict[str, Any] = {}
        if result is not None:
            figures, bits = self.figures(run, result), curve(run, self.measure)
            tested = result._asdict() | {"figures": figures, "curve": bits}
        elif outcome.state == "done":
            outcome = Outcome("waiting")  # trained in the sweep, not yet tested
        return RunRecord(
            run.contender,
            run.corpus,
            run.budget,
            run.seed,
            outcome.state,
            outcome.reason,
            learning_rate=run.config.optimizer.learning_rate,
            steps=run.config.train.steps,
            upper_bound=run.upper_bound,
            **tested,
        )

    def report(self, *, images: bool = False) -> None:
        """Writes the report as it stands; `images` take longest."""
        write_report(self.heading(), self.records(), self.output, images=images)

    def do_task(self, number: int) -> int:
        """Does the run of that number alone; returns an exit status."""
        firsts = {name: next(iter(by_rate.values())) for name, by_rate in self._runs.items()}
        finals = [(name, place) for name, runs in firsts.items() for place in range(len(runs))]
        count = len(self.sweep) + len(finals)
        if not 0 <= number < count:
            raise UserError(f"there is no task {number}; there are {count}, from 0 on.")
        if number < len(self.sweep):
            run = self.sweep[number]
            outcome = self._train_only(run)
        else:
            name, place = finals[number - len(self.sweep)]
            multiple = self.chosen(name)
            if multiple is None:
                raise UserError(
                    f"task {number} needs the learning rate of {name}; let the tasks of the sweep "
                    f"(0 to {len(self.sweep) - 1}) end first."
                )
            run = self._runs[name][multiple][place]
            outcome = self.train_and_test(run)
        say(f"{run.name}: {outcome.state} {outcome.reason}".rstrip())
        return EXIT_STATUS[outcome.state]

    def do_all(self) -> int:
        """Does all runs that are left, and writes the report after each; an exit status."""
        with lock(self.output):
            # Finished runs come first, so that no report on the way lacks their figures.
            for stage in self.stages():
                for run in stage.runs() if stage.tested else ():
                    if (run.directory / TEST_REPORT).exists():
                        self.outcomes[run.name] = stage.do(run)
            self.report()
            stopped = any(self._do_stage(stage) for stage in self.stages())
            if not stopped:
                self.finish()
            self.report(images=True)
        show_results(self.heading(), self.records())
        say(f"report: {self.output / 'report.html'}")
        if stopped:
            say("stopped on request; the same command goes on")
        return max((EXIT_STATUS[each.state] for each in self.outcomes.values()), default=0)

    def _do_stage(self, stage: Stage) -> bool:
        """Does runs one after another; returns whether a signal asked to stop."""
        runs = stage.runs()
        for number, run in enumerate(runs, 1):
            # Text may change while earlier runs are trained.
            check_text([*self.sweep, *self.final(), *runs])
            say(f"{stage.name} {number} of {len(runs)}: {run.name}, {run.config.train.steps} steps")
            self.outcomes[run.name] = stage.do(run)
            self.report()
            # Compiled programs are kept only while the next run needs them.
            if number == len(runs) or not shares_program(run.config, runs[number].config):
                forget_programs()
            if self.outcomes[run.name].state == "stopped":
                return True
        return False

    def train_and_test(self, run: Run) -> Outcome:
        """Does or finishes a run, and its test."""
        return carry_out(run, lambda: self.test(run), self.asked(run))

    def _train_only(self, run: Run) -> Outcome:
        """Does a run of the sweep, which may be a final run that is tested already."""
        return self.outcome(run) if self.is_done(run) else carry_out(run)
