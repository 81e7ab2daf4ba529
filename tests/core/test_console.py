"""What is shown is the text as it is, and nothing in it drives the terminal."""

import io
import logging
import re
from pathlib import Path

import pytest
from rich.live import Live
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

import bytelm
from bytelm.core.console import TerminalConsole
from bytelm.core.terminal_text import log_to_terminal

NAME = "[red]m\x1b[31m\udcff:smile:[/red]"
SHOWN = r"[red]m␛[31m\xff:smile:[/red]"


def test_names_are_shown_as_they_are_everywhere_in_a_table():
    table = Table(NAME, title=NAME, caption=NAME)
    table.add_row(NAME)
    table.add_row(Text(NAME))
    file = io.StringIO()
    console = TerminalConsole(file, width=80)
    console.print(table)
    console.print(NAME, Text(NAME))
    assert file.getvalue().count(SHOWN) == 7
    assert "\x1b" not in file.getvalue()


def test_what_the_encoding_lacks_is_escaped_before_it_is_measured():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    table = Table()
    table.add_row("\u65e5")
    TerminalConsole(file).print(table, "\u65e5")
    file.flush()
    assert rb"| \u65e5 |" in file.buffer.getvalue()


def test_a_live_display_still_moves_the_cursor():
    file = io.StringIO()
    console = TerminalConsole(file, width=80, force_terminal=True)
    progress = Progress(TextColumn("{task.description}", markup=False), console=console)
    progress.add_task("[b]\x1b[31m")
    with Live(progress, console=console, auto_refresh=False):
        pass
    assert "[b]␛[31" in file.getvalue()
    assert "\x1b[?25l" in file.getvalue()


def test_every_module_shows_things_so_alone():
    """What writes the bytes of texts, and JSON, needs no care: it is not for people, or says so."""
    root = Path(bytelm.__file__).parent
    exempt = {"terminal_text.py", "generate.py"}
    lines = [
        f"{path.name}: {line.strip()}"
        for path in root.rglob("*.py")
        if path.name not in exempt
        for line in path.read_text().splitlines()
        if re.match(r"\s+print\(|.*(?<![\w.])Console\(", line) and ">>>" not in line
    ]
    assert [line for line in lines if "to_json" not in line and "api.py" not in line] == []


@pytest.mark.parametrize("of_a_library", [False, True])
def test_log_records_are_made_visible(monkeypatch, capsys, of_a_library):
    handlers = [logging.StreamHandler()] if of_a_library else []
    monkeypatch.setattr(logging.root, "handlers", handlers)
    log_to_terminal()
    logging.getLogger("bytelm.data").warning("%s is damaged", NAME)
    assert capsys.readouterr().err == f"warning: {SHOWN} is damaged\n"
