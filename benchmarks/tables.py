"""Tables of measurements."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bytelm.training.hardware import describe_machine


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table (first column left, the others right) and the machine."""
    table = Table(title=title, caption=describe_machine())
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
