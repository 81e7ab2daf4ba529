"""Runs a comparison: tokenizers, the sweep of learning rates, the runs, their tests, the report."""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bytelm.core.atomic_write import write_whole
from bytelm.core.locks import exclusive
from bytelm.core.terminal_text import say
from bytelm.data.config import Files
from bytelm.data.open_data import OpenData
from bytelm.data.training_text import training_text
from bytelm.experiments.comparison import Comparison, Run, TokenizerConfig, below
from bytelm.experiments.measurements import adaptation_figures, curve, test_figures
from bytelm.experiments.plan import Plan
from bytelm.experiments.record import Heading, RunRecord
from bytelm.experiments.report.write import write_report
from bytelm.experiments.runs import (
    Outcome,
    carry_out,
    check_saved,
    is_trained,
    metrics,
)
from bytelm.experiments.sizing import adapted_run, sized_run
from bytelm.experiments.speed import Speeds, measure_speeds, read_speeds
from bytelm.tokenizers.training import train_tokenizer
from bytelm.training.hardware import describe_machine

TOKENIZER_BYTES = 10**8
"""Most bytes of a corpus that a tokenizer is trained on, if nothing else is declared."""


@dataclass(frozen=True)
class CompareCommand:
    """Trains, tests and reports the runs of a comparison; what is done is not done again."""

    root: Path = Path()
    """Directory that files of the comparison are relative to."""
    output: Path | None = None
    """Where runs and report go; none = runs/comparison/NAME."""
    task: int | None = None
    """Do one run alone, by its number, as the task of an array of jobs; then call without it."""
    tasks: bool = False
    """Print how many tasks the sweep of learning rates has, and how many there are in all."""


def run_comparison(
    comparison: Comparison, output: Path, *, root: Path = Path(), task: int | None = None
) -> int:
    """Does what is left to do of a comparison, one run after another.

    After each run the report in `output` is written anew, its images in the end. A run that fails
    does not keep the others from running.

    Args:
        comparison: what to run.
        output: made if it does not exist.
        root: directory that the files of corpora are relative to.
        task: number of the only run to do; None for all.

    Returns:
        an exit status: 0, 1 if a run failed, 143 if a signal asked to stop.

    Raises:
        UserError: for what cannot be run; nothing is run then. For a task whose learning rate is
            not known yet.
    """
    plan = ComparisonPlan(comparison, output, root)
    if task is not None:
        return plan.do_task(task)
    return plan.do_all()


