"""Writes results as Markdown, LaTeX, CSV or a page of HTML."""

import csv
import io
from typing import Any, Literal

from bytelm.core.figure import Figure
from bytelm.core.terminal_text import command_line
from bytelm.evaluation.page.page import page
from bytelm.evaluation.page.tables import escape_markdown, latex, markdown
from bytelm.experiments.results.rows import (
    HOW_TO_READ,
    Results,
    baseline_row,
    difference,
    matches,
    option_text,
    sections_of,
)
from bytelm.training.hardware import describe_machine

Format = Literal["markdown", "csv", "latex", "html"]
ENDINGS: dict[str, Format] = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".html": "html"}


def text_of(found: Results, form: Format) -> str:
    """The results in a format."""
    if form == "csv":
        return _csv(found)
    sections = sections_of(found)
    notes = (HOW_TO_READ,) if found.baseline is not None else ()
    if form == "html":
        return page(
            "Results",
            sections,
            lead=" ".join([f"{len(found.runs)} runs.", *notes]),
            command=command_line(),
            machine=f"Collected on {describe_machine()}",
        )
    if form == "latex":
        tables = [latex(table) for section in sections for table in section.tables]
        return "\n\n".join(["% \\usepackage{booktabs}", *tables]) + "\n"
    parts = [escape_markdown(note) for note in notes]
    for section in sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts += map(escape_markdown, section.sentences)
        parts += [markdown(table, caption=False) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _csv(found: Results) -> str:
    """All rows of all groups with all figures, in full precision."""
    lines = []
    for group in found.groups:
        base = baseline_row(found, group)
        for row in group:
            line: dict[str, Any] = {
                "text": row.text.words,
                "fingerprint": row.text.identity,
                "settings": "; ".join(row.settings),
                "run": row.run.label,
                **{name: option_text(row.run, name) for name in found.options},
                "step": row.step,
                "trained_on": row.trained_on,
            }
            for name, figure in row.figures.items():
                if found.chosen and not matches(name, found.chosen):
                    continue
                line |= _numbers(name, figure)
                if (less := difference(name, row, base)) is not None:
                    line |= _numbers(f"{name}_less_baseline", less)
            lines.append(line)
    text = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _numbers(name: str, figure: Figure) -> dict[str, float]:
    ends = (
        {} if figure.interval is None else {f"{name}_low": figure.low, f"{name}_high": figure.high}
    )
    return {name: figure.value, **ends}  # type: ignore[dict-item]
