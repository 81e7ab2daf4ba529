"""Results of evaluations, and the report of a suite: a table, and a file that is never replaced."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from bytelm.core.chart import Chart
from bytelm.core.config_json import to_dict
from bytelm.core.console import TerminalConsole
from bytelm.core.figure import Figure, json_values
from bytelm.core.files import absolute, name_part, write_new, write_next
from bytelm.data.config import DataConfig
from bytelm.evaluation.text import describe_text

LONGEST_OPTION = 40
"""Characters of an option's value in the name of a report's file."""


@dataclass(frozen=True)
class DocumentBits:
    """Bits (float64) and raw bytes (int64) of each document; with an encoder, of each target."""

    bits: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Attributes:
        notes: sentences that explain them, shown below the table.
        details: more for the JSON report, such as counts and examples.
        documents: with these, ablations and comparisons pair two models; empty if not measured.
        charts: such as loss by position; drawn on the page, and in the JSON report.
        text: describes text that is not the suite's, from `bytelm.evaluation.text.own_text`; its
            sentence on what was trained on is shown below the table.
        seconds: how long it took.
    """

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    documents: DocumentBits = DocumentBits(np.empty(0), np.empty(0, np.int64))
    charts: tuple[Chart, ...] = ()
    text: dict[str, Any] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """The results of a suite.

    Attributes:
        suite: name and options of each evaluation.
        text: from `EvaluationText.about`; None if no text was read.
        context: symbols in a window.
        stride: symbols scored by each window after a text's first.
        max_bytes: of the text; None for all.
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
            "charts": {
                name: [chart.to_json() for chart in each.charts]
                for name, each in self.results.items()
                if each.charts
            },
            "own_text": {name: each.text for name, each in self.results.items() if each.text},
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
    columns = ("", Column(justify="right"), "unit", Column("95% interval", justify="right"))
    table = Table(*columns, title=f"evaluation of step {report.step}{source}")
    for result in report.results.values():
        for figure in result.figures:
            table.add_row(figure.name, figure.number, figure.unit, figure.interval_text)
        table.add_section()
    notes = [note for result in report.results.values() for note in result.notes]
    notes += [
        f"{each.text['source']}: {describe_text(each.text)}"
        for each in report.results.values()
        if each.text
    ]
    if text:
        notes.append(describe_text(text))
    seconds = sum(result.seconds for result in report.results.values())
    notes.append(f"{seconds:.1f} s on {report.machine}")
    table.caption = "; ".join(notes)
    (console or TerminalConsole()).print(table)


def report_name(
    step: int, text: str, data: DataConfig, trained_on: DataConfig, **options: Any
) -> str:
    """The name of a report, with all settings that change its figures.

    Args:
        step: of the checkpoint.
        text: name of the scored text, such as a split; "" for none.
        data: how the text was read. If that differs from training, the name has a digest of it,
            which distinguishes files of the same name in different folders.
        trained_on: how the run read its text.
        options: other settings by name; those that are None are left out.
    """
    parts = [f"eval_step_{step}", *([name_part(text)] if text else [])]
    if data.sequence_length != trained_on.sequence_length:
        parts.append(f"context-{data.sequence_length}")
    parts += [
        f"{name.replace('_', '-')}-{name_part(_words(value))}"
        for name, value in options.items()
        if value is not None
    ]
    if (digest := _digest(data)) != _digest(trained_on):
        parts.append(digest)
    return "_".join(parts) + ".json"


def write_report(report: dict[str, Any], output: Path | None, default: Path) -> Path:
    """Writes a report as JSON, whole or not at all, and returns the file.

    `output` must not exist; None for `default`, which gets a number if the name is taken.
    """
    content = json.dumps(report, indent=2) + "\n"
    if output is None:
        return write_next(default, content)
    write_new(output, content)
    return output


def _words(value: Any) -> str:
    """An option's value, or its values; a digest where that would make the name too long."""
    words = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return words if len(words) <= LONGEST_OPTION else _hex(words)


def _digest(data: DataConfig) -> str:
    """Digest of everything that decides which text is read, with absolute file names."""
    sources = [
        dataclasses.replace(source.with_files(absolute), weight=1.0)
        for source in data.source_configs
    ]
    fields = [[to_dict(source) for source in sources], to_dict(data.task), data.scripts]
    return _hex(json.dumps(fields, sort_keys=True))


def _hex(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