class ComparisonPlan(Plan[Run]):
    """The runs of a comparison and what is known of them."""

    def __init__(self, comparison: Comparison, output: Path, root: Path):
        super().__init__(output, list(comparison.contenders), comparison.learning_rates)
        self.comparison = below(comparison, root)
        output.mkdir(parents=True, exist_ok=True)
        self.tokenizers = {
            (corpus, name): self._tokenizer(corpus, contender.tokenizer)
            for corpus in comparison.corpora
            for name, contender in comparison.contenders.items()
        }
        self._run = functools.cache(self._sized)  # sizing reads the corpus
        smallest, corpus, seed = min(comparison.budgets), self._corpora[0], comparison.seeds[0]
        self.sweep = [
            self._run(name, corpus, smallest, seed, multiple)
            for name in comparison.contenders
            for multiple in comparison.learning_rates
        ]
        # Whatever cannot be run is found before anything is.
        all_runs = [
            run
            for name in comparison.contenders
            for multiple in comparison.learning_rates
            for run in self.runs_of(name, multiple)
        ]
        for run in all_runs:
            check_saved(self.run_dir(run), run.config)

    @property
    def _corpora(self) -> list[str]:
        return list(self.comparison.corpora)

    def run_dir(self, run: Run) -> Path:
        """Where a run is."""
        return self.output / "runs" / run.name

    def key(self, run: Run) -> str:
        """Of a run in `outcomes`; an adapted run shares its name with none."""
        return f"{run.name} from {run.initial.name}" if run.initial else run.name

    def _sized(self, name: str, corpus: str, budget: float, seed: int, multiple: float) -> Run:
        return sized_run(
            self.comparison,
            name,
            corpus,
            self.tokenizers[corpus, name],
            budget=budget,
            seed=seed,
            multiple=multiple,
        )

    def _tokenizer(self, corpus: str, config: TokenizerConfig | None) -> Path | None:
        """The file of a corpus's tokenizer, which is trained if there is none."""
        if config is None:
            return None
        suffix = "model" if config.kind == "unigram" else "json"
        limit = "" if config.max_bytes is None else f"-of-{config.max_bytes}"
        name = f"{corpus}-{config.kind}-{config.size}{limit}.{suffix}"
        path = self.output / "tokenizers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name(f"{path.name}.lock"), f"train {path.name}"):
            if not path.exists():
                say(f"training the tokenizer {path.name}")
                text = self.comparison.corpora[corpus]
                most = config.max_bytes or TOKENIZER_BYTES
                texts = training_text(OpenData(text), most)
                content = train_tokenizer(texts, config.kind, config.size)
                write_whole(path, content)
        return path

    def runs_of(self, contender: str, multiple: float) -> list[Run]:
        """The final runs of a contender at a multiple of its learning rate."""
        comparison = self.comparison
        return [
            self._run(contender, corpus, budget, seed, multiple)
            for budget in sorted(comparison.budgets)
            for corpus in comparison.corpora
            for seed in comparison.seeds
        ]

    def final(self) -> list[Run]:
        """The runs that are tested, smallest budgets first."""
        return sorted(super().final(), key=lambda run: run.budget)

    def adapted(self) -> list[Run]:
        """The runs that go on from those of the largest budget and the first seed."""
        comparison = self.comparison
        largest, seed = max(comparison.budgets), comparison.seeds[0]
        return [
            adapted_run(comparison, run, name, self.run_dir(run))
            for run in self.final()
            if (run.budget, run.seed, run.corpus) == (largest, seed, self._corpora[0])
            and is_trained(self.run_dir(run), run.config)
            for name in comparison.adaptation
        ]

    def do_all(self) -> int:
        """Does all runs that are left, and writes the report after each; an exit status."""
        status = super().do_all()
        if status != 143:
            say(f"report: {self.output / 'report.html'}")
        return status

    def tested(self) -> list[tuple[Callable[[], list[Run]], Callable[[Run], Outcome]]]:
        """The runs that end with a test, and what does them."""
        return [*super().tested(), (self.adapted, self._adapt)]

    def stages(self) -> list[tuple[Callable[[], list[Run]], Callable[[Run], Outcome], str]]:
        """The runs in order, what does them, and what they are called."""
        return [*super().stages(), (self.adapted, self._adapt, "adaptation")]

    def afterwards(self) -> None:
        """Times the steps of what is trained, in turns, unless that was done."""
        runs = [run for run in self.final() if is_trained(self.run_dir(run), run.config)]
        known = read_speeds(self.output)
        if self.comparison.timed_steps and not all(map(known.knows, runs)):
            say(f"timing {self.comparison.timed_steps} steps of each contender, in turns")
            measure_speeds(runs, self.comparison.timed_steps, self.output)

    def train_and_test(self, run: Run) -> Outcome:
        """Does what is left to do of a final run."""
        largest = run.budget == max(self.comparison.budgets)
        test = functools.partial(test_figures, comparison=self.comparison, whole=largest)
        asked = {
            "max_bytes": self.comparison.max_bytes,
            "robustness": repr(self.comparison.robustness) if largest else "",
            "parallel": _contents(self.comparison.parallel) if largest else [],
        }
        return carry_out(self.run_dir(run), run.config, test, asked)

    def _adapt(self, run: Run) -> Outcome:
        assert run.initial is not None
        before = self.run_dir(run.initial)
        test = functools.partial(
            adaptation_figures,
            name=run.corpus,
            before=before,
            home=run.initial.config.data,
            max_bytes=self.comparison.max_bytes,
        )
        return carry_out(
            self.run_dir(run), run.config, test, {"max_bytes": self.comparison.max_bytes}
        )

    def report(self, *, images: bool = False) -> None:
        """Writes the report of what is known."""
        comparison, final = self.comparison, self.final()
        speeds = read_speeds(self.output)
        done = [run for run in final if run.name in self.outcomes]
        if not all(speeds.knows(run) for run in done if self.outcomes[run.name].state == "done"):
            speeds = Speeds()  # some would stand beside the medians of others' runs
        records = [self._record(run, speeds) for run in final]
        known = {record.contender for record in records}
        records += [
            RunRecord(run.contender, run.corpus, run.budget, run.seed, *self.before_the_rate(name))
            for name in comparison.contenders
            if name not in known
            for run in self.runs_of(name, comparison.learning_rates[0])
        ]
        heading = Heading(
            title=comparison.title,
            axis=comparison.axis,
            baseline=comparison.baseline,
            command=shlex.join(["bytelm", *sys.argv[1:]]),
            machine=describe_machine(),
            notes=_notes(comparison, speeds.machine),
            sweep=self.sweep_rows(),
        )
        write_report(heading, records, self.output, images=images)

    def _record(self, run: Run, speeds: Speeds) -> RunRecord:
        record = self.record(run, run.corpus, run.budget)
        if record.state != "done":
            return record
        report = self.outcomes[run.name].report
        figures = dict(report["figures"])
        figures["train_flops"] = run.config.train.steps * run.flops_per_step
        figures["train_raw_bytes"] = run.config.train.steps * run.bytes_per_step
        if speeds.knows(run):
            figures |= speeds.figures(run)
        for key, adapted in self.outcomes.items():
            if key.endswith(f" from {run.name}") and adapted.state == "done":
                figures |= adapted.report["figures"]
        return dataclasses.replace(
            record,
            figures=figures,
            document_bits=tuple(report["document_bits"]),
            document_bytes=tuple(report["document_bytes"]),
            curve=curve(metrics(self.run_dir(run)), run.flops_per_step, run.bytes_per_step),
        )


def _contents(files: Sequence[str]) -> object:
    """Digests of what files hold, so that a test of other text is not taken for the same."""
    return Files(files=tuple(files)).reader(None).inputs("train") if files else []


def _notes(comparison: Comparison, timed_on: str) -> tuple[str, ...]:
    """What a reader must know of how the runs were made, and where they were timed in turns."""
    notes = [
        f"All contenders read the same text in the same order, in shuffled shards of "
        f"{comparison.shard_bytes} bytes; validation is on the same text for all.",
        "FLOPs of training are counted from the matrix products of three forward passes, with all "
        "patches that a model has room for; those of inference for a byte from the patches that "
        "the test text had.",
        "Training bytes per second are of steps of all contenders in turns, so that a slow hour "
        f"affects all alike, on {timed_on}; those of the runs themselves are in runs.csv."
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
