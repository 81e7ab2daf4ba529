"""Results of evaluations, and the report of a suite: a table, and a file that is never replaced."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

import bytelm
from bytelm.core.chart import Chart
from bytelm.core.config_json import to_dict
from bytelm.core.console import TerminalConsole
from bytelm.core.figure import Figure, json_values
from bytelm.core.files import absolute, name_part, write_new, write_next
from bytelm.data.config import DataConfig
from bytelm.evaluation.page import tables
from bytelm.evaluation.page.page import Section, page
from bytelm.evaluation.text import describe_text

SCHEMA = 2
"""Of JSON reports; those before this number had none."""
NUMBERS = re.compile(r"\[[-+.\deE,\s]+\]")
"""A list of numbers in JSON."""
LONGEST_OPTION = 40
"""Characters of an option's value in the name of a report's file; longer ones become a digest."""
LONGEST_OPTIONS = 120
"""Bytes of all options there: file systems allow names of 255."""


@dataclass(frozen=True)
class DocumentBits:
    """Bits (float64) and raw bytes (int64) of each document; with an encoder, of each target."""

    bits: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class Items:
    """The parts of a figure that is a sum over a count, such as hits and questions, in order.

    Attributes:
        sums, counts: float `[items]`.
    """

    sums: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Attributes:
        notes: sentences that explain them, shown below the table.
        details: more for the JSON report, such as counts and examples.
        documents: of the first figure. With these, models that scored the same text are compared
            document by document; empty if not measured.
        items: the same for other figures, by their names.
        charts: such as loss by position; drawn on the page, and in the JSON report.
        text: describes text that is not the suite's, from `bytelm.evaluation.text.own_text`; its
            sentence on what was trained on is shown below the table.
        seconds: how long it took.
    """

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    documents: DocumentBits = DocumentBits(np.empty(0), np.empty(0, np.int64))
    items: Mapping[str, Items] = field(default_factory=dict)
    charts: tuple[Chart, ...] = ()
    text: dict[str, Any] | None = None
    seconds: float = 0.0

    def parts(self) -> dict[str, Items]:
        """`documents` and `items`, by the names of their figures."""
        documents, items = self.documents, dict(self.items)
        if len(documents.bytes):
            items[self.figures[0].name] = Items(documents.bits, documents.bytes)
        return items

    def text_note(self) -> str:
        """How much of the evaluation's own text was trained on; "" if it has none."""
        return f"{self.text['source']}: {describe_text(self.text)}" if self.text else ""


@dataclass(frozen=True)
class Report:
    """The results of a suite.

    Attributes:
        run: name of the run directory.
        digest: of the parameters, hexadecimal.
        suite: name and options of each evaluation.
        text: from `EvaluationText.about`; None if no text was read.
        context: symbols in a window.
        stride: symbols scored by each window after a text's first.
        max_bytes: of the text; None for all.
    """

    run: str
    step: int
    digest: str
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

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides checkpoint and text that figures depend on."""
        return {name: getattr(self, name) for name in ("suite", "context", "stride", "max_bytes")}

    @property
    def notes(self) -> list[str]:
        """Sentences that explain the figures, and say what was trained on."""
        results = self.results.values()
        notes = [note for result in results for note in result.notes]
        notes += [note for result in results if (note := result.text_note())]
        if self.text:
            notes.append(describe_text(self.text))
        return [*notes, f"{sum(each.seconds for each in results):.1f} s on {self.machine}"]

    @property
    def title(self) -> str:
        """The step, and the text."""
        source = f": {self.text['split']} of {self.text['source']}" if self.text else ""
        return f"evaluation of step {self.step}{source}"

    def to_json(self) -> dict[str, Any]:
        """The report, ready for JSON (docs/evaluation.md)."""
        results = self.results.items()
        return {
            "schema": SCHEMA,
            "version": bytelm.__version__,
            "checkpoint": {"run": self.run, "step": self.step, "digest": self.digest},
            "settings": self.settings,
            "text": self.text,
            "figures": {
                figure.name: {**figure.to_json(), "evaluation": name}
                for name, each in results
                for figure in each.figures
            },
            "own_text": {name: each.text for name, each in results if each.text},
            "notes": self.notes,
            "details": {name: json_values(each.details) for name, each in results},
            "items": {
                figure: {"sums": json_values(items.sums), "counts": json_values(items.counts)}
                for _, each in results
                for figure, items in each.parts().items()
            },
            "charts": {
                name: [chart.to_json() for chart in each.charts]
                for name, each in results
                if each.charts
            },
            "seconds": {name: result.seconds for name, result in results},
            "machine": self.machine,
        }


def print_report(report: Report, console: Console | None = None) -> None:
    """Shows a report as a table, with notes below it."""
    columns = (
        Column(overflow="fold"),
        Column(justify="right"),
        "unit",
        Column("95% interval", justify="right"),
    )
    table = Table(*columns, title=report.title, caption="; ".join(report.notes))
    for result in report.results.values():
        for figure in result.figures:
            table.add_row(figure.name, figure.number, figure.unit, figure.interval_text)
        table.add_section()
    (console or TerminalConsole()).print(table)


def report_page(report: Report, command: str) -> str:
    """The report as a page of HTML, with its charts."""
    about = [("run", report.run), ("step", str(report.step)), ("parameters", report.digest)]
    about += [(name, str(value)) for name, value in report.settings.items() if name != "suite"]
    if report.text:
        about += [(name, str(report.text[name])) for name in ("documents", "bytes", "fingerprint")]
    settings = tables.Table(("setting", "value"), tuple(about), "Settings", prose=True)
    options = {each["name"]: {**each} for each in report.suite}
    sections = []
    for name, result in report.results.items():
        rows = tuple((f.name, f.number, f.unit, f.interval_text) for f in result.figures)
        chosen = {key: value for key, value in options[name].items() if key != "name"}
        words = "; ".join(f"{key}: {value}" for key, value in chosen.items())
        caption = f"{name}, {words}" if words else name
        table = tables.Table(("figure", "value", "unit", "95% interval"), rows, caption)
        sections.append(Section(name, (), (table,), result.charts))
    sections.append(Section("Notes", tuple(report.notes), (settings,)))
    title = f"{report.run}: {report.title}"
    lead = f"Of the text: {describe_text(report.text)}." if report.text else ""
    return page(title, sections, lead=lead, command=command, machine=report.machine)


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
    chosen = [
        f"{name.replace('_', '-')}-{name_part(_words(value))}"
        for name, value in options.items()
        if value is not None
    ]
    if len("_".join(chosen).encode()) > LONGEST_OPTIONS:
        chosen = [f"options-{_hex('_'.join(chosen))}"]
    parts += chosen
    if (digest := _digest(data)) != _digest(trained_on):
        parts.append(digest)
    return "_".join(parts) + ".json"


def write_report(report: dict[str, Any], output: Path | None, default: Path) -> Path:
    """Writes a report as JSON, whole or not at all, and returns the file.

    `output` must not exist; None for `default`, which gets a number if the name is taken. Lists of
    numbers, such as the bits of each document, take a line each.
    """
    content = json.dumps(report, indent=2)
    content = NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), content) + "\n"
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
