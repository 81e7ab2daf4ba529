"""The plan of an ablation or a comparison: its runs, and which of them remain."""

import contextlib
import functools
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.files import make_folder
from bytelm.core.locks import REMIND_SECONDS, exclusive
from bytelm.core.terminal_text import say
from bytelm.experiments.measurements import curve, training_figures
from bytelm.experiments.records import Heading, RunRecord, RunState, SweepRow, run_figures
from bytelm.experiments.report.write import show_results, write_report
from bytelm.experiments.run_list import write_plan
from bytelm.experiments.runs import (
    Outcome,
    Run,
    RunResult,
    carry_out,
    check_saved,
    check_text,
    claimed,
    known_outcome,
)
from bytelm.training.program import forget_programs, shares_program
from bytelm.training.run_directory import InUseError

EXIT_STATUS: Mapping[RunState, int] = {"done": 0, "failed": 1, "stopped": 143}
REPORT_LOCK = ".report.lock"
"""Locked by the process that writes the report."""
POLL_SECONDS = 1.0
"""How often a process that waits for runs of others looks at them."""


class Stage(NamedTuple):
    """Runs of a plan that follow those of the stage before.

    Attributes:
        runs: lists those that are known by now.
        is_listed: whether these are all of them.
        test: tests a trained run; None for no test.
        asked: the settings of a run's test besides its config, ready for JSON.
    """

    name: str
    runs: Callable[[], Sequence[Run]]
    is_listed: Callable[[], bool]
    test: Callable[[Run], RunResult] | None = None
    asked: Callable[[Run], Mapping[str, Any]] = lambda run: {}


