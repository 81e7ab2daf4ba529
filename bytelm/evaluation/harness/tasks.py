"""The evaluation `harness`: tasks of lm-evaluation-harness, in a report like all others."""

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import CONFIDENCE, SAMPLES, ratio, share_interval
from bytelm.core.places import is_address
from bytelm.core.terminal_text import number_of
from bytelm.core.texts import text_bytes
from bytelm.evaluation.harness.answers import Answers
from bytelm.evaluation.report import Items, Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, own_text
from bytelm.training.checkpoints.digests import digest_of_all

CHOICES = {
    "acc": "accuracy_sum",
    "acc_bytes": "accuracy_per_byte",
    "acc_norm": "accuracy_per_character",
    "acc_mutual_info": "accuracy_unconditional",
}
"""Metrics of multiple choice in `lm_eval` -> names of our figures, which say how choices compare:
by the sum of their nats, that over their bytes or characters, and less what the choice costs
without its context."""

OURS = "acc", "acc_bytes", "acc_mutual_info"
"""Metrics that every task of multiple choice has here."""

DETAILS = "versions", "n-shot", "n-samples", "higher_is_better", "lm_eval_version"
"""What the report has of `lm_eval`'s results, besides the metrics."""

DEVIATIONS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard errors between a figure and the ends of its interval."""

HITS = (*CHOICES, "exact_match")
"""Metrics that are the share of documents that are right."""

UNITS = dict.fromkeys(HITS, "share") | {"bits_per_byte": "bpb"}


@dataclass(frozen=True)
class Harness(Evaluation):
    """Tasks of lm-evaluation-harness, with choices by sum, per byte and against no context."""

    name: ClassVar[str] = "harness"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)
    reads_text: ClassVar[bool] = False
    choosing: ClassVar[tuple[str, ...]] = ("tasks",)

    tasks: tuple[str, ...] = ()
    """Names of tasks, groups or tags of lm_eval, or patterns of them such as `arc_*`."""
    path: str | None = None
    """A folder with task files; only these are known then, and nothing is downloaded for them."""
    shots: int | None = None
    """Examples in the prompt; None = as the task says."""
    limit: int | None = None
    """Documents of each task; None = all."""
    covers: int | None = None
    """For a subword model: sum over all tokenisations with so many histories; None = canonical."""

    def __post_init__(self) -> None:
        self.require_positive("limit", "covers")

    def check(self, loaded: LoadedModel) -> None:
        super().check(loaded)
        require_harness()
        if not self.tasks:
            raise UserError("name tasks of lm_eval: --harness TASK...")
        if self.path is not None and not Path(self.path).is_dir():
            raise UserError(f"{self.path} is no folder; give one with task files (*.yaml).")

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `harness/TASK/METRIC`, with intervals where `lm_eval` has standard errors."""
        import lm_eval

        from bytelm.evaluation.harness.model import BytelmLM

        with _quiet():
            manager, tasks = _load(self.tasks, self.path)
        choices = _score_choices_alike(tasks)
        with _answers(loaded, self.covers) as answers:
            model = BytelmLM(
                loaded, covers=self.covers, batch_size=scoring.batch_size, answers=answers
            )
            with _quiet():
                found = lm_eval.simple_evaluate(
                    model=model,
                    tasks=tasks,
                    task_manager=manager,
                    num_fewshot=self.shots,
                    limit=self.limit,
                    bootstrap_iters=SAMPLES,
                )
            answers.finish()
        is_bound = loaded.tokenizer is not None and self.covers is None
        figures, items = _figures(found, choices, is_bound)
        return Result(
            tuple(figures),
            tuple(_notes(found, choices, loaded, model)),
            {name: found[name] for name in DETAILS},
            items=items,
            text=_own_text(found, loaded),
        )


def require_harness() -> None:
    """Raises UserError if `lm_eval` is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "tasks of lm-evaluation-harness need the package lm_eval: "
            "`pip install 'bytelm[harness]'`."
        )


def _load(names: Sequence[str], path: str | None) -> tuple[Any, list[Any]]:
    """The `TaskManager`, and the tasks and groups; raises UserError for one that is not there."""
    from lm_eval.tasks import TaskManager

    folder = None if path is None else Path(path).absolute()
    manager = TaskManager(include_path=folder, include_defaults=folder is None)
    chosen: list[str] = []
    for name in names:
        matching = [name] if name in manager.all_tasks else manager.match_tasks([name])
        if not matching:
            near = did_you_mean(name, manager.all_tasks)
            listed = "`lm-eval ls tasks` lists all"
            if path is not None:
                listed = f"its task files (*.yaml) have {', '.join(manager.all_tasks) or 'none'}"
            raise UserError(f"there is no task {name!r} in {path or 'lm_eval'}{near}; {listed}.")
        chosen += matching
    try:
        # Names of local files in a task file are relative to its folder.
        with contextlib.chdir(folder or Path()):
            loaded = manager.load(chosen)
    except (ConnectionError, FileNotFoundError, ValueError) as error:
        what = str(error).strip().partition("\n")[0]
        raise UserError(f"the tasks {', '.join(chosen)} cannot be loaded: {what}") from error
    inside = {task for group in loaded["groups"].values() for task in group.get_all_tasks()}
    groups = [group for name, group in loaded["groups"].items() if name in chosen]
    alone = [task for task in loaded["tasks"].values() if task not in inside]
    return manager, [*groups, *alone]


def _score_choices_alike(tasks: Sequence[Any]) -> set[str]:
    """Adds our metrics to tasks of multiple choice; returns the names of these."""
    from lm_eval.api.registry import get_metric, get_metric_aggregation, is_higher_better

    found = set()
    for task in _leaves(tasks):
        own = task.config.process_results is not None  # a function, instead of metrics
        if task.OUTPUT_TYPE != "multiple_choice" or own or task.multiple_input:
            continue
        found.add(task.task_name)
        for metric in OURS:
            task._metric_fn_list.setdefault(metric, get_metric(metric))
            task._metric_fn_kwargs.setdefault(metric, {})
            task._aggregation_list.setdefault(metric, get_metric_aggregation(metric))
            task._higher_is_better.setdefault(metric, is_higher_better(metric))
    return found


def _leaves(tasks: Sequence[Any]) -> Iterator[Any]:
    for task in tasks:
        yield from task.get_all_tasks() if hasattr(task, "get_all_tasks") else [task]


@contextlib.contextmanager
def _answers(loaded: LoadedModel, covers: int | None) -> Iterator[Answers]:
    """The answers of a stopped evaluation of this model, if its run is a folder to write to."""
    run = loaded.run
    path = None if run is None else run / f"harness_step_{loaded.step}.unfinished"
    if path is None or is_address(path) or not os.access(path.parent, os.W_OK):
        path = None
    model = None if path is None else [digest_of_all(loaded.params), loaded.context]
    with Answers(path, [model, covers]) as answers:
        yield answers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lets `lm_eval` log errors only, without its prints and bars: ours are shown.

    It also bootstraps in this process then, because JAX has threads here.
    """
    from tqdm import tqdm

    logger, name, begin = logging.getLogger("lm_eval"), "DISABLE_MULTIPROC", tqdm.__init__
    level, before = logger.level, os.environ.get(name)

    def hidden(bar: tqdm, *arguments: Any, **options: Any) -> None:
        begin(bar, *arguments, **{**options, "disable": True})

    logger.setLevel(logging.ERROR)
    os.environ[name] = "1"
    tqdm.__init__ = hidden
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        tqdm.__init__ = begin
        if before is None:
            del os.environ[name]


