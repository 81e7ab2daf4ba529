"""Long work shows its progress; short work shows nothing."""

import io

from bytelm.data import progress
from bytelm.data.progress import TextProgress, counted, shown_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, file, seconds):
    clock = iter(float(seconds * step) for step in range(99))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys, "stderr", file)
    with TextProgress("packing [red]\x1b.txt", 4_000_000, done=1_000_000) as found:
        for _ in range(3):
            found.advance(1_000_000)
    return file.getvalue()


def test_one_line_where_there_is_no_terminal(monkeypatch):
    line = shown(monkeypatch, io.StringIO(), 2)
    assert line == "packing [red]\u241b.txt: 4.0 MB\n"


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = shown(monkeypatch, Terminal(), 2)
    assert "packing [red]\u241b.txt" in text
    assert "MB/s" in text and "4.0" in text


def test_nothing_of_what_is_short(monkeypatch):
    assert shown(monkeypatch, io.StringIO(), 0.1) == shown(monkeypatch, Terminal(), 0.1) == ""


def scored(monkeypatch, file):
    monkeypatch.setattr(progress.sys, "stderr", file)
    with shown_progress("scoring", 3000) as done:
        assert list(counted([bytes(1000), bytes(500)], done)) == [bytes(1000), bytes(500)]
    return file.getvalue()


def test_an_evaluation_shows_its_bytes_on_a_terminal_alone(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = scored(monkeypatch, Terminal())
    assert "scoring" in shown and "1.5/3.0 kB" in shown
    assert scored(monkeypatch, io.StringIO()) == ""