class Plan(ABC):
    """The runs of several contenders, and their outcomes.

    Several processes may do the runs of one plan at the same time, each with a plan of its own:
    what is done is read from the directories of the runs. A process claims a run by its lock,
    which the system releases if the process dies, and then another process takes the run up.

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
        self._since = time.time()
        self._last: Run | None = None

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
            Stage("learning rate", lambda: self.sweep, lambda: True),
            Stage("run", self.final, self.rates_are_known, self.test, self.asked),
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
            UserError: if a directory holds a run of another config or text, before anything runs;
                for a task that another process does.
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
            found = [record[name] for record in run.metrics() if name in record]
            if not found:
                return None
            self._validation[run.name] = math.inf if found[-1] is None else found[-1]
        return self._validation[run.name]

    def chosen(self, contender: str) -> float | None:
        """The multiple of the learning rate that is best for a contender; None if unknown yet."""
        if not self.sweep:
            return next(iter(self._runs[contender]))
        found = []
        for run in self._swept(contender):
            bits = self.validation(run)
            if bits is None and self.outcome(run).state == "failed":
                continue  # for instance because the learning rate is too large
            if bits is None:
                return None
            found.append((bits, run.multiple))
        return min(found, key=lambda each: each[0])[1] if found else None

    def rates_are_known(self) -> bool:
        """Whether each contender has its learning rate, or none of them can be trained."""
        return all(
            self.chosen(name) is not None or self._before_the_rate(name)[0] == "failed"
            for name in self._runs
        )

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

    def write(self, *, images: bool) -> bool:
        """Writes the report as it stands, with or without images; False if it is there already."""
        return write_report(self.heading(), self.records(), self.output, images=images)

    def _reporting(self) -> contextlib.AbstractContextManager[bool]:
        """A context in which no other process writes the report."""
        return exclusive(self.output / REPORT_LOCK, "write the report", remind_after=REMIND_SECONDS)

    def report(self) -> None:
        """Writes the report and the list of runs, without images, from what all have done.

        Once no run is left, the report with images follows.
        """
        with self._reporting():
            if not self._remaining():
                return
            runs = {run.directory: run for stage in self.stages() for run in stage.runs()}
            write_plan(self.output, {path: run.config.train.steps for path, run in runs.items()})
            self.write(images=False)

    def do_task(self, number: int) -> int:
        """Does the run of that number alone; returns an exit status."""
        firsts = {name: next(iter(by_rate.values())) for name, by_rate in self._runs.items()}
        finals = [(name, place) for name, runs in firsts.items() for place in range(len(runs))]
        count = len(self.sweep) + len(finals)
        if not 0 <= number < count:
            raise UserError(f"there is no task {number}; there are {count}, from 0 on.")
        sweep, final, *_ = self.stages()
        if number < len(self.sweep):
            stage, run = sweep, self.sweep[number]
        else:
            name, place = finals[number - len(self.sweep)]
            multiple = self.chosen(name)
            if multiple is None:
                raise UserError(
                    f"task {number} needs the learning rate of {name}; let the tasks of the sweep "
                    f"(0 to {len(self.sweep) - 1}) end first."
                )
            stage, run = final, self._runs[name][multiple][place]
        with claimed(run):
            outcome = self._carry_out(stage, run)
        say(f"{run.name}: {outcome.state} {outcome.reason}".rstrip())
        return EXIT_STATUS[outcome.state]

    def do_all(self) -> int:
        """Does the runs that are left, those of which no other process does; an exit status.

        The report is written after each run, and at the end by the process that ends last.
        """
        self.report()
        stopped = self._work()
        forget_programs()
        left = self._remaining()
        if stopped:
            self.report()
            say("stopped on request; the same command goes on")
        elif left:
            names = ", ".join(run.name for _, run in left)
            say(f"left to other processes, the last of which writes the report: {names}")
        else:
            with self._reporting():
                self.finish()
                is_new = self.write(images=True)
            show_results(self.heading(), self.records())
            say(f"report: {self.output / 'report.html'}" + ("" if is_new else " (as it was)"))
        return max((EXIT_STATUS[each.state] for each in self.outcomes.values()), default=0)

    def _work(self) -> bool:
        """Does runs that nobody works on, until none is left; whether a signal asked to stop.

        Waits for those of other processes only if further runs depend on them.
        """
        waiting = False
        while left := self._remaining():
            # At an address it takes a while to learn whether a claimed run's process still lives.
            tries = itertools.product((False, True), left)
            outcomes = (self._try(stage, run, patient) for patient, (stage, run) in tries)
            outcome = next(filter(None, outcomes), None)
            if outcome is not None:
                waiting = False
                self.report()
                if outcome.state == "stopped":
                    return True
                continue
            if all(stage.is_listed() for stage in self.stages()):
                return False
            if not waiting:
                say("waiting for runs of other processes, on which further runs depend")
            waiting = True
            time.sleep(POLL_SECONDS)
        return False

    def _remaining(self) -> list[tuple[Stage, Run]]:
        """The runs that are not over, in order, after a look at what all processes have done."""
        return [
            (stage, run)
            for stage in self.stages()
            for run in stage.runs()
            if not self._is_over(stage, run)
        ]

    def _is_over(self, stage: Stage, run: Run) -> bool:
        outcome = self.outcome(run)
        if outcome.state == "done" and (stage.test is None or outcome.report is not None):
            return True
        # Another process may have done a run that failed here.
        found = known_outcome(run, self._asked(stage, run), self._since)
        if found is not None:
            self.outcomes[run.name] = found
        return found is not None or outcome.state == "failed"

    def _asked(self, stage: Stage, run: Run) -> Mapping[str, Any] | None:
        return None if stage.test is None else stage.asked(run)

    def _try(self, stage: Stage, run: Run, patient: bool) -> Outcome | None:
        """Does a run, and returns its outcome; None if another process works on it."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(claimed(run, patient=patient))
            except InUseError:
                return None
            except UserError as error:  # its directory cannot be written
                say(f"{run.name} failed: {error}")
                self.outcomes[run.name] = Outcome("failed", str(error))
                return self.outcomes[run.name]
            return self._carry_out(stage, run)

    def _carry_out(self, stage: Stage, run: Run) -> Outcome:
        """Does a run that is claimed, unless another process has ended it meanwhile."""
        asked = self._asked(stage, run)
        outcome = known_outcome(run, asked, self._since)
        if outcome is None:
            runs = stage.runs()
            # Text may change while earlier runs are trained.
            check_text([*self.sweep, *self.final(), *runs])
            # Compiled programs are kept only while the next run needs them.
            if self._last is not None and not shares_program(self._last.config, run.config):
                forget_programs()
            self._last = run
            place = f"{stage.name} {runs.index(run) + 1} of {len(runs)}"
            say(f"{place}: {run.name}, {run.config.train.steps} steps")
            test = stage.test
            outcome = carry_out(run, test and functools.partial(test, run), asked)
        self.outcomes[run.name] = outcome
        return outcome
