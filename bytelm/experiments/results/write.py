"""Writes results as Markdown, LaTeX, CSV or a page of HTML."""

from typing import Literal

from bytelm.core.terminal_text import command_line
from bytelm.evaluation.page.page import page
from bytelm.evaluation.page.tables import escape_markdown, latex, markdown
from bytelm.experiments.results.rows import HOW_TO_READ, Results, csv_text, sections_of
from bytelm.training.hardware import describe_machine

Format = Literal["markdown", "csv", "latex", "html"]
ENDINGS: dict[str, Format] = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".html": "html"}


def text_of(found: Results, form: Format) -> str:
    """The results in a format."""
    if form == "csv":
        return csv_text(found)
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
