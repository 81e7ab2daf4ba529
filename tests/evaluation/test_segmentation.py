import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.evaluation.segmentation import print_segmentation, segmentation_page, visible
from bytelm.evaluation.suite import evaluate
from bytelm.inference.segmentation import Segmentation
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.inference.test_segmentation import by_hand
from tests.models.families import FAMILIES, LENGTH, split_model

TEXTS = ["one two three", "", "some more words here", "naïve  日本"] * 4


def load(family):
    config = ExperimentConfig(model=FAMILIES[family], data=DataConfig(sequence_length=LENGTH))
    return LoadedModel(SavedModel(config, 7, *split_model(FAMILIES[family]), {}))


def test_figures_are_sums_over_the_documents():
    model = load("spacebyte")
    report = evaluate(model, TEXTS, ["segmentation"])
    cut = model.segment_all([text for text in TEXTS if text])
    lengths = np.concatenate([found.lengths for found in cut])
    assert report.figures["bytes_per_patch"].value == pytest.approx(lengths.mean())
    low, high = report.figures["bytes_per_patch"].interval
    assert low < lengths.mean() < high
    words = [found.word_agreement for found in cut]
    hits, expected = (sum(getattr(w, name) for w in words) for name in ("hits", "expected"))
    assert report.figures["word_start/recall"].value == pytest.approx(hits / expected)
    assert set(report.figures) == {"bytes_per_patch"} | {
        f"{start}/{measure}"
        for start in ("word_start", "whitespace_start")
        for measure in ("precision", "recall", "f1")
    }
    details = report.results["segmentation"].details
    assert details["patches"] == len(lengths) == sum(details["patches_by_length"].values())


def test_texts_and_models_without_patches():
    with pytest.raises(UserError, match="no bytes"):
        evaluate(load("spacebyte"), [""], ["segmentation"])
    with pytest.raises(UserError, match="needs a model with patches"):
        evaluate(load("transformer"), TEXTS, ["segmentation"])


def printed(segmentation: Segmentation, **options) -> str:
    out = io.StringIO()
    print_segmentation(segmentation, Console(file=out, width=30, **options))
    return out.getvalue()


def test_patches_on_a_terminal_alternate_and_cannot_drive_it():
    colours = {"force_terminal": True, "color_system": "standard"}
    shown = printed(by_hand(b"one\x1b[2Jtwo [red]", 3, 7), **colours)
    assert "␛[2J" in shown and "\x1b[2J" not in shown and "[red]" in shown
    styles = re.findall(r"\x1b\[([\d;]+)m(one|␛\[2J|two \[red])", shown)
    assert [text for _, text in styles] == ["one", "␛[2J", "two [red]"]
    assert styles[0][0] == styles[2][0] != styles[1][0]


def test_patches_without_colours_have_bars_between_and_figures_below():
    shown = printed(by_hand(b"a long line that is not wrapped: it\nis", 6, 7), color_system=None)
    assert shown.startswith("a long| |line that is not wrapped: it␊\nis\n")
    for figure in ("38 bytes, 3 patches, 12.67 bytes per patch", "2.0000 bits per byte", "5.00"):
        assert figure in shown
    assert "precision 50.0%, recall 12.5%, F1 20.0%" in shown
    assert re.search(r"\n +1 .*1 \(33\.3%\)\n +2 +0 \(0\.0%\)\n", shown)


def test_a_character_cut_in_two_and_bytes_that_are_none():
    text = "é".encode() + b"\xff"
    assert printed(by_hand(text, 1)).startswith(r"\xc3|\xa9\xff")
    assert visible("é日".encode()) == "é日"
    assert visible(bytes(range(32)) + b"\x7f").isprintable() is False  # its tab and line end
    assert visible(bytes(range(32)) + b"\x7f").replace("\t", "").replace("\n", "").isprintable()


def test_the_page_is_escaped_and_complete_in_itself():
    text = b'<script>alert("1")</script> & {braces}'
    page = segmentation_page(by_hand(text, 8, 20), "run <1>")
    assert "<script" not in page and "<1>" not in page
    assert "&lt;script&gt;</span>" in page and "&amp; {braces}</span>" in page
    assert "run &lt;1&gt;" in page
    assert 'title="8 bytes, 2.00 bits per byte"' in page
    assert not re.search(r"https?:|src=|href=|@import|url\(", page)
    assert "light dark" in page


def test_the_page_colours_patches_by_their_bits():
    cheap, dear = by_hand(b"aabb", 2), by_hand(b"aabb", 2)
    dear.nats[2:] = 9.0
    colours = [
        re.findall(r"border-color:(#\w{6})", segmentation_page(s, "")) for s in (cheap, dear)
    ]
    assert colours[0][0] == colours[0][1]
    assert colours[1][0] != colours[1][1]
    infinite = by_hand(b"aabb", 2, bits=math.inf)
    assert "inf bits per byte" in segmentation_page(infinite, "")


def test_agreement_with_words_is_printed():
    line = "patches that start at the whitespace before a word: precision 100.0%"
    assert line in printed(by_hand(b"one two  three\n four", 3, 7, 14))


def test_one_of_a_kind_is_singular():
    assert printed(by_hand(b"x")).count("1 byte, 1 patch, 1.00 bytes per patch") == 1
