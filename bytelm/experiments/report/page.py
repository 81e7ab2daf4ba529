"""The report of a comparison as one page of HTML that needs nothing else."""

import html
from collections.abc import Sequence

from bytelm.experiments.record import Heading, RunRecord
from bytelm.experiments.report.charts import COLOURS, DARK_COLOURS
from bytelm.experiments.report.sections import Section, standing
from bytelm.experiments.report.svg import svg
from bytelm.experiments.report.table import Table


def page(heading: Heading, records: Sequence[RunRecord], sections: Sequence[Section]) -> str:
    """The page: complete in itself, for narrow and wide screens, light and dark, and paper."""
    links = "".join(
        f'<li><a href="#s{number}">{html.escape(section.title)}</a></li>'
        for number, section in enumerate(sections)
    )
    return _PAGE.format(
        title=html.escape(heading.title),
        colours=_colour_rules(COLOURS),
        dark_colours=_colour_rules(DARK_COLOURS),
        standing=standing(records),
        command=html.escape(heading.command),
        machine=html.escape(heading.machine),
        links=links,
        sections="\n".join(_section(number, section) for number, section in enumerate(sections)),
    )


def _colour_rules(colours: Sequence[str]) -> str:
    return " ".join(f".c{number} {{ color: {colour}; }}" for number, colour in enumerate(colours))


def _section(number: int, section: Section) -> str:
    parts = [
        f'<section id="s{number}">\n<h2>{html.escape(section.title)}</h2>',
        *(f"<p>{html.escape(sentence)}</p>" for sentence in section.sentences),
        *map(_table, section.tables),
    ]
    if section.charts:
        figures = "\n".join(
            f"<figure>\n<figcaption>{html.escape(chart.title)}</figcaption>\n{svg(chart)}\n</figure>"
            for chart in section.charts
        )
        parts.append(f'<div class="charts">\n{figures}\n</div>')
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        f"{''.join(f'<td>{html.escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in table.rows
    )
    caption = html.escape(table.caption)
    kind = ' class="prose"' if table.prose else ""
    # A table that is too wide scrolls by itself, by keyboard too.
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">\n'
        f"<table{kind}>\n<caption><span>{caption}</span></caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #fff; --ink: #1c1c1c; --soft: #5a5a5a; --rule: #d8d8d8;
  --band: #f5f5f5; --link: #0b5fa5; }}
{colours}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #16181b; --ink: #ececec; --soft: #a9a9a9; --rule: #3c4046; --band: #1f2226;
    --link: #7db9f0; }}
  {dark_colours}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 100rem; padding: 1rem clamp(0.8rem, 3vw, 2.5rem) 3rem;
  background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2; overflow-wrap: anywhere; }}
h2 {{ margin: 2.5rem 0 0.5rem; font-size: 1.25rem; overflow-wrap: anywhere; }}
p, ul {{ max-width: 46rem; overflow-wrap: anywhere; }}
ul {{ padding-left: 1.2rem; }}
a {{ color: var(--link); }}
pre {{ padding: 0.6rem 0.8rem; background: var(--band); white-space: pre-wrap;
  overflow-wrap: anywhere; }}
.soft {{ color: var(--soft); }}
.scroll {{ width: fit-content; max-width: 100%; overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }}
caption {{ padding: 0.3rem 0.6rem; text-align: left; font-weight: 600; }}
caption span {{ position: sticky; left: 0.6rem; display: inline-block;
  max-width: calc(100vw - 3rem); }}
th, td {{ padding: 0.35rem 0.6rem; border-bottom: 1px solid var(--rule); text-align: right;
  vertical-align: top; white-space: nowrap; }}
thead th {{ color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }}
th:first-child {{ position: sticky; left: 0; max-width: 12rem; background: var(--page);
  text-align: left; white-space: normal; overflow-wrap: break-word; }}
tbody tr:nth-child(odd) > * {{ background: var(--band); }}
.prose td, .prose th {{ text-align: left; }}
.prose td:last-child {{ min-width: 16rem; white-space: normal; overflow-wrap: anywhere; }}
.charts {{ display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }}
figure {{ margin: 0; max-width: 38rem; }}
figcaption {{ font-weight: 600; overflow-wrap: anywhere; }}
svg {{ display: block; width: 100%; height: auto; font: 13px system-ui, sans-serif; }}
svg text {{ fill: var(--ink); }}
svg path {{ fill: none; stroke: currentColor; }}
svg .grid {{ stroke: var(--rule); }}
svg .front {{ stroke-dasharray: 5 4; opacity: 0.7; }}
svg .line {{ stroke-width: 1.8; }}
svg .whisker {{ stroke-width: 1.4; opacity: 0.7; }}
svg .leader {{ opacity: 0.35; }}
svg .marker {{ fill: currentColor; }}
@page {{ size: landscape; margin: 1cm; }}
@media print {{
  body {{ max-width: none; padding: 0; }}
  nav {{ display: none; }}
  .scroll {{ overflow: visible; }}
  table {{ font-size: 0.5rem; }}
  th, td {{ padding: 0.15rem 0.25rem; white-space: normal; }}
  figure, tr {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
}}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{standing}</p>
<pre>{command}</pre>
<p class="soft">{machine}</p>
</header>
<nav aria-label="Sections">
<details>
<summary>Sections</summary>
<ul>{links}</ul>
</details>
</nav>
<main>
{sections}
</main>
</body>
</html>
"""
