"""Tables of plain text, which are written as Markdown, CSV, LaTeX or HTML."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Table:
    """Rows of cells as plain text, empty without a figure; the first column names the rows.

    `prose` is for cells that hold words rather than figures.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    prose: bool = False


def tabulate(
    items: Sequence[Item],
    columns: Mapping[str, Callable[[Item], str]],
    *,
    caption: str = "",
    prose: bool = False,
) -> Table:
    """A row for each item; columns that are empty for all items are left out."""
    cells = {name: [cell(item) for item in items] for name, cell in columns.items()}
    shown = {name: column for name, column in cells.items() if any(column)}
    return Table(tuple(shown), tuple(zip(*shown.values(), strict=True)), caption, prose)


def markdown(table: Table, *, caption: bool = True) -> str:
    """The table in GitHub's Markdown, below its caption."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    rows = "\n".join(f"| {' | '.join(map(escape_markdown, line))} |" for line in lines)
    return f"**{escape_markdown(table.caption)}**\n\n{rows}" if caption else rows


def latex(table: Table) -> str:
    """The table in LaTeX, with the lines of the package booktabs and its caption."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(escape_latex, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u2264": r"$\le$",
    "\u2265": r"$\ge$",
}


def escape_latex(text: str) -> str:
    """Plain text as LaTeX, in which no character has a special meaning."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def escape_markdown(text: str) -> str:
    """Plain text as one line of Markdown, in which no character has a special meaning."""
    escaped = re.sub(r"([\\`*\[\]|]|\b_|_\b)", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_line(text: str) -> str:
    """The text with each run of whitespace as a space."""
    return " ".join(text.split())
