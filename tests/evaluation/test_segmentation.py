import io
import json
import math
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START, Vocabulary
from bytelm.data.config import DataConfig
from bytelm.evaluation.segmentation import (
    print_segmentation,
    segmentation_json,
    segmentation_page,
    visible,
)
from bytelm.evaluation.suite import evaluate
from bytelm.inference.segmentation import Segmentation
from bytelm.patching.patches import LENGTHS
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.step import StepSetup, eval_step
from tests.inference.test_segmentation import by_hand
from tests.models.compiled import LENGTH, padded, split_model
from tests.models.families import FAMILIES

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
    for name, value in (("bytes_per_patch", lengths.mean()), ("boundary_enrichment", None)):
        low, high = report.figures[name].interval
        assert low < (value or report.figures[name].value) < high
    others = {"bytes_per_patch", "boundaries/rate", "overflow", "boundary_enrichment"}
    assert set(report.figures) == others | {
        *(f"bpb_at_lag/{lag}" for lag in ("1", "2", "3-4", "5-8")),
    }
    (details,) = report.results["segmentation"].details["levels"]
    assert details["patches"] == len(lengths) == sum(details["patches_by_length"].values())
    shares, lags = report.results["segmentation"].charts
    assert shares.bars == tuple(LENGTHS) and lags.bars == ("1", "2", "3-4", "5-8")
    assert sum(point.y for point in shares.series[0].paths[0]) == pytest.approx(1)


def test_figures_of_every_level_by_hand(monkeypatch):
    cut = by_hand(b"abcdefg", 2, 5, inner=((5,),))
    cut.nats[:] = math.log(2) * np.array([8, 1, 2, 4, 3, 5, 6])
    cut.levels[0].ignored[7] = True
    monkeypatch.setattr(LoadedModel, "segment_all", lambda *_, **options: [cut])
    report = evaluate(load("nested"), ["abcdefg"], ["segmentation"])
    wanted = {
        "bytes_per_patch": 7 / 3,
        "boundaries/rate": (1 + 3 + 1) / 8,  # START, three bytes, and one without a slot
        "overflow": 1 / 5,
        "bpb_at_lag/1": (8 + 1 + 4 + 6) / 4,
        "bpb_at_lag/2": (2 + 3) / 2,
        "bpb_at_lag/3-4": 5,
        "boundary_enrichment": (8 + 1 + 4 + 6) / 4 / (29 / 7),
        "bytes_per_patch/level_2": 7 / 2,
        "symbols_per_patch/level_2": 3 / 2,
        "boundaries/rate/level_2": 3 / 4,
        "overflow/level_2": 0,
        "bpb_at_lag/level_2/1": (8 + 1 + 6) / 3,
        "bpb_at_lag/level_2/2": 2,
        "bpb_at_lag/level_2/3-4": (4 + 3) / 2,
        "bpb_at_lag/level_2/5-8": 5,
        "boundary_enrichment/level_2": 5 / (29 / 7),
    }
    found = {name: figure.value for name, figure in report.figures.items()}
    assert found == pytest.approx(wanted)
    inner = report.results["segmentation"].details["levels"][1]
    assert inner == {
        "patches": 2,
        "patches_by_length": {**dict.fromkeys(LENGTHS, 0), "2": 1, "5-8": 1},
    }


@pytest.mark.parametrize("family", ["nested", "hat"])
def test_validation_and_evaluation_measure_the_same(family):
    """Of documents that fit in a row."""
    graphdef, params = split_model(FAMILIES[family])
    batch = padded(*([START, *text, END] for text in (b"one two three", b"a b  cd e")))
    setup = StepSetup(graphdef, None, Vocabulary(), {})
    sums = jax.jit(lambda params: eval_step(setup, params, batch))(params)
    trained = {figure.name: figure for ratio in sums.statistics for figure in ratio.figures}
    report = evaluate(load(family), [b"one two three", b"a b  cd e"], ["segmentation"])
    shared = [name for name in report.figures if name.startswith(("bpb_at_lag", "overflow"))]
    assert len(shared) >= 4
    for name in shared:
        assert report.figures[name].value == pytest.approx(trained[name].value, rel=1e-4)
        assert report.figures[name].unit == trained[name].unit


def test_no_boundaries_have_no_overflow(monkeypatch):
    cut = by_hand(b"abc")
    cut.levels[0].boundaries[:] = False
    monkeypatch.setattr(LoadedModel, "segment_all", lambda *_, **options: [cut])
    figures = evaluate(load("spacebyte"), ["abc"], ["segmentation"]).figures
    assert figures["overflow"].value == figures["boundaries/rate"].value == 0
    assert figures["boundary_enrichment"].value == 1


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


def test_bars_of_the_text_are_not_those_between_patches():
    text = rb"a|b\\xff" + b"\xff|"
    shown = printed(by_hand(text, 2, 4), color_system=None)
    assert shown.startswith(r"a\||b\\|\\xff\xff\|" + "\n\nof the text: " + r"\| and \\" + "\n\n")
    coloured = printed(by_hand(text, 2, 4), force_terminal=True, color_system="standard")
    plain = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert plain.startswith(r"a|b\\xff\xff|" + "\n\n10 bytes")


NESTED = b"one two three. four"
INNER = ((7, 14), (14,))


def test_inner_levels_have_more_bars():
    without = printed(by_hand(NESTED, 3, 7, 13, 14, inner=INNER), color_system=None)
    assert without.startswith("one| two|| three|.||| four\n")
    assert (
        "here start: | a patch of level 1, || a patch of level 2, ||| a patch of level 3" in without
    )
    assert (
        "level 2: 3 patches, 6.33 bytes per patch (longest 7), 1.67 of level 1 in each" in without
    )
    assert (
        "level 3: 2 patches, 9.50 bytes per patch (longest 14), 1.50 of level 2 in each" in without
    )
    shown = printed(
        by_hand(NESTED, 3, 7, 13, 14, inner=INNER), force_terminal=True, color_system="standard"
    )
    assert re.sub(r"\x1b\[[\d;]*m", "", shown).startswith("one two| three.|| four\n")
    assert "here start: | a patch of level 2, || a patch of level 3" in shown


def test_the_page_nests_the_patches_of_all_levels():
    page = segmentation_page(by_hand(NESTED, 3, 7, 13, 14, inner=INNER), "nested")
    text = re.search(r'<section class="text">(.*)</section>', page, re.DOTALL)[1]
    assert re.sub("<[^>]*>", "", text) == NESTED.decode()
    assert text.count("<span") == text.count("</span>") == 5 + 3 + 2
    titles = re.findall(r'title="([^"]*)"', text)
    assert titles[:3] == [
        "level 3: 14 bytes, 2 patches, 2.00 bits per byte",
        "level 2: 7 bytes, 2 patches, 2.00 bits per byte",
        "3 bytes, 2.00 bits per byte",
    ]
    assert "line-height" not in text and "1rem/3.4 monospace" in page


def test_json_nests_the_patches_of_all_levels():
    cut = by_hand(b"a\xffbc", 2, inner=((2,),))
    cut.nats[3] = math.inf
    found = json.loads(json.dumps(segmentation_json(cut), allow_nan=False))
    assert found == {
        "bytes": 4,
        "levels": 2,
        "patches": [
            {
                "start": 0,
                "bytes": 2,
                "bits": 4.0,
                "patches": [{"start": 0, "bytes": 2, "bits": 4.0, "text": "a\\xff"}],
            },
            {
                "start": 2,
                "bytes": 2,
                "bits": None,
                "patches": [{"start": 2, "bytes": 2, "bits": None, "text": "bc"}],
            },
        ],
    }


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
