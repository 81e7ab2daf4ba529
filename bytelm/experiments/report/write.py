"""Writes a report: Markdown, a page of HTML, JSON, CSV and PNG files; and shows it briefly."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable

from bytelm.core.console import TerminalConsole
from bytelm.core.files import write_whole
from bytelm.experiments.records import Heading, RunRecord
from bytelm.experiments.report.charts import COLOURS, DARK_COLOURS, svg, write_png
from bytelm.experiments.report.sections import Section, chart_sections, progress, sections_of
from bytelm.experiments.report.summary import Difference, Entry, gather, groups
from bytelm.experiments.report.tables import Table, brief_table, differences, one_line


def write_report(
    heading: Heading, records: Sequence[RunRecord], output: Path, *, images: bool = True
) -> None:
    """Writes the report of the runs as they stand; each file appears whole or not at all.

    `report.md` and `report.html` hold tables and charts, `report.json` everything for programs,
    and `runs.csv` the figures of each run. PNG files hold the charts that `report.md` shows; they
    take longest, and are left out without `images`. The directory `output` must exist.
    """
    if images:
        for section in chart_sections(heading, gather(records)):
            write_png(section.charts, output / section.image)
    sections = sections_of(heading, records)
    write_whole(output / "report.md", _markdown(heading, records, sections))
    write_whole(output / "report.html", _page(heading, records, sections))
    write_whole(output / "report.json", json.dumps(_json(heading, records), indent=2) + "\n")
    write_whole(output / "runs.csv", _csv(records))


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


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, below its caption."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    rows = "\n".join(f"| {' | '.join(map(escape_markdown, line))} |" for line in lines)
    return f"**{escape_markdown(table.caption)}**\n\n{rows}"


def escape_markdown(text: str) -> str:
    """Plain text as one line of Markdown, in which no character has a special meaning."""
    escaped = re.sub(r"([\\`*\[\]|]|\b_|_\b)", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _page(heading: Heading, records: Sequence[RunRecord], sections: Sequence[Section]) -> str:
    """One page of HTML that needs nothing else, for any screen, light or dark, and for paper."""
    template = Template((files(__package__) / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(heading.title),
        colours=_variables(COLOURS),
        dark_colours=_variables(DARK_COLOURS),
        progress=progress(records),
        command=escape(heading.command),
        machine=escape(heading.machine),
        links="".join(
            f'<li><a href="#s{number}">{escape(section.title)}</a></li>'
            for number, section in enumerate(sections)
        ),
        sections="\n".join(_section(number, section) for number, section in enumerate(sections)),
    )


def _variables(colours: Sequence[str]) -> str:
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))


def _section(number: int, section: Section) -> str:
    parts = [
        f'<section id="s{number}">\n<h2>{escape(section.title)}</h2>',
        *(f"<p>{escape(sentence)}</p>" for sentence in section.sentences),
        *map(_table, section.tables),
    ]
    if section.charts:
        figures = "\n".join(
            f"<figure>\n<figcaption>{escape(chart.title)}</figcaption>\n{svg(chart)}\n</figure>"
            for chart in section.charts
        )
        parts.append(f'<div class="charts">\n{figures}\n</div>')
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in table.rows
    )
    caption = escape(table.caption)
    kind = ' class="prose"' if table.prose else ""
    # A table that is too wide scrolls by itself, by keyboard too.
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">\n'
        f"<table{kind}>\n<caption><span>{caption}</span></caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
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
