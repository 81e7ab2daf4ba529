"""Tables: which columns they have, and how figures are written."""

import pytest

from bytelm.experiments.report.tables import (
    bits_text,
    count_text,
    difference_text,
    escape_markdown,
    interval_text,
    markdown,
    number_text,
    power_text,
    state_text,
    tabulate,
)

COLUMNS = {"name": str, "length": lambda word: count_text(len(word)), "nothing": lambda word: ""}


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
    assert (
        number_text(None, ".4f")
        == bits_text(None)
        == count_text(None)
        == power_text(None)
        == interval_text(None)
        == ""
    )
    assert bits_text(0.0) == "0.0000" and bits_text(1.23456, "≤") == "≤ 1.2346"
    assert difference_text(-0.5) == "-0.5000" and difference_text(0.25, "≥") == "≥ +0.2500"
    assert interval_text((1, 2.5)) == "1.0000 to 2.5000"
    assert count_text(1234567.0) == "1,234,567"
    assert [power_text(x) for x in (1e17, 2.468e15, 512, 1e5)] == ["1e17", "2.47e15", "512", "1e5"]
    assert power_text(1.125e15, digits=6) == "1.125e15"
    assert state_text("done", "") == "done" and state_text("failed", "a\nb") == "failed: a b"
