"""The report of a comparison: Markdown, CSV, PNG, and a page of HTML."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from bytelm.core.atomic_write import write_whole
from bytelm.experiments.record import Heading, RunRecord
from bytelm.experiments.report.page import page
from bytelm.experiments.report.plot import plot_charts
from bytelm.experiments.report.sections import Section, chart_sections, sections_of, standing
from bytelm.experiments.report.summary import gather
from bytelm.experiments.report.table import Table, escape_markdown, markdown


def write_report(
    heading: Heading, records: Sequence[RunRecord], output: Path, *, images: bool = True
) -> None:
    """Writes the report of the runs as they stand; each file appears whole or not at all.

    `report.md` and `report.html` hold tables and charts, `runs.csv` all figures of each run, and
    `pareto_train.png`, `pareto_inference.png` and `curves.png` the charts.

    Args:
        heading: what is said of the whole.
        records: a record for each run of the comparison, done or not.
        output: a directory that exists.
        images: whether to write the PNG files, which take longest.
    """
    if images:
        for section in chart_sections(heading, gather(records)):
            plot_charts(section.charts, output / section.image)
    sections = sections_of(heading, records)
    write_whole(output / "report.md", _markdown(heading, records, sections))
    write_whole(output / "report.html", page(heading, records, sections))
    write_whole(output / "runs.csv", runs_csv(records))


def _markdown(heading: Heading, records: Sequence[RunRecord], sections: Sequence[Section]) -> str:
    parts = [
        f"# {escape_markdown(heading.title)}",
        f"{standing(records)}.",
        f"```\n{heading.command}\n```",
        f"Machine: {escape_markdown(heading.machine)}",
    ]
    for section in sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts.extend(escape_markdown(sentence) for sentence in section.sentences)
        if section.charts:
            parts.append(f"![{escape_markdown(section.title)}]({section.image})")
        parts.extend(captioned(table) for table in section.tables)
    return "\n\n".join(parts) + "\n"


def captioned(table: Table) -> str:
    """A table in Markdown below its caption."""
    return f"**{escape_markdown(table.caption)}**\n\n{markdown(table).rstrip()}"


_FIELDS = ("corpus", "budget", "contender", "seed", "state", "reason", "learning_rate", "steps")


def runs_csv(records: Sequence[RunRecord]) -> str:
    """A row for each run, with the figures of all; numbers as exact as they are known."""
    figures = list(dict.fromkeys(name for run in records for name in run.figures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIELDS, "upper_bound", *figures])
    for run in records:
        fields = [getattr(run, name) for name in _FIELDS]
        writer.writerow([*fields, run.upper_bound, *(run.figures.get(name) for name in figures)])
    return text.getvalue()
