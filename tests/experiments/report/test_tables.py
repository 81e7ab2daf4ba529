"""Tables: which columns they have, and how figures are written."""

import pytest

from bytelm.core.figure import Figure, in_powers
from bytelm.core.statistics import STATISTICS, Statistic, recorded
from bytelm.evaluation.page.tables import escape_markdown, markdown
from bytelm.experiments.records import Heading, RunRecord
from bytelm.experiments.report.summary import gather
from bytelm.experiments.report.tables import (
    interval_text,
    number_text,
    result_columns,
    state_text,
    tabulate,
)

COLUMNS = {"name": str, "length": lambda word: number_text(len(word)), "nothing": lambda word: ""}


def test_columns_that_are_empty_throughout_are_left_out():
    table = tabulate(["to", "be|or"], COLUMNS, caption="A | B")
    assert (table.columns, table.rows) == (("name", "length"), (("to", "2"), ("be|or", "5")))
    assert markdown(table).splitlines() == [
        "**A | B**".replace("|", r"\|"),
        "",
        "| name | length |",
        "| --- | --- |",
        "| to | 2 |",
        r"| be\|or | 5 |",
    ]


def test_a_table_of_nothing():
    assert tabulate([], COLUMNS).rows == ()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("<b> & co", "&lt;b&gt; &amp; co"),
        ("a_b _c_", r"a_b \_c\_"),
        ("*x* [y] `z`", r"\*x\* \[y\] \`z\`"),
        ("two\n lines", "two lines"),
    ],
)
def test_markdown_is_escaped(text, escaped):
    assert escape_markdown(text) == escaped


def test_figures():
    assert number_text(None) == number_text(None, in_powers) == interval_text(None) == ""
    assert number_text(0.0, ".4f") == "0.0000" and number_text(1234567.0) == "1,234,567"
    assert interval_text((1, 2.5)) == "1.0000 to 2.5000"
    powers = [number_text(x, in_powers) for x in (1e17, 2.468e15, 512, 1e5)]
    assert powers == ["1e17", "2.47e15", "512", "1e5"]
    assert in_powers(1.125e15, digits=6) == "1.125e15"
    assert state_text("done", "") == "done" and state_text("failed", "a\nb") == "failed: a b"


@pytest.fixture
def own():
    yield Statistic("bytes_per_word", "share")
    del STATISTICS["bytes_per_word"]


def test_a_statistic_that_nobody_knows_has_a_column(own):
    figures = {"bytes_per_word": recorded("bytes_per_word", 0.5), "plain": Figure("plain", 1.0)}
    entries = gather([RunRecord("one", "books", 1e14, 0, "done", figures=figures)])
    heading = Heading("title", "steps", "one", "command", "machine")
    columns = result_columns(heading, entries)
    assert columns["bytes/word"](entries[0]) == "50.00%"
    assert "plain" not in columns
