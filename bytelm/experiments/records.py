"""Records of runs with their figures, and the heading of a report."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import bytelm.api  # noqa: F401 (declares the statistics of training and of all families)
from bytelm.core.figure import Figure, in_powers
from bytelm.core.statistics import recorded

Axis = Literal["steps", "train_flops", "raw_bytes", "inference_flops"]
"""The quantity that is equal for all contenders; an ablation has the axis `steps`."""
RunState = Literal["waiting", "stopped", "failed", "done"]

BUDGET_UNITS: Mapping[Axis, str] = {
    "train_flops": "training FLOPs",
    "raw_bytes": "bytes of text",
    "inference_flops": "inference FLOPs per byte",
}
MEASURES = {"bpb": "bits per byte", "bits_per_target_byte": "bits per target byte"}
"""The figures that models are compared by, in words."""


@dataclass(frozen=True)
class RunRecord:
    """A run and its figures.

    Attributes:
        corpus: name of the text for training and testing; "" in an ablation.
        budget: how much of the comparison's axis it may use; 0 in an ablation.
        state: "failed" if it could not be trained or tested, "stopped" if a signal came.
        reason: why it failed, or where it stopped.
        learning_rate: the peak.
        figures: by name, see docs/comparisons.md. The report shows those with a column or a table,
            the CSV all.
        document_bits, document_bytes: of each test document, in order.
        curve: validation during training: (training FLOPs, bytes of text, bits per byte).
        upper_bound: whether the bits are of one tokenisation among many, so that the true bits are
            at most these.
        text: describes the test text (`EvaluationText.about`); None in older reports.
    """

    contender: str
    corpus: str
    budget: float
    seed: int
    state: RunState
    reason: str = ""
    learning_rate: float | None = None
    steps: int | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    document_bits: tuple[float, ...] = ()
    document_bytes: tuple[float, ...] = ()
    curve: tuple[tuple[float, float, float], ...] = ()
    upper_bound: bool = False
    text: Mapping[str, Any] | None = None


class SweepRow(NamedTuple):
    """A learning rate that was tried for a contender."""

    contender: str
    learning_rate: float
    validation_bits: float | None
    """None if unknown, because the run has not ended or failed."""
    chosen: bool


@dataclass(frozen=True)
class Heading:
    """The parts of a report that are about the whole ablation or comparison.

    Attributes:
        axis: the unit of budgets.
        baseline: the contender that the others are compared with.
        measure: name of the bits that contenders are compared by, a key of `MEASURES`.
        notes: sentences on how the runs were made.
        changes: in an ablation, the config fields of each contender that differ from the base.
        same_seeds: whether runs are paired by their seed; otherwise each contender has one run.
        reference: the language that the others of the parallel text are compared with.
    """

    title: str
    axis: Axis
    baseline: str
    command: str
    machine: str
    measure: str = "bpb"
    notes: tuple[str, ...] = ()
    sweep: tuple[SweepRow, ...] = ()
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    same_seeds: bool = True
    reference: str = "eng"

    @property
    def short_measure(self) -> str:
        """The measure in a table's column."""
        return "bpb" if self.measure == "bpb" else "bits/target byte"

    def budget_words(self, budget: float) -> str:
        """A budget with its unit, such as `1e17 training FLOPs`; "" in an ablation."""
        return "" if self.axis == "steps" else f"{in_powers(budget)} {BUDGET_UNITS[self.axis]}"

    def group_title(self, corpus: str, budget: float) -> str:
        """The title of runs that are compared with each other; "" in an ablation: all are."""
        return ", ".join(filter(None, (corpus, self.budget_words(budget))))


_NAMES = {
    "bpb": ("bpb", "before", "early", "forgetting", "validation_bits"),
    "share": ("accuracy", "exact_match", "kept", "encoder_time_saved"),
    "FLOP": ("train_flops",),
    "FLOP/byte": (
        "inference_flops_per_byte",
        "inference_flops_per_byte_capacity",
        "forward_flops_per_byte",
    ),
    "bytes": ("train_raw_bytes", "peak_memory_bytes", "context_bytes"),
    "B/s": ("train_bytes_per_second", "train_bytes_per_second_in_turns"),
    "s": ("training_seconds", "compile_seconds"),
    "count": ("parameters", "parameters_without_embeddings"),
    "B/token": ("bytes_per_token",),
}
_UNITS = {name: unit for unit, names in _NAMES.items() for name in names}
"""By the last part of a figure's name; statistics declare their own."""
_BITS = ("bpb", "bpb_with_end", "validation_bits", "bits_per_sentence", "before", "early")
"""Last parts of the names of figures that are upper bounds for subword models."""


def named_figures(figures: Iterable[Figure], *, upper_bound: bool) -> dict[str, Figure]:
    """Figures by name; bits are marked as upper bounds if they are."""
    return {
        figure.name: dataclasses.replace(figure, bound=upper_bound and _last(figure.name) in _BITS)
        for figure in figures
    }


def run_figures(values: Mapping[str, float], *, upper_bound: bool = False) -> dict[str, Figure]:
    """Figures of a run by name.

    The values `NAME_low` and `NAME_high` are the ends of the interval of `NAME`.
    """
    figures = []
    for name, value in values.items():
        stem = name.removesuffix("_low").removesuffix("_high")
        if stem != name and stem in values:
            continue
        unit = _UNITS.get(_last(name)) or recorded(name, value).unit
        ends = values.get(f"{name}_low"), values.get(f"{name}_high")
        figures.append(Figure(name, value, unit, *ends))
    return named_figures(figures, upper_bound=upper_bound)


def _last(name: str) -> str:
    return name.rpartition("/")[2]
