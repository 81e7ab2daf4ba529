"""The figures of `bytelm data describe`."""

import functools
import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from bytelm.data import description
from bytelm.data.config import DataConfig, Files, Mixture, Pairs, SpanCorruption, VowelRemoval
from bytelm.data.corpus.packing import Rows, pack
from bytelm.data.description import describe, patch_statistics, printable, statistics
from bytelm.data.open_data import OpenData
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.patching.patches import find_patches
from bytelm.patching.rules import find_edges


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


def test_prints_every_split_and_source(config, tmp_path, capsys):
    (tmp_path / "x.txt").write_text("[bold]not markup[/bold] \x1b[31m" * 2)
    with open(config.source.files[0], "a") as file:
        file.write("broken\n")
    parts = (
        Files(files=config.source.files, held_out=config.source.held_out, skip_bad=True),
        Files(files=(str(tmp_path / "x.txt"),), held_out=0.0, deduplicate=True),
    )
    describe(OpenData(replace(config, source=Mixture(sources=parts))), samples=1)
    text = capsys.readouterr().out
    assert text.count("repeated") == 1
    assert "documents.jsonl" in text
    assert "x.txt" in text
    assert text.count("validation") == 4
    assert "[bold]not markup[/bold] \\x1b[31m" in text
    assert "\x1b" not in text


def cells_of(line):
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_figures_of_a_source(config, documents, capsys):
    describe(OpenData(replace(config, source=replace(config.source, held_out=0.0))))
    line = next(line for line in capsys.readouterr().out.splitlines() if re.match("│ +train", line))
    characters = sum(len(document.decode()) for document in documents)
    total = sum(map(len, documents))
    assert cells_of(line) == ["train", "71", str(total), f"{total / characters:.3f}", "0", "0"]


def test_patches_end_with_their_row_and_document():
    """In rows of 8 (^ is START, $ is END): "^|ab |cd |e", "$|^|x |$|" and padding."""
    rows = Rows(pack([b"ab cd e", b"x "]), 8)
    found = patch_statistics("whitespace", rows)
    assert found.sizes.tolist() == [1, 3, 3, 1, 1, 1, 2, 1]
    assert found.per_row.tolist() == [4, 4]


def test_the_advised_room_is_enough_and_no_more():
    generator = np.random.default_rng(0)
    text = generator.choice([*b"abcdefg "], size=10_000).astype(np.uint8).tobytes()
    rule, rows = "words", Rows(pack([text]), 32)
    advised = patch_statistics(rule, rows).bytes_per_slot

    @functools.partial(jax.jit, static_argnums=2)
    def refused(ids, document_ids, capacity):
        edges, _ = find_edges(rule, ids, document_ids)
        patches = find_patches(edges.starts, document_ids, capacity)
        return patches.overflow / edges.starts.sum()

    batch = rows.batch(range(len(rows)))
    room = [
        batch["ids"],
        batch["document_ids"],
        SpaceByteConfig(bytes_per_slot=advised).capacity(32),
    ]
    assert refused(*room) < 0.001
    room[-1] -= 1
    assert refused(*room) >= 0.001


def test_patches_do_not_depend_on_how_many_rows_are_cut_at_once(documents, monkeypatch):
    rows = Rows(pack(documents), 16)
    together = patch_statistics("spacelike", rows)
    monkeypatch.setattr(description, "SYMBOLS_AT_ONCE", 7 * 16)
    in_turns = patch_statistics("spacelike", rows)
    np.testing.assert_array_equal(in_turns.sizes, together.sizes)
    np.testing.assert_array_equal(in_turns.per_row, together.per_row)


def test_patches_of_a_source(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(description, "PATCHED_BYTES", 30)
    (tmp_path / "x.txt").write_text("ab " * 50)
    config = DataConfig(
        source=Files(files=(str(tmp_path / "x.txt"),), held_out=0.0), sequence_length=16
    )
    describe(OpenData(config))
    text = capsys.readouterr().out
    assert "in rows of 16, over the first 30 bytes of train" in " ".join(text.split())
    rows = [cells_of(line) for line in text.splitlines()]
    # The rows are START and 5 words, and 5 words and END.
    assert ["whitespace", "2.67", "1", "1", "3", "3", "3", "2.66"] in rows
    assert {row[0] for row in rows} >= {"spacelike", "whitespace_run", "words"}


def test_patches_by_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(description, "PATCHED_BYTES_OF_SCRIPT", 30)
    lines = [{"text": "ab " * 5, "lang": "eng"}, {"text": "abcde " * 5, "lang": "deu"}] * 6
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = DataConfig(
        source=Files(files=(str(path),), script_key="lang", held_out=0.0),
        sequence_length=17,
        batch_size=1,
    )
    describe(OpenData(config))
    text = capsys.readouterr().out
    assert "and up to 30 of each script" in " ".join(text.split())
    rows = [cells_of(line) for line in text.splitlines()]
    (first,) = (number for number, row in enumerate(rows) if row[0] == "whitespace")
    assert [row[:2] for row in rows[first : first + 3]] == [
        ["whitespace", "all"],
        ["", "eng"],
        ["", "deu"],
    ]
    assert "whitespace_run" in {row[0] for row in rows}
    # Two documents of START, 5 words and END.
    assert rows[first + 1][2] == f"{2 * 17 / 14:.2f}"
    assert rows[first + 1][-1] == f"{100 * 17 // 7 / 100:.2f}"
    # A document of START, 5 words and END, in two rows.
    assert rows[first + 2][2] == f"{32 / 8:.2f}"


def test_no_scripts_where_none_are_known(config, capsys):
    describe(OpenData(config))
    assert "script" not in capsys.readouterr().out


def test_describes_pairs(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    lines = [{"text": "ab\x1b" * n, "fix": "abc" * n} for n in range(1, 6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = DataConfig(
        source=Files(files=(str(path),), target_key="fix", held_out=0.0), task=Pairs()
    )
    describe(OpenData(config), samples=2)
    text = capsys.readouterr().out
    assert "data.sequence_length 16 and data.target_length 16" in re.sub(r"\s+", " ", text)
    assert r"train: ab\x1b" in text
    assert "-> abcabc" in text
    rows = [cells_of(line) for line in text.splitlines() if "inputs │" in line]
    assert rows[0][:3] == ["train", "5", "inputs"]
    assert rows[0][5:] == ["9", "14", "15"]
    assert rows[1][:2] == ["validation", "0"]


def test_describes_a_diagnostic_task(capsys):
    describe(OpenData(DataConfig(task=VowelRemoval(), sequence_length=9)), samples=1)
    text = capsys.readouterr().out
    assert "│ 1,024 │" in text
    assert text.count("->") == 3


def test_describes_span_corruption(config, capsys):
    config = replace(config, task=SpanCorruption(), sequence_length=64)
    describe(OpenData(config), samples=2)
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "73 symbols of text become 64 inputs and 13 targets (spans: 1)" in text
    assert text.count("->") == 2
    assert r"\xff" in text
    assert "bytes per patch" in text
