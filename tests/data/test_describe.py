"""The figures of `bytelm data describe`."""

import io
import re
from dataclasses import replace

import pytest

from bytelm.data.config import DataConfig
from bytelm.data.describe import describe, printable, statistics


def test_statistics():
    found = statistics([b"ab", "é€".encode(), b"\xff\xff\xff", b""], samples=2)
    assert list(found.lengths) == [2, 5, 3, 0]
    assert (found.invalid, found.valid_bytes, found.characters) == (1, 7, 4)
    assert found.samples == [b"ab", "é€".encode()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"a\x1b[2J\n\0", r"a\x1b[2J\n\x00"),
        (b"\xff\xc3", r"\xff\xc3"),
        ("é\u202e\U0001f600".encode(), "é\\u202e\U0001f600"),
    ],
)
def test_samples_cannot_harm_the_terminal(text, shown):
    assert printable(text) == shown


def test_prints_every_split_and_source(config, tmp_path):
    (tmp_path / "x.txt").write_text("[bold]not markup[/bold] \x1b[31m" * 2)
    with open(config.files[0], "a") as file:
        file.write("broken\n")
    parts = (
        replace(config, skip_bad=True),
        DataConfig(files=(str(tmp_path / "x.txt"),), held_out=0.0),
    )
    output = io.StringIO()
    describe(replace(config, files=(), mixture=parts), samples=1, file=output)
    text = output.getvalue()
    assert "documents.jsonl" in text
    assert "x.txt" in text
    assert text.count("validation") == 4
    assert "[bold]not markup[/bold] \\x1b[31m" in text
    assert "\x1b" not in text


def test_figures_of_a_source(config, documents):
    output = io.StringIO()
    describe(replace(config, held_out=0.0), file=output)
    line = next(line for line in output.getvalue().splitlines() if re.match("│ +train", line))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    characters = sum(len(document.decode()) for document in documents)
    total = sum(map(len, documents))
    assert cells == ["train", "71", str(total), f"{total / characters:.3f}", "0", "0"]
