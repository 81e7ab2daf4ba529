"""Results of evaluations, and the report of a suite: as JSON, and as a table."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bytelm.core.console import TerminalConsole
from bytelm.core.figure import Figure, json_values
from bytelm.evaluation.text import describe_text


@dataclass(frozen=True)
class DocumentBits:
    """Bits of each document, for comparing models in pairs.

    Attributes:
        bits: float64 `[documents]`; with an encoder, bits of each target.
        bytes: int64 `[documents]`, the raw bytes.
    """

    bits: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Attributes:
        figures: the numbers.
        notes: sentences that explain them, shown below the table.
        details: more for the JSON report, such as counts and examples.
        documents: the bits of each document, with which ablations and comparisons pair two models;
            empty if they were not measured.
        seconds: how long it took.
    """

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    documents: DocumentBits = DocumentBits(np.empty(0), np.empty(0, np.int64))
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """The results of a suite.

    Attributes:
        step: of the model.
        suite: name and options of each evaluation.
        results: by evaluation.
        text: from `EvaluationText.about`; None if no text was read.
        context: symbols in a window.
        stride: symbols scored by each window after a text's first.
        max_bytes: of the text; None for all.
        machine: in words.
    """

    step: int
    suite: list[dict[str, Any]]
    results: dict[str, Result]
    text: dict[str, Any] | None
    context: int
    stride: int
    max_bytes: int | None
    machine: str

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures, by name."""
        return {figure.name: figure for each in self.results.values() for figure in each.figures}

    def to_json(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        return {
            "step": self.step,
            "suite": self.suite,
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
            "details": {name: json_values(each.details) for name, each in self.results.items()},
            "text": self.text,
            "context": self.context,
            "stride": self.stride,
            "max_bytes": self.max_bytes,
            "seconds": {name: result.seconds for name, result in self.results.items()},
            "machine": self.machine,
        }


def print_report(report: Report, console: Console | None = None) -> None:
    """Shows a report as a table, with notes below it."""
    text = report.text
    source = f": {text['split']} of {text['source']}" if text else ""
    table = Table(title=f"evaluation of step {report.step}{source}")
    table.add_column()
    table.add_column("", justify="right")
    table.add_column("unit")
    table.add_column("95% interval", justify="right")
    for result in report.results.values():
        for figure in result.figures:
            table.add_row(figure.name, figure.number, figure.unit, figure.interval_text)
        table.add_section()
    notes = [note for result in report.results.values() for note in result.notes]
    if text:
        notes.append(describe_text(text))
    seconds = sum(result.seconds for result in report.results.values())
    notes.append(f"{seconds:.1f} s on {report.machine}")
    table.caption = "; ".join(notes)
    (console or TerminalConsole()).print(table)
