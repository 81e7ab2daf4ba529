"""The plan of an ablation or a comparison: which runs there are, and which are left to do."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.experiments.record import RunRecord, State, SweepRow
from bytelm.experiments.runs import TEST_REPORT, Outcome, carry_out, is_trained, metrics
from bytelm.experiments.same_text import check_text
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.program import forget_programs, shares_program
from bytelm.training.run_directory import lock


class PlannedRun(Protocol):
    """A run of a plan."""

    @property
    def name(self) -> str:
        """Of its directory; no two runs share one."""

    @property
    def contender(self) -> str:
        """What is compared: a model of a comparison, or a point of an ablation."""

    @property
    def seed(self) -> int:
        """Of the run."""

    @property
    def multiple(self) -> float:
        """Of the contender's own learning rate."""

    @property
    def config(self) -> ExperimentConfig:
        """With everything that the run needs."""


R = TypeVar("R", bound=PlannedRun)


class Plan(ABC, Generic[R]):
    """The runs of several contenders, and what is known of them.

    Each contender first tries every learning rate (the sweep); the one with the fewest validation
    bits is kept for its final runs, which are tested.

    Attributes:
        output: directory of the runs and the report.
        contenders: their names.
        learning_rates: multiples of each contender's own rate that are tried.
        sweep: the runs that try them.
        outcomes: of the runs that were done or looked at, by name.
        measure: name of the validation bits in the runs' metrics.
    """

    def __init__(
        self,
        output: Path,
        contenders: Sequence[str],
        learning_rates: Sequence[float],
        measure: str = "validation_bpb",
    ):
        self.output = output
        self.contenders = list(contenders)
        self.learning_rates = list(learning_rates)
        self.measure = measure
        self.sweep: list[R] = []
        self.outcomes: dict[str, Outcome] = {}

    @abstractmethod
    def runs_of(self, contender: str, multiple: float) -> list[R]:
        """The final runs of a contender at a multiple of its learning rate."""

    @abstractmethod
    def train_and_test(self, run: R) -> Outcome:
        """Does what is left to do of a final run."""

    @abstractmethod
    def report(self, *, images: bool = False) -> None:
        """Writes what is known; `images` too, which take longest."""

    def run_dir(self, run: R) -> Path:
        """Where a run is."""
        return self.output / run.name

    def key(self, run: R) -> str:
        """Of a run in `outcomes`."""
        return run.name

    def validation(self, run: R) -> float | None:
        """The last validation bits of a run that is trained; infinite if it diverged."""
        if not is_trained(self.run_dir(run), run.config):
            return None
        found = [r[self.measure] for r in metrics(self.run_dir(run)) if self.measure in r]
        return math.inf if found[-1] is None else found[-1]

    def chosen(self, contender: str) -> float | None:
        """The multiple of the learning rate that is best for a contender; None if not known yet."""
        if len(self.learning_rates) == 1:
            return self.learning_rates[0]
        swept = [run for run in self.sweep if run.contender == contender]
        bits = {run.multiple: self.validation(run) for run in swept if not self._failed(run)}
        known = {multiple: value for multiple, value in bits.items() if value is not None}
        if not known or len(known) < len(bits):
            return None
        return min(known, key=lambda multiple: known[multiple])

    def final(self) -> list[R]:
        """The runs that are tested, of the contenders whose learning rate is known."""
        return [
            run
            for name in self.contenders
            if (multiple := self.chosen(name)) is not None
            for run in self.runs_of(name, multiple)
        ]

    def sweep_rows(self) -> tuple[SweepRow, ...]:
        """What is known of the learning rates; empty where there is one alone."""
        if len(self.learning_rates) == 1:
            return ()
        return tuple(
            SweepRow(
                run.contender,
                run.config.optimizer.learning_rate,
                self.validation(run),
                run.multiple == self.chosen(run.contender),
            )
            for run in self.sweep
        )

    def before_the_rate(self, contender: str) -> tuple[State, str]:
        """State and reason of a contender's final runs while its learning rate is not known."""
        swept = [run for run in self.sweep if run.contender == contender]
        outcomes = [self.outcomes.get(self.key(run)) for run in swept]
        failed = [outcome for outcome in outcomes if outcome and outcome.state == "failed"]
        if len(failed) < len(outcomes):
            return "waiting", ""
        return "failed", f"no learning rate can be trained: {failed[0].reason}"

    def record(self, run: R, corpus: str = "", budget: float = 0.0) -> RunRecord:
        """What is known of a run without its report; "waiting" if it is not tested yet."""
        outcome = self.outcomes.get(self.key(run)) or Outcome("waiting")
        is_tested = outcome.state != "done" or bool(outcome.report)
        return RunRecord(
            run.contender,
            corpus,
            budget,
            run.seed,
            outcome.state if is_tested else "waiting",  # else it is trained for the sweep alone
            outcome.reason,
            learning_rate=run.config.optimizer.learning_rate,
            steps=run.config.train.steps,
            upper_bound=run.config.data.task.tokenizer is not None,
        )

    def count(self) -> int:
        """How many tasks there are, those of the sweep first."""
        first = self.learning_rates[0]
        return len(self.sweep) + sum(len(self.runs_of(name, first)) for name in self.contenders)

    def do_task(self, number: int) -> int:
        """Does the run of that number alone; returns an exit status."""
        count = self.count()
        if not 0 <= number < count:
            raise UserError(f"there is no task {number}; there are {count}, from 0 on.")
        if number < len(self.sweep):
            run = self.sweep[number]
            outcome = self.train_only(run)
        else:
            run = self._final_task(number)
            outcome = self.train_and_test(run)
        say(f"{run.name}: {outcome.state} {outcome.reason}".rstrip())
        return {"done": 0, "failed": 1, "stopped": 143}[outcome.state]

    def _final_task(self, number: int) -> R:
        place, first = number - len(self.sweep), self.learning_rates[0]
        for name in self.contenders:
            each = len(self.runs_of(name, first))
            if place < each:
                break
            place -= each
        multiple = self.chosen(name)
        if multiple is None:
            raise UserError(
                f"task {number} needs the learning rate of {name}; let the tasks of the sweep "
                f"(0 to {len(self.sweep) - 1}) end first."
            )
        return self.runs_of(name, multiple)[place]

    def do_all(self) -> int:
        """Does all runs that are left, and writes the report after each; an exit status."""
        with lock(self.output):
            # What is known of finished runs is in every report, so that it loses no figure.
            for runs, do in self.tested():
                for run in runs():
                    if (self.run_dir(run) / TEST_REPORT).exists():
                        self.outcomes[self.key(run)] = do(run)
            self.report()
            stopped = any(self.do_each(runs(), do, what) for runs, do, what in self.stages())
            if not stopped:
                self.afterwards()
            self.report(images=True)
        if stopped:
            say("stopped on request; the same command goes on")
            return 143
        return 1 if any(outcome.state == "failed" for outcome in self.outcomes.values()) else 0

    def tested(self) -> list[tuple[Callable[[], list[R]], Callable[[R], Outcome]]]:
        """The runs that end with a test, and what does them."""
        return [(self.final, self.train_and_test)]

    def stages(self) -> list[tuple[Callable[[], list[R]], Callable[[R], Outcome], str]]:
        """The runs in order, what does them, and what they are called."""
        sweep = self.sweep if len(self.learning_rates) > 1 else []
        return [
            (lambda: sweep, self.train_only, "learning rate"),
            (self.final, self.train_and_test, "run"),
        ]

    def afterwards(self) -> None:
        """What follows the last run, unless a signal asked to stop."""

    def do_each(self, runs: Sequence[R], do: Callable[[R], Outcome], what: str) -> bool:
        """Does runs one after another; whether a signal asked to stop."""
        for number, run in enumerate(runs, 1):
            # Text may change while runs before this one are trained.
            done = [*self.sweep, *self.final(), *runs]
            check_text((self.run_dir(each), each.config) for each in done)
            say(f"{what} {number} of {len(runs)}: {run.name}, {run.config.train.steps} steps")
            self.outcomes[self.key(run)] = do(run)
            self.report()
            # What a run compiled is kept as long as the next one needs it, and no longer.
            if number == len(runs) or not shares_program(run.config, runs[number].config):
                forget_programs()
            if self.outcomes[self.key(run)].state == "stopped":
                return True
        return False

    def train_only(self, run: R) -> Outcome:
        """Does a run of the sweep."""
        tested = self.outcomes.get(self.key(run))  # one of the sweep is a final run as well
        if tested is not None and tested.report:
            return tested
        return carry_out(self.run_dir(run), run.config, None, {})

    def _failed(self, run: R) -> bool:
        """Whether it cannot be trained, as with a learning rate that is too large."""
        outcome = self.outcomes.get(self.key(run))
        return outcome is not None and outcome.state == "failed"
