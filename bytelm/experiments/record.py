"""What a comparison knows of itself and of each of its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Axis = Literal["train_flops", "raw_bytes", "inference_flops"]
State = Literal["waiting", "stopped", "failed", "done"]


@dataclass(frozen=True)
class RunRecord:
    """A run of a comparison and its figures; those that are not known are absent.

    Attributes:
        contender: the model's name.
        corpus: name of what it is trained and tested on.
        budget: how much of the comparison's axis it may use.
        seed: of the run; runs of several seeds are averaged.
        state: "failed" if it could not be trained or tested, "stopped" if a signal came.
        reason: why it failed, or where it stopped.
        learning_rate: the peak.
        steps: optimiser steps of the whole run.
        figures: by name: `bpb` of the test split, its 95% interval over documents `bpb_low` and
            `bpb_high` (not for too few of them), `bpb_with_end`, `train_flops`,
            `train_raw_bytes`, `train_bytes_per_second` (the median of the run) and
            `train_bytes_per_second_in_turns`, `training_seconds` and, apart from them,
            `compile_seconds`,
            `inference_flops_per_byte` (of the patches that the test had),
            `inference_flops_per_byte_capacity` (of those there is room for), `parameters`,
            `parameters_without_embeddings`, `peak_memory_bytes`, `bytes_per_patch`,
            `bytes_per_token`, `context_bytes`; `perturbed/KIND/RATE/bpb` and `.../accuracy`;
            `language/CODE/bits_per_sentence`, `.../premium` (its ratio to English) and
            `.../patches_per_sentence`; `adapted/CODE/bpb` and `.../forgetting`; and any others, of
            which the report shows those that it has words for, and the CSV all.
        document_bits: bits of each test document, in order.
        document_bytes: its raw bytes.
        curve: validation while training, as (train FLOPs, raw bytes, bits per byte).
        upper_bound: whether the bits are those of one tokenisation of several possible ones, so
            that the true bits are at most these.
    """

    contender: str
    corpus: str
    budget: float
    seed: int
    state: State
    reason: str = ""
    learning_rate: float | None = None
    steps: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    document_bits: tuple[float, ...] = ()
    document_bytes: tuple[float, ...] = ()
    curve: tuple[tuple[float, float, float], ...] = ()
    upper_bound: bool = False


class SweepRow(NamedTuple):
    """A learning rate that was tried for a contender."""

    contender: str
    learning_rate: float
    validation_bpb: float | None
    """None if it is not known, because the run has not ended or failed."""
    chosen: bool


@dataclass(frozen=True)
class Heading:
    """What a comparison's report says of the whole.

    Attributes:
        title: of the report.
        axis: what the budgets are of.
        baseline: the contender from which differences are taken.
        command: what runs the comparison.
        machine: the hardware and the versions.
        notes: sentences on how the runs were made.
        sweep: the learning rates that were tried.
    """

    title: str
    axis: Axis
    baseline: str
    command: str
    machine: str
    notes: tuple[str, ...] = ()
    sweep: tuple[SweepRow, ...] = ()
