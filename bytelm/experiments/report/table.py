"""Tables of ablations and comparisons: how each kind of figure is written, and Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells as plain text; a cell is empty where there is no figure.

    Attributes:
        columns: their names; the first tells what a row is of.
        rows: a cell for each column.
        caption: what the table shows.
        prose: whether the cells hold words rather than figures.
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
    """A row for each item, with those of the columns that are not empty for all items."""
    cells = {name: [cell(item) for item in items] for name, cell in columns.items()}
    shown = {name: column for name, column in cells.items() if any(column)}
    return Table(tuple(shown), tuple(zip(*shown.values(), strict=True)), caption, prose)


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, without its caption."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "".join(f"| {' | '.join(map(escape_markdown, line))} |\n" for line in lines)


def escape_markdown(text: str) -> str:
    """Plain text as one line of Markdown, in which no character has a meaning of its own."""
    escaped = re.sub(r"([\\`*\[\]|]|\b_|_\b)", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_line(text: str) -> str:
    """The text with each run of whitespace as a space."""
    return " ".join(text.split())


def known(value: float | None, form: str) -> str:
    """The value in a format, nothing for None."""
    return "" if value is None else format(value, form)


def bits(value: float | None, sign: str = "") -> str:
    """Bits per byte, and before them the sign of a bound."""
    return f"{sign} {value:.4f}".strip() if value is not None else ""


def signed(difference: float, sign: str = "") -> str:
    """A difference of bits per byte, with its own sign after that of a bound."""
    return f"{sign} {difference:+.4f}".strip()


def interval(ends: tuple[float, float] | None, form: str = ".4f") -> str:
    """The two ends of an interval of bits per byte."""
    return f"{ends[0]:{form}} to {ends[1]:{form}}" if ends else ""


def whole(value: float | None) -> str:
    """A count, or a rate of which the fraction does not matter."""
    return known(value, ",.0f")


def power(value: float | None, digits: int = 3) -> str:
    """A number to a few digits, in powers of ten if it is large, such as 2.5e17."""
    text = known(value, f".{digits}g")
    return re.sub(r"e\+0*", "e", text)


def state(name: str, reason: str) -> str:
    """How a run stands, and why."""
    return f"{name}: {one_line(reason)}" if reason else name
