"""A page of HTML: sections of sentences, tables and charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from bytelm.core.chart import Chart
from bytelm.evaluation.page.tables import Table


@dataclass(frozen=True)
class Section:
    """A part of the report; `image` is the name of the PNG file with its charts."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    image: str = ""


def page(title: str, sections: Sequence[Section], *, lead: str, command: str, machine: str) -> str:
    """One page of HTML that needs nothing else, for any screen, light or dark, and for paper."""
    from bytelm.evaluation.page.drawing import COLOURS, DARK_COLOURS  # Matplotlib takes a second

    template = Template((files(__package__) / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        colours=_variables(COLOURS),
        dark_colours=_variables(DARK_COLOURS),
        lead=escape(lead),
        command=escape(command),
        machine=escape(machine),
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
        from bytelm.evaluation.page.drawing import svg

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