def _figures(
    found: Mapping[str, Any], choices: set[str], bound: bool
) -> tuple[list[Figure], dict[str, Items]]:
    """The metrics of each task, and of each group that has its own; and the parts of their sums.

    `bound` says whether bits per byte are an upper bound.
    """
    figures: list[Figure] = []
    items: dict[str, Items] = {}
    for task, metrics in {**found["results"], **found.get("groups", {})}.items():
        samples = found["samples"].get(task, [])
        for key, value in metrics.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            own = CHOICES.get(metric, metric) if task in choices else metric
            name = f"harness/{task}/{own}" + ("" if filtered == "none" else f"/{filtered}")
            parts = _items(metric, [each for each in samples if each["filter"] == filtered])
            if parts is not None:
                items[name] = parts
            error = metrics.get(f"{metric}_stderr,{filtered}")
            figures.append(_figure(name, metric, float(value), error, parts, bound))
        if task in choices:
            # Each choice was scored with its context and without.
            chance = np.mean([2 / len(sample["arguments"]) for sample in samples])
            figures.append(Figure(f"harness/{task}/accuracy_chance", float(chance), "share"))
    return figures, items


def _items(metric: str, samples: Sequence[Mapping[str, Any]]) -> Items | None:
    """Each document's bits and bytes, or whether it is right; None for other metrics."""
    values = [sample.get(metric) for sample in samples]
    if metric == "bits_per_byte" and values:
        likelihoods, sizes = np.array(values, np.float64).T
        return Items(-likelihoods / math.log(2), sizes)
    if metric in HITS and values and set(values) <= {0, 1}:
        return Items(np.array(values, np.float64), np.ones(len(values)))
    return None


def _figure(
    name: str,
    metric: str,
    value: float,
    error: float | str | None,
    items: Items | None,
    bound: bool,
) -> Figure:
    """A metric with its interval: Wilson's of a share of hits, or from its standard error."""
    unit = UNITS.get(metric, "")
    if metric == "bits_per_byte" and items is not None and items.counts.sum():
        figure = ratio(name, items.sums, items.counts, unit)
        return dataclasses.replace(figure, bound=bound)
    low = high = None
    if items is not None:
        low, high = share_interval(int(items.sums.sum()), len(items.sums))
    elif isinstance(error, int | float):
        low, high = value - DEVIATIONS * error, value + DEVIATIONS * error
    return Figure(name, value, unit, low, high)


def _own_text(found: Mapping[str, Any], loaded: LoadedModel) -> dict[str, Any] | None:
    """Describes the contexts and the documents that were read."""
    samples = itertools.chain.from_iterable(found["samples"].values())
    requests = itertools.chain.from_iterable(sample["arguments"] for sample in samples)
    texts = dict.fromkeys(request[0] for request in requests if request[0])
    names = ", ".join(found["samples"])
    return own_text(loaded, map(text_bytes, texts), f"the tasks {names}") if texts else None


def _notes(
    found: Mapping[str, Any], choices: set[str], loaded: LoadedModel, model: Any
) -> Iterator[str]:
    """Sentences for the report."""
    counts = [samples["effective"] for samples in found["n-samples"].values()]
    yield f"{number_of(sum(counts), 'document')} of {number_of(len(counts), 'task')}"
    if choices:
        yield (
            "choices compare by the sum of their nats (lm_eval's acc), by that over their bytes "
            "(acc_bytes), and by the sum less that of the choice without context (acc_mutual_info)"
        )
    if loaded.tokenizer is None:
        return
    if model.covers is not None:
        yield f"all tokenisations count, by {model.covers} token histories"
        return
    yield "canonical tokens"
    if model.by_bytes:
        yield (
            f"{number_of(model.by_bytes, 'continuation')} begin inside a token, and count by their "
            "bytes, over all tokenisations"
        )
