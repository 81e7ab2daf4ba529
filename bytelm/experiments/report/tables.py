"""Tables of a report: their cells as text, and Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bytelm.core.figure import in_powers

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


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, below its caption."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    rows = "\n".join(f"| {' | '.join(map(escape_markdown, line))} |" for line in lines)
    return f"**{escape_markdown(table.caption)}**\n\n{rows}"


def escape_markdown(text: str) -> str:
    """Plain text as one line of Markdown, in which no character has a special meaning."""
    escaped = re.sub(r"([\\`*\[\]|]|\b_|_\b)", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_line(text: str) -> str:
    """The text with each run of whitespace as a space."""
    return " ".join(text.split())


def number_text(value: float | None, form: str) -> str:
    """A number in a format; "" for None."""
    return "" if value is None else format(value, form)


def bits_text(value: float | None, sign: str = "") -> str:
    """Bits per byte after the sign of a bound."""
    return "" if value is None else f"{sign} {value:.4f}".strip()


def difference_text(difference: float, sign: str = "") -> str:
    """A difference of bits per byte: the sign of a bound, then its own sign."""
    return f"{sign} {difference:+.4f}".strip()


def interval_text(ends: tuple[float, float] | None, form: str = ".4f") -> str:
    """Both ends of an interval of bits per byte."""
    return f"{ends[0]:{form}} to {ends[1]:{form}}" if ends else ""


def count_text(value: float | None) -> str:
    """A count, or a rate whose fraction does not matter."""
    return number_text(value, ",.0f")


def power_text(value: float | None, digits: int = 3) -> str:
    """A number to a few digits, such as 2.5e17; "" for None."""
    return "" if value is None else in_powers(value, digits)


def state_text(state: str, reason: str) -> str:
    """The state of a run, and why."""
    return f"{state}: {one_line(reason)}" if reason else state
