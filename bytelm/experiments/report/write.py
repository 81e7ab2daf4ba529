"""Writes a report: Markdown, a page of HTML, JSON, CSV and PNG files; and shows it briefly."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable

from bytelm.core.console import TerminalConsole
from bytelm.core.files import write_whole
from bytelm.evaluation.page.drawing import write_png
from bytelm.evaluation.page.page import Section, page
from bytelm.evaluation.page.tables import escape_markdown, markdown
from bytelm.experiments.records import Heading, RunRecord
from bytelm.experiments.report.sections import chart_sections, progress, sections_of
from bytelm.experiments.report.summary import Difference, Entry, gather, groups
from bytelm.experiments.report.tables import brief_table, differences

_FILES = ("report.md", "report.html", "runs.csv", "report.json")
_ORIGIN = ("command", "machine")
"""Parts of a report that say where it comes from."""


def write_report(
    heading: Heading, records: Sequence[RunRecord], output: Path, *, images: bool = True
) -> bool:
    """Writes the report of the runs as they stand; each file appears whole or not at all.

    `report.md` and `report.html` hold tables and charts, `report.json` everything for programs,
    and `runs.csv` the figures of each run. PNG files hold the charts that `report.md` shows; they
    take longest, and are left out without `images`. The directory `output` must exist. A report
    with images that is there already is left as it is.

    Returns:
        whether it was written.
    """
    content = {**_json(heading, records), "images": images}
    if images and _is_there(output, content):
        return False
    if images:
        for section in chart_sections(heading, gather(records)):
            write_png(section.charts, output / section.image)
    sections = sections_of(heading, records)
    write_whole(output / "report.md", _markdown(heading, records, sections))
    write_whole(output / "report.html", _page(heading, records, sections))
    write_whole(output / "runs.csv", _csv(records))
    write_whole(output / "report.json", json.dumps(content, indent=2) + "\n")
    return True


def _is_there(output: Path, content: dict[str, Any]) -> bool:
    """Whether the report with this content was written, by whatever command and machine."""
    try:
        written = json.loads((output / "report.json").read_bytes())
    except (OSError, ValueError):
        return False
    now = json.loads(json.dumps(content))
    return all((output / name).exists() for name in _FILES) and all(
        written.get(name) == now.get(name) for name in written.keys() | now if name not in _ORIGIN
    )


def show_results(
    heading: Heading, records: Sequence[RunRecord], console: Console | None = None
) -> None:
    """Shows the most important columns of the results on the terminal."""
    for title, group in groups(heading, gather(records)):
        table = brief_table(heading, group)
        first, *others = table.columns
        shown = RichTable(Column(first, overflow="fold"), *others, title=title or None)
        for row in table.rows:
            shown.add_row(*row)
        (console or TerminalConsole()).print(shown, markup=False)


def _markdown(heading: Heading, records: Sequence[RunRecord], sections: Sequence[Section]) -> str:
    parts = [
        f"# {escape_markdown(heading.title)}",
        f"{progress(records)}.",
        f"```\n{heading.command}\n```",
        f"Machine: {escape_markdown(heading.machine)}",
    ]
    for section in sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts.extend(escape_markdown(sentence) for sentence in section.sentences)
        if section.charts:
            parts.append(f"![{escape_markdown(section.title)}]({section.image})")
        parts.extend(map(markdown, section.tables))
    return "\n\n".join(parts) + "\n"


def _page(heading: Heading, records: Sequence[RunRecord], sections: Sequence[Section]) -> str:
    return page(
        heading.title,
        sections,
        lead=progress(records),
        command=heading.command,
        machine=heading.machine,
    )


def _json(heading: Heading, records: Sequence[RunRecord]) -> dict[str, Any]:
    named = ("title", "axis", "baseline", "command", "machine", "measure")
    contenders = []
    for _, group in groups(heading, gather(records)):
        found = {difference.contender: difference for difference in differences(heading, group)[0]}
        contenders += [_entry_json(heading, entry, found.get(entry.contender)) for entry in group]
    return {
        **{name: getattr(heading, name) for name in named},
        "contenders": contenders,
        "sweep": [row._asdict() for row in heading.sweep],
    }


def _entry_json(heading: Heading, entry: Entry, difference: Difference | None) -> dict[str, Any]:
    names = dict.fromkeys(name for run in entry.done for name in run.figures)
    state, reason = entry.state
    return {
        "contender": entry.contender,
        "corpus": entry.corpus,
        "budget": entry.budget,
        "changes": heading.changes.get(entry.contender, {}),
        "state": state,
        "reason": reason,
        "figures": {n: figure.to_json() for n in names if (figure := entry.figure(n))},
        "over_seeds": entry.spread(heading.measure),
        "difference": difference and dataclasses.asdict(difference),
        "runs": [
            vars(run) | {"figures": {n: f.to_json() for n, f in run.figures.items()}}
            for run in entry.runs
        ],
    }


_FIELDS = ("corpus", "budget", "contender", "seed", "state", "reason", "learning_rate", "steps")


def _csv(records: Sequence[RunRecord]) -> str:
    """A row for each run with all its figures, in full precision."""
    fields, rows = (*_FIELDS, "upper_bound"), []
    for run in records:
        row = {name: getattr(run, name) for name in fields}
        for name, figure in run.figures.items():
            row[name] = figure.value
            if figure.interval is not None:
                row[f"{name}_low"], row[f"{name}_high"] = figure.interval
        rows.append(row)
    names = dict.fromkeys([*fields, *(name for row in rows for name in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
